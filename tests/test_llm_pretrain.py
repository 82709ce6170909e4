import contextlib
import dataclasses
import json
import math
import shutil
import signal
import sys
import types

import jax
import numpy as np
import pytest

from assocjax import InputError, InputTypeError, cli, llm
from assocjax.corpora import Documents, read_documents
from assocjax.llm import pretrain, recipe
from assocjax.llm.files import find_model
from assocjax.storage.checkpoints import Checkpoints

CONFIG = llm.PretrainConfig(
    vocab_size=300, seq_len=16, batch_size=4, steps=6, num_layers=2, width=16, num_heads=2
)
STEPS = ["step0", "step1", "step2", "step4", "step6"]


@pytest.fixture(scope="module", autouse=True)
def as_users_have_it():
    """optax mixes integers and floats, and nothing of the extra llm is needed."""
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        for library in ("torch", "transformers"):
            patch.setitem(sys.modules, library, None)
        yield


@pytest.fixture(scope="module")
def documents() -> Documents:
    return read_documents("fables", num_documents=12)


@pytest.fixture(scope="module")
def whole(documents, tmp_path_factory):
    """A run that nothing stopped: its folder and its record."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, llm.pretrain_tiny(documents, folder, CONFIG)


def test_every_revision_is_saved(whole, documents):
    folder, record = whole
    expected = [".assocjax.json", "pretraining.json", *STEPS]
    assert sorted(path.name for path in folder.iterdir()) == expected
    assert list(record["revisions"]) == STEPS
    for step in STEPS:
        assert llm.weight_hashes(folder, step) == record["revisions"][step]
        model, _ = llm.load_decoder(folder, step)
        assert (model.name, model.config.num_layers, model.config.num_heads) == ("neox", 2, 2)


def test_the_record_says_how_it_was_made(whole, documents):
    folder, record = whole
    assert json.loads((folder / "pretraining.json").read_text()) == record
    assert record["config"] == dataclasses.asdict(CONFIG) | {
        "corpus": "fables",
        "corpus_sha256": documents.sha256,
    }
    assert llm.find_recipe(folder / "pretraining.json") == recipe.pretrain_recipe(CONFIG)
    assert record["corpus"]["documents"] == 12
    assert {"jax", "optax", "tokenizers", "assocjax"} <= record["versions"].keys()
    assert record["complete"]
    assert len(record["losses"]) == CONFIG.steps


def test_losses_are_those_of_the_batches_before_each_update(whole, documents):
    folder, record = whole
    _, sequences = pretrain.tokenize_corpus(documents, CONFIG)
    for step in (0, 1, 2, 4):
        model, params = llm.load_decoder(folder, f"step{step}")
        batch = sequences[pretrain._order(CONFIG, len(sequences), step)]
        z = np.asarray(model.logits(params, batch[:, :-1]), np.float64)
        log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
        expected = -np.mean(np.take_along_axis(log_p, batch[:, 1:, None], -1))
        np.testing.assert_allclose(record["losses"][step], expected, rtol=1e-5)
    assert record["losses"][0] == pytest.approx(math.log(300), rel=0.1)
    assert np.mean(record["losses"][-2:]) < record["losses"][0]


def test_sequences_are_all_documents_in_a_row(documents):
    tokenizer, sequences = pretrain.tokenize_corpus(documents, CONFIG)
    stream = [i for text in documents.documents for i in [*tokenizer.encode(text).ids, 0]]
    T = CONFIG.seq_len
    for n in (0, 1, len(sequences) - 1):
        assert sequences[n].tolist() == stream[n * T : (n + 1) * T + 1]
    assert len(sequences) == (len(stream) - 1) // T


def test_the_end_of_a_text_written_in_it_is_text(documents):
    said = "the token <|endoftext|> ends it <|endoftext|>"
    texts = Documents("said", (said, *documents.documents), "0" * 64)
    tokenizer, sequences = pretrain.tokenize_corpus(texts, CONFIG)
    stream = np.append(sequences[:, :-1].ravel(), sequences[-1, -1])
    (ends,) = np.nonzero(stream == 0)
    assert tokenizer.decode(stream[: ends[0]].tolist()) == said
    # One for each document, as far as whole sequences reach.
    assert len(ends) in (len(texts.documents), len(texts.documents) - 1)


def test_an_epoch_reads_every_sequence_once():
    config = dataclasses.replace(CONFIG, batch_size=3)
    batches = [pretrain._order(config, 10, step) for step in range(6)]
    first, second = (np.concatenate(batches[at : at + 3]) for at in (0, 3))
    for epoch in (first, second):  # the tenth waits for its luck
        assert len(set(epoch.tolist())) == 9
    assert first.tolist() != second.tolist()
    other = pretrain._order(dataclasses.replace(config, seed=1), 10, 0)
    assert other.tolist() != batches[0].tolist()
    ordered = pretrain._order(dataclasses.replace(config, order_seed=1), 10, 0)
    assert ordered.tolist() == other.tolist()


# Stopped and resumed


class CtrlC:
    """In the step after so many; so many times."""

    def __init__(self, step, times=1):
        self.step, self.times = step, times

    def __call__(self, done, total):
        if done == self.step:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


def test_stopped_and_resumed_gives_the_same_bits(whole, documents, tmp_path):
    _, record = whole
    handler = signal.getsignal(signal.SIGINT)
    # Ctrl-C waits for its step; twice, it stops at once, and what was saved before counts.
    for step, times, saved, message in ((2, 1, 3, "3 of 6 steps are saved in .*"), (4, 2, 4, "^$")):
        with pytest.raises(KeyboardInterrupt, match=message):
            llm.pretrain_tiny(documents, tmp_path, CONFIG, progress=CtrlC(step, times))
        assert signal.getsignal(signal.SIGINT) is handler
        partial = json.loads((tmp_path / "pretraining.json").read_text())
        assert not partial["complete"]
        assert partial["losses"] == record["losses"][:saved]
    assert llm.pretrain_tiny(documents, tmp_path, CONFIG) == record
    assert not (tmp_path / "unfinished").exists()


def test_a_full_disk_leaves_what_was_saved(whole, documents, tmp_path, monkeypatch):
    _, record = whole
    save = Checkpoints.save

    def full(self, done, carry, observed):
        if done == 4:
            with monkeypatch.context() as patch:
                patch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=0))
                save(self, done, carry, observed)
        save(self, done, carry, observed)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", full)
        with pytest.raises(InputError, match=r"cannot write .*: No space left.* to resume"):
            llm.pretrain_tiny(documents, tmp_path, CONFIG)
    # step4 is there, the state is of step 2: it is made again.
    calls = []
    resumed = llm.pretrain_tiny(
        documents, tmp_path, CONFIG, progress=lambda done, _: calls.append(done)
    )
    assert calls == [2, 3, 4, 5, 6]
    assert resumed == record


def test_a_complete_run_is_only_read(whole, documents, monkeypatch):
    folder, record = whole
    monkeypatch.setattr(pretrain, "initial_model", None)
    assert llm.pretrain_tiny(documents, folder, CONFIG) == record


def test_another_configuration_is_refused(whole, documents):
    folder, _ = whole
    with pytest.raises(InputError, match=r"its seed is 0, here it is 1; choose another folder"):
        llm.pretrain_tiny(documents, folder, dataclasses.replace(CONFIG, seed=1))
    other = documents._replace(sha256="0" * 64)
    with pytest.raises(InputError, match=r"not the same text"):
        llm.pretrain_tiny(other, folder, CONFIG)


def test_a_damaged_state_is_named(documents, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        llm.pretrain_tiny(documents, tmp_path, CONFIG, progress=CtrlC(1))
    for file in (tmp_path / "unfinished").rglob("*"):
        if file.is_file() and file.stat().st_size > 10_000:
            file.write_bytes(b"none of that")
    with pytest.raises(InputError, match=r"checkpoint in .* cannot be read here .*another folder"):
        llm.pretrain_tiny(documents, tmp_path, CONFIG)


def test_a_state_of_earlier_versions_is_another_computation(documents, tmp_path):
    """Its identity had the versions of torch and transformers."""
    with pytest.raises(KeyboardInterrupt):
        llm.pretrain_tiny(documents, tmp_path, CONFIG, progress=CtrlC(1))
    marker = tmp_path / ".assocjax.json"
    content = json.loads(marker.read_text())
    content["identity"]["torch"] = "2.6.0"
    marker.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"unfinished result of another .*torch.*--overwrite"):
        llm.pretrain_tiny(documents, tmp_path, CONFIG)


def test_the_seed_decides(whole, documents, tmp_path):
    _, record = whole
    short = dataclasses.replace(CONFIG, steps=0)
    same = llm.pretrain_tiny(documents, tmp_path / "0", short)
    other = llm.pretrain_tiny(documents, tmp_path / "1", dataclasses.replace(short, seed=1))
    assert same["revisions"]["step0"] == record["revisions"]["step0"]
    assert other["revisions"]["step0"] != record["revisions"]["step0"]


# The recipe


def test_revisions():
    assert recipe.revisions(512) == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert recipe.revisions(6) == [0, 1, 2, 4, 6]
    assert recipe.revisions(1) == [0, 1]
    assert recipe.revisions(0) == [0]


def test_learning_rate_warms_up_and_falls_to_a_tenth():
    def schedule(steps):
        return recipe.pretrain_recipe(llm.PretrainConfig(learning_rate=0.5, steps=steps))

    rates = 2 * np.asarray(schedule(1000).rate(np.arange(1000)))
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10, rtol=1e-6)
    assert max(rates) == rates[9] == 1
    assert all(np.diff(rates[9:]) < 0)
    assert rates[-1] == pytest.approx(0.1)
    assert rates[9 + 495] == pytest.approx(0.55)  # halfway down
    assert schedule(1).rate(0) == 0.5


# Bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": -1}, InputError, "steps must be at least 0; got -1"),
        ({"num_layers": 0}, InputError, "num_layers must be at least 1; got 0"),
        ({"seed": 0.5}, InputTypeError, "seed must be an integer; got float"),
        ({"learning_rate": math.nan}, InputError, "learning_rate must be finite"),
        ({"width": 18, "num_heads": 4}, InputError, "multiple of num_heads.* got 18 for 4 heads"),
        ({"width": 16, "num_heads": 4}, InputError, "at least 8 times it; got 16 for 4 heads"),
    ],
)
def test_bad_configurations(options, error, message):
    with pytest.raises(error, match=message):
        llm.PretrainConfig(**options)


def test_a_corpus_shorter_than_a_batch(documents, tmp_path):
    short = Documents("short", documents.documents[:1], "0" * 64)
    with pytest.raises(
        InputError, match=r"short gives \d sequences of 64 positions, fewer than the 4"
    ):
        llm.pretrain_tiny(short, tmp_path, dataclasses.replace(CONFIG, seq_len=64, vocab_size=100))


def test_a_loss_that_is_not_finite_ends_it(documents, tmp_path):
    wild = dataclasses.replace(CONFIG, learning_rate=1e30)
    with pytest.raises(InputError, match=r"learning_rate: the loss of step \d is (nan|inf)"):
        llm.pretrain_tiny(documents, tmp_path, wild)


# The command


ARGUMENTS = [
    "--corpus",
    "fables",
    "--num-documents",
    "12",
    "--vocab-size",
    "300",
    "--seq-len",
    "16",
    "--batch-size",
    "4",
    "--steps",
    "6",
    "--num-layers",
    "2",
    "--width",
    "16",
    "--num-heads",
    "2",
]


@contextlib.contextmanager
def ctrl_c_at_2(what):
    yield CtrlC(2)


def test_the_command_stops_goes_on_and_is_repeated(whole, tmp_path, capsys, monkeypatch):
    _, record = whole
    command = ["pretrain-tiny", *ARGUMENTS, "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr("assocjax.cli.pretrain_tiny.progress_bar", ctrl_c_at_2)
        with pytest.raises(SystemExit) as stop:
            cli.main(command)
    assert stop.value.code == 130
    assert "3 of 6 steps are saved" in capsys.readouterr().err
    cli.main(command)
    captured = capsys.readouterr()
    cli.main(command)  # and once more
    first, _, again = capsys.readouterr().out.partition("\n")
    assert first.startswith("already complete")
    assert captured.out.endswith(again)
    assert "Loss in nats" in again
    assert "fables: 12 documents" in captured.out
    assert f"{record['losses'][4]:.4f}".rstrip("0") in captured.out
    assert "step0, step1, step2, step4, step6" in captured.out.replace("\n", " ")
    assert captured.err == ""
    assert json.loads((tmp_path / "pretraining.json").read_text()) == record
    assert find_model(tmp_path, "step6").weights == ("model.safetensors",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "-1"], '"-1" for --seed. Must be >= 0'),
        (["--corpus", "fabels"], "unknown corpus 'fabels'"),
        (["--seed", "1"], "its --seed is 0, here it is 1"),
    ],
)
def test_bad_input_of_the_command_is_one_line(options, message, whole, capsys):
    folder, _ = whole
    with pytest.raises(SystemExit) as stop:
        cli.main(["pretrain-tiny", *ARGUMENTS, *options, "--out", str(folder)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("assocjax: ")
    assert message in line

import contextlib
import dataclasses
import json
import math
import signal
import sys

import numpy as np
import pytest
import tiny_models as tiny
from tiny_models import torch, transformers

from assocjax import InputError, InputTypeError, cli, llm
from assocjax.corpora import Documents, read_documents
from assocjax.llm import pretrain, recipe
from assocjax.llm.files import find_model

CONFIG = llm.PretrainConfig(
    vocab_size=300, seq_len=16, batch_size=4, steps=6, num_layers=2, width=16, num_heads=2
)
STEPS = ["step0", "step1", "step2", "step4", "step6"]


@pytest.fixture(scope="module")
def documents() -> Documents:
    return read_documents("fables", num_documents=12)


@pytest.fixture(scope="module")
def whole(documents, tmp_path_factory):
    """A run that nothing stopped: its folder and its record."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, llm.pretrain_tiny(documents, folder, CONFIG)


def test_every_revision_loads(whole, documents):
    folder, record = whole
    expected = [".assocjax.json", "pretraining.json", *STEPS]
    assert sorted(path.name for path in folder.iterdir()) == expected
    assert list(record["revisions"]) == STEPS
    for step in STEPS:
        model = llm.load_model(folder, step)
        assert (model.family, model.num_layers, model.num_heads, model.width) == (
            "gpt_neox",
            2,
            2,
            16,
        )
        assert model.vocab_size == record["corpus"]["vocab_size"] == 300
        assert model.file_hashes == record["revisions"][step]
        text = documents.documents[0]
        assert model.tokenizer.decode(model.tokenize(text)) == text
        assert model.tokenizer.convert_tokens_to_ids("<|endoftext|>") == 0


def test_plain_transformers_reads_a_revision(whole):
    folder, _ = whole
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "step2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "step2")
    assert isinstance(model, transformers.GPTNeoXForCausalLM)
    assert model.config.use_parallel_residual
    assert not model.config.tie_word_embeddings
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.eos_token_id == model.config.eos_token_id == 0


def test_the_record_says_how_it_was_made(whole, documents):
    folder, record = whole
    assert json.loads((folder / "pretraining.json").read_text()) == record
    assert record["config"] == dataclasses.asdict(CONFIG) | {
        "corpus": "fables",
        "corpus_sha256": documents.sha256,
    }
    assert record["corpus"]["documents"] == 12
    assert {"torch", "transformers", "assocjax"} <= record["versions"].keys()
    assert record["complete"]
    assert len(record["losses"]) == CONFIG.steps


def test_losses_are_those_of_the_batches_before_each_update(whole, documents):
    folder, record = whole
    _, sequences = pretrain._tokenize(documents, CONFIG)
    for step in (0, 1, 2, 4):
        model = llm.load_model(folder, f"step{step}", device="cpu").module
        batch = sequences[pretrain._order(CONFIG, len(sequences), step)]
        z = tiny.logits(model, batch[:, :-1]).astype(np.float64)
        log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
        expected = -np.mean(np.take_along_axis(log_p, batch[:, 1:, None], -1))
        np.testing.assert_allclose(record["losses"][step], expected, rtol=1e-5)
    assert record["losses"][0] == pytest.approx(math.log(300), rel=0.02)
    assert record["losses"][-1] < record["losses"][0]


def test_sequences_are_all_documents_in_a_row(documents):
    tokenizer, sequences = pretrain._tokenize(documents, CONFIG)
    stream = [i for text in documents.documents for i in [*tokenizer.encode(text).ids, 0]]
    T = CONFIG.seq_len
    for n in (0, 1, len(sequences) - 1):
        assert sequences[n].tolist() == stream[n * T : (n + 1) * T + 1]
    assert len(sequences) == (len(stream) - 1) // T


def test_the_end_of_a_text_written_in_it_is_text(documents):
    said = "the token <|endoftext|> ends it <|endoftext|>"
    texts = Documents("said", (said, *documents.documents), "0" * 64)
    tokenizer, sequences = pretrain._tokenize(texts, CONFIG)
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


def test_a_state_that_a_gpu_saved_goes_on_without_one(whole, documents, tmp_path, monkeypatch):
    _, record = whole

    def tagged(storage):  # what torch asks where a tensor is, as it saves it
        return "cuda:0"

    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", tagged)
        with pytest.raises(KeyboardInterrupt):
            llm.pretrain_tiny(documents, tmp_path, CONFIG, progress=CtrlC(2))
    with pytest.raises(RuntimeError, match="CUDA"):  # so the tag is there
        torch.load(tmp_path / "unfinished" / "state.pt", weights_only=True)
    assert llm.pretrain_tiny(documents, tmp_path, CONFIG) == record


def test_a_full_disk_leaves_what_was_saved(whole, documents, tmp_path, monkeypatch):
    _, record = whole
    save = torch.save

    def full(state, path):
        if state["done"] == 4:
            path.write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        save(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
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
    with pytest.raises(InputError, match=r"its corpus_sha256 is"):
        llm.pretrain_tiny(other, folder, CONFIG)


def test_damaged_files_are_named(documents, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        llm.pretrain_tiny(documents, tmp_path, CONFIG, progress=CtrlC(1))
    state = tmp_path / "unfinished" / "state.pt"
    state.write_bytes(b"none of that")
    message = r"state.pt cannot be read here \(torch did not save it.*another folder"
    with pytest.raises(InputError, match=message) as error:
        llm.pretrain_tiny(documents, tmp_path, CONFIG)
    assert "delete" not in str(error.value)
    assert state.read_bytes() == b"none of that"


def test_the_seed_decides_and_leaves_torch_alone(whole, documents, tmp_path):
    _, record = whole
    short = dataclasses.replace(CONFIG, steps=0)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    same = llm.pretrain_tiny(documents, tmp_path / "0", short)
    assert torch.equal(torch.rand(3), expected)
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
    rates = [recipe.rate_factor(step, 1000) for step in range(1, 1001)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    assert max(rates) == rates[9] == 1
    assert all(np.diff(rates[9:]) < 0)
    assert rates[-1] == pytest.approx(0.1)
    assert rates[9 + 495] == pytest.approx(0.55)  # halfway down
    assert recipe.rate_factor(1, 1) == 1


def test_initial_weights_are_those_of_pythia():
    config = dataclasses.replace(CONFIG, width=64, num_layers=3, num_heads=4)
    small, residual = math.sqrt(2 / (5 * 64)), 2 / (3 * 8)
    for name, weight in recipe.initial_model(config, 400).named_parameters():
        if name.endswith("bias"):
            assert not weight.any(), name
        elif "norm" in name:
            assert (weight == 1).all(), name
        else:
            writes = "attention.dense" in name or "4h_to_h" in name
            expected = residual if writes else small
            # Five standard errors of the sd of 4,096 values or more.
            assert weight.std().item() == pytest.approx(expected, rel=0.06), name


def test_an_update_is_that_of_adamw():
    """From zero moments: w - rate (g / |g| + decay w), the gradient clipped at norm 1."""
    model = recipe.initial_model(CONFIG, 300)
    optimizer = recipe.make_optimizer(model)
    batch = torch.randint(300, (4, 17), generator=torch.Generator().manual_seed(0))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    loss = torch.nn.functional.cross_entropy(
        model(input_ids=batch[:, :-1]).logits.transpose(1, 2), batch[:, 1:]
    )
    gradients = dict(zip(before, torch.autograd.grad(loss, model.parameters()), strict=True))
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
    assert norm > 1  # so that it is clipped
    assert recipe.update(model, optimizer, batch, 1e-2) == pytest.approx(loss.item(), rel=1e-6)
    for name, weight in model.named_parameters():
        g = gradients[name] / norm
        w = before[name]
        decay = 0.1 if w.ndim > 1 else 0.0
        expected = w - 1e-2 * (g / (g.abs() + 1e-8) + decay * w)
        # Entries whose gradient is near AdamW's epsilon depend on its rounding.
        sure = g.abs() > 1e-6
        np.testing.assert_allclose(weight.detach()[sure], expected[sure], rtol=0, atol=2e-5)


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
    with pytest.raises(InputError, match=r"learning_rate: the loss of step \d is nan"):
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
    assert capsys.readouterr() == captured
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
        (["--seed", "1"], "its seed is 0, here it is 1"),
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


def test_the_command_without_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SystemExit):
        cli.main(["pretrain-tiny", *ARGUMENTS])
    assert "pip install 'assocjax[llm]'" in capsys.readouterr().err

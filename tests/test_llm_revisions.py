"""Checkpoints beside the theory of a text: numbers, resuming, refusals, figures, command line."""

import collections
import dataclasses
import fnmatch
import hashlib
import json
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tiny_models as tiny
import xarray as xr

import assocjax as aj
from assocjax import cli, figures, llm
from assocjax.errors import InputError, InputTypeError
from assocjax.llm import revisions as module
from assocjax.llm import texts
from assocjax.storage import MARKER, results

N, T, SHUFFLES = 14, 12, 4
REVISIONS = ["step0", "step4", "step16"]
SMALL = {"num_tokens": N, "min_count": 1, "num_shuffles": SHUFFLES, "num_bins": 3}
WORDS = ["a", "bird", "flew", "over", "the", "pond", "fish", "swam", "in", "saw", "the", "a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """step4 has step0's weights, in other bytes; step16 has one tensor of them."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("models")
    first, last = tiny.random_model("neox"), tiny.random_model("sequential neox")
    last.lm_head.weight.copy_(first.lm_head.weight)
    for step, model in ((0, first), (4, first), (16, last)):
        tiny.save(model, folder / f"step{step}")
    state = load_file(folder / "step4/model.safetensors")
    save_file(state, folder / "step4/model.safetensors", {"format": "pt", "of": "another day"})
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    rng = np.random.default_rng(0)
    stories = [" ".join(rng.choice(WORDS, size=rng.integers(6, 40))) for _ in range(30)]
    path = tmp_path_factory.mktemp("text") / "ponds.txt"
    path.write_text("<|endoftext|>".join(stories))
    return path


@pytest.fixture(scope="module")
def data(folder, text):
    return llm.tokens_of_model(folder, "step0", text, seq_len=T)


def run_command(folder, text, out, revisions=REVISIONS, *more):
    """`assocjax compare`, and what it says in plain lines."""
    command = ["compare", str(folder), "--revisions", ",".join(revisions), "--corpus", str(text)]
    command += ["--seq-len", str(T), "--num-tokens", str(N), "--shuffles", str(SHUFFLES)]
    with pytest.MonkeyPatch.context() as patch:
        # Drawing in both formats takes seconds; figures are tested below.
        patch.setattr("assocjax.figures.save", lambda figure, path, into: [Path(f"{path}.png")])
        cli.main([*command, "--bins", "3", "--min-count", "1", "--out", str(out), *more])
    report = json.loads((out / MARKER).read_text())["command"]["report"]
    return " ".join(part["line"] for part in report if "line" in part)


@pytest.fixture(scope="module")
def finished(folder, text, tmp_path_factory):
    """What the command leaves, and prints."""
    out = tmp_path_factory.mktemp("out")
    return out, run_command(folder, text, out)


@pytest.fixture(scope="module")
def dataset(finished):
    return aj.load(finished[0] / "comparison.nc")


def test_the_page_of_a_comparison(finished, dataset, tmp_path):
    page = tmp_path / "page.html"
    cli.main(["explore", str(finished[0] / "comparison.nc"), "--out", str(page)])
    meta = json.loads(re.search(r'id="meta">(.*?)</script>', page.read_text("utf-8"))[1])
    assert meta["axes"]["revision"] == dataset["revision"].values.tolist()
    assert meta["counts"] == dataset["token_count"].values.tolist()
    assert len(meta["shared"]) == len(json.loads(dataset.attrs["shared_weights"]))
    assert (abs(dataset["top_share"]) <= 1).all()
    assert (dataset["top_token"] < dataset.sizes["token"]).all()


# A text in a model's tokens


def test_a_text_in_the_tokens_of_a_model(data, folder, text):
    model = llm.load_model(folder, "step0")
    stories = text.read_text().split("<|endoftext|>")
    ids = [model.tokenize(story) for story in stories]
    real = np.count_nonzero(data.mask) + len({d for d in data.documents})
    assert real == sum(len(i) for i in ids)  # each bigram once; a document has one token more
    np.testing.assert_array_equal(data.tokens[0], ids[0][: T + 1])
    assert data.vocabulary == tuple(
        model.tokenizer.convert_ids_to_tokens(range(len(model.tokenizer)))
    )
    assert data.tokenizer == folder.name


def test_the_most_frequent_tokens(data):
    theory = llm.theory_of_tokens(data, N, min_count=1)
    counted = collections.Counter(data.tokens[:, :-1][data.mask].tolist())
    expected = sorted(counted, key=lambda i: (-counted[i], i))[:N]
    assert theory.ids.tolist() == expected
    assert theory.counts.tolist() == [counted[i] for i in expected]
    often = llm.theory_of_tokens(data, min_count=40)
    assert often.ids.tolist() == [i for i in expected if counted[i] >= 40]
    with pytest.raises(InputError, match=r"num_tokens: .* occur 40 times or more .*; got 14"):
        llm.theory_of_tokens(data, N, min_count=40)


# Numbers


def reference(A, M, centering):
    """Cosine of both sides' inner products between tokens."""
    norms = np.linalg.norm(M, axis=1, keepdims=True)
    M = M / np.where(norms > 0, norms, 1)
    axis = {"feature": 1, "token": 0}[centering]
    K, L = (X @ X.T for X in (Y - Y.mean(axis=axis, keepdims=True) for Y in (A, M)))
    return np.sum(K * L) / (np.linalg.norm(K) * np.linalg.norm(L))


@pytest.mark.parametrize("centering", ["feature", "token"])
def test_scores_are_those_of_dense_statistics_and_raw_weights(dataset, data, folder, centering):
    stats = aj.corpus_statistics(data)
    theory = llm.theory_of_tokens(data, N, min_count=1)
    pairs = np.ix_(theory.ids, theory.ids)
    model = llm.load_model(folder, "step16")
    streams = llm.single_token_streams(model, theory.ids)
    chosen = dataset.sel(revision="step16", residual="uniform", centering=centering, layer=2)
    expected = reference(streams.after_layer[1], np.asarray(stats.value)[pairs], centering)
    found = chosen.similarity.sel(theory="value", stream="after_layer")
    assert float(found) == pytest.approx(expected, rel=1e-4)
    raw = tiny.raw_attention(model.module, 1)
    E = streams.before[1]
    A = E @ raw.W_Q[2] @ raw.W_K[2].T @ E.T
    expected = reference(A, np.asarray(stats.query_key)[pairs], centering)
    assert float(chosen.attention_similarity.sel(head="2")) == pytest.approx(expected, rel=1e-4)


def test_what_the_dataset_holds(dataset, data, folder):
    assert dataset.revision.values.tolist() == REVISIONS
    assert dataset.step.values.tolist() == [0, 4, 16]
    theory = llm.theory_of_tokens(data, N, min_count=1)
    assert dataset.token.values.tolist() == [data.vocabulary[i] for i in theory.ids]
    assert dataset.token_count.values.tolist() == theory.counts.tolist()
    attrs = results.decode(dataset.attrs)
    assert attrs["weights"]["step16"] == llm.weight_hashes(folder, "step16")
    assert attrs["corpus_sha256"] == data.sha256
    assert attrs["config"]["num_tokens"] == N
    assert {"torch", "jax"} <= attrs["versions"].keys()
    assert dataset.z.sel(null="frequency").notnull().any()


def test_revisions_that_share_weights_are_named(finished, dataset):
    number = len(tiny.random_model("neox").state_dict())
    identical, part = json.loads(dataset.attrs["shared_weights"])
    assert identical["revisions"] == ["step0", "step4"]
    assert identical["shared"] == identical["of"] == number
    assert part["revisions"] == REVISIONS
    assert (part["shared"], part["of"], part["size"]) == (1, number, tiny.V * tiny.D)
    assert f"Identical: step0, step4 have the same weights, all {number} tensors" in finished[1]
    assert f"Shared: step0, step4, step16 share 1 of {number} tensors, " in finished[1]
    same = dataset.sel(revision=["step0", "step4"]).z
    np.testing.assert_array_equal(same[0], same[1])
    assert float(abs(dataset.z.sel(revision="step16") - same[0]).max()) > 0.1


def test_summary(finished, dataset):
    summary = json.loads((finished[0] / "summary.json").read_text())
    assert summary["shared_weights"] == json.loads(dataset.attrs["shared_weights"])
    assert summary["num_tokens"] == N
    row = summary["summary"]["token"][2]
    chosen = dataset.sel(revision="step16", residual="uniform", centering="token", null="all")
    score = float(chosen.similarity.sel(theory="value", stream="after_layer").median())
    assert row["embedding"].startswith(f"{score:.4f} (")


def test_the_command_can_be_repeated_and_goes_on_where_it_stopped(finished, folder, text, tmp_path):
    """With the first revision's result used again, alone or with others to come."""
    summary = json.loads((finished[0] / "summary.json").read_text())
    for missing in ([], REVISIONS[1:], REVISIONS[:1]):
        out = shutil.copytree(finished[0], tmp_path / str(len(missing)))
        for name in missing:
            (out / f"revision-{name}.nc").unlink()
        assert run_command(folder, text, out) == finished[1]
        assert json.loads((out / "summary.json").read_text()) == summary


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (("stage1-step4-tokens1B", "stage1-step0-tokens0B"), [4, 0]),
        (("step-1000", "global_step20"), [1000, 20]),
        (("step4", "main"), None),
        (("step4", "step0-step1"), None),
        (("step4", "step1k"), None),
        (("step4", "misstep2"), None),
        (("stage1-step4", "stage2-step4"), None),  # which is later, names do not say
    ],
)
def test_the_step_is_read_from_the_name(names, steps, folder, data, tmp_path, monkeypatch):
    for name, kind in zip(names, ("step0", "step16"), strict=True):
        shutil.copytree(folder / kind, tmp_path / name)
    computed = xr.Dataset({"token_count": ("token", [3])}, {"token": ["a"]})
    monkeypatch.setattr(module.results, "reuse", lambda path, decides: computed)
    found = compare(tmp_path, data, tmp_path / "out", list(names))
    if steps is None:
        assert "step" not in found.coords
    else:
        assert found["step"].dims == ("revision",)
        assert found["step"].values.tolist() == steps


def test_occurrences(data, folder, tmp_path):
    found = llm.compare_revisions(folder, ["step16"], data, tmp_path, probe="occurrence", **SMALL)
    theory = llm.theory_of_tokens(data, N, min_count=1)
    model = llm.load_model(folder, "step16")
    streams, _ = llm.occurrence_streams(model, data.tokens[:, :-1], data.mask, theory.ids)
    expected = reference(streams.after_layer[2], theory.matrices["unigram"]["bigram"], "token")
    chosen = found.similarity.sel(residual="unigram", theory="bigram", centering="token", layer=3)
    assert float(chosen.sel(stream="after_layer").item()) == pytest.approx(expected, rel=1e-4)


# The paper's protocol


def as_in_paper(module):
    """Changes a GPT-NeoX by its weights: the gain and bias of the norm before attention go into the
    projections after it, and the mean over features leaves all that writes to the stream. Logits
    stay the same, as the norms subtract that mean."""
    writers = [module.gpt_neox.embed_in.weight]
    for layer in module.gpt_neox.layers:
        norm, joint = layer.input_layernorm, layer.attention.query_key_value
        joint.bias.add_(joint.weight @ norm.bias)
        joint.weight.mul_(norm.weight)
        norm.weight.fill_(1)
        norm.bias.fill_(0)
        for linear in (layer.attention.dense, layer.mlp.dense_4h_to_h):
            writers += [linear.weight.T, linear.bias]
    for weight in writers:
        weight.sub_(weight.mean(dim=-1, keepdim=True))


def test_the_paper_changes_weights_and_the_protocol_does_the_same(folder, data, tmp_path):
    model = llm.load_model(folder, "step16")
    tokens = data.tokens[:2]
    before = tiny.logits(model.module, tokens)
    as_in_paper(model.module)
    np.testing.assert_allclose(tiny.logits(model.module, tokens), before, atol=1e-4)
    tiny.save(model.module, tmp_path / "changed")
    changed = compare(tmp_path / "changed", data, tmp_path / "a", [None])
    found = compare(folder, data, tmp_path / "b", ["step16"], protocol=["centred", "gains"])
    plain = compare(folder, data, tmp_path / "c", ["step16"])
    for name in ("similarity", "attention_similarity"):
        expected = changed[name].values
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-5)
        assert np.max(np.abs(plain[name].values - expected)) > 0.01


@pytest.mark.parametrize("probe", ["single", "occurrence"])
def test_a_beginning_is_fed_before_every_text(probe, folder, data, tmp_path):
    """The streams are those of texts that begin with the token, where it does not count itself."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "compare_model", lambda streams, *_, **__: seen.append(streams))
        with pytest.raises(AttributeError):  # of the comparison that was not made
            compare(folder, data, tmp_path, ["step16"], probe=probe, protocol=["beginning"])
    model = llm.load_model(folder, "step16")
    ids = llm.theory_of_tokens(data, N, min_count=1).ids
    start = model.tokenizer.bos_token_id
    if probe == "single":
        tokens = np.stack([np.full(N, start), ids], axis=1)
        mask = np.tile([False, True], (N, 1))
    else:
        tokens = np.insert(data.tokens[:, :-1], 0, start, axis=1)
        mask = np.insert(data.mask, 0, False, axis=1)
    expected, _ = llm.occurrence_streams(model, tokens, mask, ids)
    for actual, stream in zip(seen[0], expected, strict=True):
        np.testing.assert_allclose(actual, stream, rtol=1e-4, atol=1e-4)


def test_a_protocol_that_cannot_be(folder, data, tmp_path):
    with pytest.raises(InputError, match="protocol must"):
        compare(folder, data, tmp_path, ["step0"], protocol=["bos"])
    with pytest.raises(InputError, match="only: of the protocol, embeddings can be centred"):
        compare(folder, data, tmp_path, ["step0"], protocol=["gains"], only="embeddings")
    plain = shutil.copytree(folder / "step0", tmp_path / "plain")
    path = plain / "tokenizer_config.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"bos_token": None}))
    with pytest.raises(InputError, match="protocol: model 'plain' has no beginning-of-text token"):
        compare(plain, data, tmp_path / "out", [None], protocol=["beginning"])


# Parts of checkpoints, and of the hub


@pytest.fixture(scope="module")
def sharded(folder, tmp_path_factory):
    """The revisions step0 and step16 in shards; one of step16 is not there."""
    sharded = tmp_path_factory.mktemp("sharded")
    for step in ("step0", "step16"):
        model = llm.load_model(folder, step)
        model.module.save_pretrained(sharded / step, max_shard_size="20KB")
        model.tokenizer.save_pretrained(sharded / step)
    index = json.loads((sharded / "step16/model.safetensors.index.json").read_text())
    names = index["weight_map"]
    of_embedding = names["gpt_neox.embed_in.weight"]
    assert of_embedding != names["embed_out.weight"]
    (sharded / "step16" / names["embed_out.weight"]).unlink()
    return sharded, of_embedding


def test_only_the_shard_of_the_embedding_is_read(sharded, data, dataset, tmp_path):
    place, shard = sharded
    with pytest.raises(InputError, match=r"step16' lacks 1 of the \d+ weight files"):
        compare(place, data, tmp_path / "out", ["step0", "step16"])
    found = compare(place, data, tmp_path / "out", ["step0", "step16"], only="embeddings")
    assert found.sizes["stream"] == found.sizes["layer"] == 1
    assert "head" not in found.dims
    whole = dataset.sel(revision=["step0", "step16"], stream=["before"], layer=[1])
    for name in ("similarity", "null_mean", "z"):
        # The order of float32 sums differs.
        np.testing.assert_allclose(found[name], whole[name], rtol=1e-3, atol=1e-5)
    weights = json.loads(found.attrs["weights"])
    assert [*weights["step16"]] == [shard]
    with pytest.raises(InputError, match="only: embeddings are of single tokens; got probe 'occ"):
        compare(place, data, tmp_path, ["step0"], only="embeddings", probe="occurrence")
    with pytest.raises(InputError, match="only must be"):
        compare(place, data, tmp_path, ["step0"], only="attention")


def test_the_command_compares_embeddings_alone(sharded, text, tmp_path):
    said = run_command(sharded[0], text, tmp_path, ["step0", "step16"], "--only", "embeddings")
    assert "Only embeddings were read" in said
    assert not list(tmp_path.glob("*.png"))
    rows = json.loads((tmp_path / "summary.json").read_text())["summary"]["token"]
    assert rows[1].keys() == {"revision", "embedding", "bigram"}


class Hub:
    """Stands for the hub, which holds the revisions of a folder as owner/tiny. Like the client, it
    copies into `local_dir`, or into its cache."""

    def __init__(self, patch, folder, cache):
        self.folder, self.cache, self.copied = folder, cache, []
        for name in ("snapshot_download", "hf_hub_download", "try_to_load_from_cache"):
            patch.setattr(f"huggingface_hub.{name}", getattr(self, name))
        patch.setattr(
            "huggingface_hub.HfApi.model_info", lambda _, *args, **o: self.info(*args, **o)
        )

    def info(self, name, revision, files_metadata, timeout):
        def record(path):
            if path.suffix != ".safetensors":
                return None
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            return types.SimpleNamespace(sha256=digest, size=path.stat().st_size)

        files = sorted((self.folder / revision).iterdir())
        siblings = [types.SimpleNamespace(rfilename=f.name, lfs=record(f)) for f in files]
        return types.SimpleNamespace(siblings=siblings)

    def snapshot_download(self, name, revision, allow_patterns, local_dir=None):
        to = Path(local_dir or self.cache / revision)
        to.mkdir(parents=True, exist_ok=True)
        for file in (self.folder / revision).iterdir():
            wanted = any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns)
            if wanted and not (to / file.name).exists():
                shutil.copy(file, to)
                self.copied.append((to, file.name))
        return str(to)

    def hf_hub_download(self, name, file, revision):
        to = self.cache / revision / file
        to.parent.mkdir(parents=True, exist_ok=True)
        return str(shutil.copy(self.folder / revision / file, to))

    def try_to_load_from_cache(self, name, file, revision):
        path = self.cache / revision / file
        return str(path) if path.exists() else None

    def cached_weights(self):
        return {str(path.relative_to(self.cache)) for path in self.cache.glob("*/*.safetensors")}


def test_downloads_are_deleted_and_the_cache_is_not(
    sharded, folder, data, text, tmp_path, monkeypatch
):
    """step0 was in the cache before, step4 is downloaded for a comparison, and of step4 shards."""
    hub = Hub(monkeypatch, folder, tmp_path / "cache")
    llm.load_model("owner/tiny", "step0")
    mine = tmp_path / "cache/step0/mine.txt"
    mine.write_text("mine")
    before = {path: path.read_bytes() for path in (tmp_path / "cache").glob("*/*")}
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    hub.copied.clear()
    found = compare("owner/tiny", data, tmp_path / "out", ["step0", "step4"], delete_downloads=True)
    local = compare(folder, data, tmp_path / "local", ["step0", "step4"])
    np.testing.assert_array_equal(found.similarity, local.similarity)
    downloaded = {to for to, name in hub.copied if name == "model.safetensors"}
    assert len(downloaded) == 1  # step4, into a folder of its own
    assert not any(to.exists() or to.is_relative_to(hub.cache) for to in downloaded)
    assert {path: path.read_bytes() for path in (tmp_path / "cache").glob("*/*")} == before
    assert not list(tmp_path.glob("assocjax-*"))
    # Without the option they stay in the cache.
    compare("owner/tiny", data, tmp_path / "kept", ["step4"])
    assert hub.cached_weights() == {"step0/model.safetensors", "step4/model.safetensors"}


def test_downloads_are_deleted_after_an_error(folder, data, tmp_path, monkeypatch):
    Hub(monkeypatch, folder, tmp_path / "cache")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(module, "load_files", lambda files: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compare("owner/tiny", data, tmp_path / "out", ["step4"], delete_downloads=True)
    assert not list(tmp_path.glob("assocjax-*"))
    assert not (tmp_path / "cache").exists()


def test_of_the_hub_only_the_shard_of_the_embedding_is_downloaded(
    sharded, data, tmp_path, monkeypatch
):
    place, shard = sharded
    hub = Hub(monkeypatch, place, tmp_path / "cache")
    compare("owner/tiny", data, tmp_path / "out", ["step16"], only="embeddings")
    assert hub.cached_weights() == {f"step16/{shard}"}


def test_the_tokenizer_is_downloaded_without_the_weights(folder, text, tmp_path, monkeypatch):
    hub = Hub(monkeypatch, folder, tmp_path / "cache")
    found = llm.tokens_of_model("owner/tiny", "step0", text, seq_len=T)
    assert found.vocabulary == llm.tokens_of_model(folder, "step0", text, seq_len=T).vocabulary
    assert not hub.cached_weights()


# Stopped, resumed, refused


def compare(folder, data, out, names=REVISIONS, **change):
    return llm.compare_revisions(folder, names, data, out, **(SMALL | change))


def test_only_what_is_missing_is_computed_again(folder, data, finished, dataset, tmp_path):
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "revision-step4.nc").unlink()
    loaded = []

    def load(files):
        loaded.append(files.revision)
        return llm.load_model(folder, files.revision)

    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_files", load)
        again = compare(folder, data, tmp_path, progress=lambda *what: seen.append(what))
    assert loaded == ["step4"]
    assert again.drop_attrs().identical(dataset.drop_attrs())
    assert {"counting", "step4: probing", "step4: comparing"} <= {what for what, *_ in seen}
    assert all(0 <= done <= total for _, done, total in seen)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_shuffles": 5}, r"of another configuration: its config\.num_shuffles is 4"),
        ({"probe": "occurrence"}, "its config.probe is 'single', here it is 'occurrence'"),
    ],
)
def test_another_configuration_is_refused(change, message, folder, data, finished):
    with pytest.raises(InputError, match=message):
        compare(folder, data, finished[0], **change)


def test_other_weights_and_other_texts_are_refused(folder, data, finished, tmp_path):
    other = shutil.copytree(folder, tmp_path / folder.name)
    with pytest.raises(InputError, match=r"its config\.place is '"):  # of the same name
        compare(other, data, finished[0])
    for file, word in (("model.safetensors", "model.safetensors"), ("config.json", "config.json")):
        path = folder / "step4" / file
        before = path.read_bytes()
        if file == "config.json":
            path.write_bytes(before + b" ")
        else:
            shutil.copy(folder / "step16" / file, path)
        with pytest.raises(InputError, match=rf"revision-step4\.nc .* its {word} is '"):
            compare(folder, data, finished[0])
        path.write_bytes(before)
    fewer = texts.dataclasses.replace(data, sha256="0" * 64)
    with pytest.raises(InputError, match=r"not the same text"):
        compare(folder, fewer, finished[0])
    out = shutil.copytree(finished[0], tmp_path / "out")
    shutil.copy(out / "comparison.nc", out / "revision-step0.nc")
    with pytest.raises(InputError, match="is not a result that can be reused"):
        compare(folder, data, out)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["step0", "step3"], "has no revision 'step3'; its revisions are step0, step4, step16"),
        (
            ["step0", "a", "b"],
            "2 of 3 cannot be used: a, b; the first error: .* has no revision 'a'",
        ),
        (["step0", "step0"], "revisions must differ; got 'step0' more than once"),
        ([], "revisions must name at least one"),
        ([None], "give one of its revisions"),
    ],
)
def test_bad_revisions_fail_before_the_work(names, message, folder, data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "theory_of_tokens", None)
    with pytest.raises(InputTypeError, match="revisions must be a list of names; got str 'step0'"):
        compare(folder, data, tmp_path, "step0")
    with pytest.raises(InputError, match=message):
        compare(folder, data, tmp_path, names)


def test_other_tokens_are_refused(folder, data, text, tmp_path):
    tokenizer = folder / "step0" / "tokenizer.json"
    same = aj.write_tokens(text, tmp_path / "same", seq_len=T, tokenizer=tokenizer)
    aj.write_tokens(text, tmp_path / "words", seq_len=T, vocab_size=9)
    assert same.vocab_size == data.vocab_size
    shutil.copytree(tmp_path / "same", tmp_path / "other")
    about = json.loads((tmp_path / "other/tokens.json").read_text())
    about["vocabulary"][:2] = about["vocabulary"][1::-1]
    (tmp_path / "other/tokens.json").write_text(json.dumps(about))
    found = llm.tokens_of_model(folder, "step0", tmp_path / "same", seq_len=T)
    assert found.vocabulary == data.vocabulary
    with pytest.raises(InputError, match=r"corpus: .* is in 9 tokens, those of model .* are 59"):
        llm.tokens_of_model(folder, "step0", tmp_path / "words", seq_len=T)
    with pytest.raises(InputError, match=r"tokens of another vocabulary than model .*: token 0 is"):
        llm.tokens_of_model(folder, "step0", tmp_path / "other", seq_len=T)
    with pytest.raises(InputError, match=r"another vocabulary than model '.* step16': token 0"):
        compare(folder, aj.open_tokens(tmp_path / "other"), tmp_path / "out", ["step16"])
    with pytest.raises(InputError, match=r"num_sequences: .* sequences of 13 tokens .*, got 9999"):
        llm.tokens_of_model(folder, "step0", text, seq_len=T, num_sequences=9999)


def test_a_result_of_other_tokens_of_the_same_text_is_not_gone_on_with(folder, data, finished):
    other = dataclasses.replace(data, tokens=data.tokens[::-1].copy(), mask=data.mask[::-1].copy())
    assert other.sha256 == data.sha256
    with pytest.raises(InputError, match=r"its tokens of the text 'ponds.txt' are not"):
        compare(folder, other, finished[0])


def test_a_model_reads_a_text_in_the_same_tokens_each_time(folder, data, text, tmp_path):
    shutil.copytree(folder / "step0", tmp_path / "model")
    path = tmp_path / "model" / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    content["model"]["dropout"] = 0.5
    path.write_text(json.dumps(content), "utf-8")
    for _ in range(2):
        again = llm.tokens_of_model(tmp_path / "model", None, text, seq_len=T)
        assert again.tokens_sha256 == data.tokens_sha256
    words = " ".join(WORDS)
    model = llm.load_model(tmp_path / "model")
    expected = llm.load_model(folder, "step0").tokenize(words)
    assert all(np.array_equal(model.tokenize(words), expected) for _ in range(5))


def test_a_special_token_written_in_a_corpus_is_text(folder, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "the bird <|endoftext|> flew over the pond"}), "utf-8")
    data = llm.tokens_of_model(folder, "step0", path, seq_len=T)
    assert data.vocabulary[0] == "<|endoftext|>"
    assert 0 not in data.tokens[:, 1:][data.mask]


def test_a_model_without_a_tokenizer(folder, text, tmp_path):
    shutil.copytree(folder / "step0", tmp_path / "model")
    for file in (tmp_path / "model").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match=r"tokenizer: model 'model' has none to read .*ponds.txt"):
        llm.tokens_of_model(tmp_path / "model", None, text, seq_len=T)


# Figures


def images(figure):
    return [ax.images[0] for ax in figure.axes if ax.images]


def test_heat_maps_over_steps(dataset):
    drawn = images(figures.plot_layers_by_step(dataset))
    assert len(drawn) == 15
    chosen = dataset.sel(residual="uniform", null="all")
    value = chosen.sel(theory="value")
    np.testing.assert_array_equal(
        drawn[0].get_array(),
        chosen.attention_similarity.sel(centering="feature", head="mean").transpose("layer", ...),
    )
    np.testing.assert_array_equal(
        drawn[4].get_array(),
        value.null_mean.sel(centering="feature", stream="after_attention").transpose("layer", ...),
    )
    z = value.z.sel(centering="token").transpose("layer", "revision", ...)
    np.testing.assert_array_equal(drawn[14].get_array()[1:], z.sel(stream="after_layer"))
    np.testing.assert_array_equal(drawn[14].get_array()[0], z.sel(stream="before", layer=1))
    # A score and its control are on one scale.
    assert {image.norm.vmax for image in drawn[:6]} == {1}
    assert len({image.norm.vmax for image in drawn[6:12]}) == 1


def test_heads(dataset):
    drawn = images(figures.plot_heads(dataset))  # three layers, five columns
    assert len(drawn) == 15
    shape = (tiny.HEADS, len(REVISIONS))
    assert {image.get_array().shape for image in drawn} == {shape}
    drawn = images(figures.plot_heads(dataset.isel(revision=[2])))
    expected = dataset.attention_z.sel(residual="uniform", null="all", centering="token")
    expected = expected.isel(revision=2, head=slice(tiny.HEADS))
    np.testing.assert_array_equal(drawn[4].get_array(), expected.transpose("layer", "head"))


def test_layers(dataset, tmp_path):
    figure = figures.plot_by_layer(dataset.isel(revision=2), theory="bigram", residual="unigram")
    model, shuffled = figure.axes[5].lines
    chosen = dataset.isel(revision=2).sel(residual="unigram", theory="bigram", null="all")
    chosen = chosen.sel(centering="token")
    np.testing.assert_array_equal(
        model.get_ydata()[1:], chosen.similarity.sel(stream="after_layer")
    )
    assert shuffled.get_ydata()[0] == chosen.null_mean.sel(stream="before", layer=1)
    assert "at step16" in figure.get_suptitle()
    for path in figures.save(figure, tmp_path / "layers"):
        assert path.stat().st_size > 1000


# The command line


def test_bad_input_is_one_line(folder, text, tmp_path, capsys):
    command = ["compare", str(folder), "--corpus", str(text), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--revisions", "step0,step99"])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert "has no revision 'step99'" in err
    assert len(err.strip().splitlines()) == 1
    for step in ("step1", "step2"):
        (tmp_path / "run" / step).mkdir(parents=True)
        shutil.copy(folder / "step0/config.json", tmp_path / "run" / step)
    with pytest.raises(SystemExit):
        cli.main(["compare", str(tmp_path / "run"), "--revisions", "step1,step2", *command[2:]])
    err = capsys.readouterr().err
    assert "2 of 2 cannot be used: step1, step2; the first error" in err
    assert "has no weights: expected model.safetensors" in err


def test_without_the_extra_it_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit):
        cli.main(["compare", "x", "--out", str(tmp_path)])
    assert "need the library torch: pip install 'assocjax[llm]'" in capsys.readouterr().err


def test_without_the_extra_all_else_works(text, tmp_path):
    code = """
import importlib, pkgutil, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "gguf", "accelerate"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import assocjax
for module in pkgutil.walk_packages(assocjax.__path__, "assocjax."):
    importlib.import_module(module.name)
text, out = sys.argv[1:]
from assocjax.cli import main
main(["tokenize", "--corpus", text, "--seq-len", "8", "--vocab-size", "9", "--out", out])
main(["associations", "--corpus", out, "the", "--top", "1"])
"""
    arguments = [sys.executable, "-c", code, str(text), str(tmp_path / "tokens")]
    found = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "the" in found.stdout


# A real model


def test_a_real_model_beside_its_shuffled_control(data_dir):
    """Theory of 40 thousand positions; 260 thousand weights that saw far more of such stories."""
    path = data_dir / "stories260K"
    corpus = data_dir / "tinystories_sample.txt"
    options = {"seq_len": 128, "num_sequences": 320, "num_documents": 200}
    data = llm.tokens_of_model(path, None, corpus, **options)
    theory = llm.theory_of_tokens(data, min_count=50)
    streams = llm.single_token_streams(llm.load_model(path), theory.ids)
    matrices = {"uniform": {"value": theory.matrices["uniform"]["value"]}}
    found = llm.compare_model(
        streams, matrices, theory.counts, centerings=["feature", "token"], num_shuffles=20
    )
    chosen = found.squeeze(["residual", "theory"], drop=True).sel(stream="after_layer", null="all")
    paper, centred = chosen.sel(centering="feature"), chosen.sel(centering="token")
    # Of the paper's form the control has nearly all; of the other a third, far below.
    assert float((paper.null_mean / paper.similarity).min()) > 0.98
    assert float(centred.similarity.min()) > 2 * float(centred.null_mean.max())
    assert float(centred.z.min()) > 5

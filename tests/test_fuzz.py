"""Odd values for every option of every command, and for every argument of every public function.

What is fuzzed is asked of the parser and of the package, so that what is new is fuzzed, too. A
round draws, from a fixed seed, three options of each command and an argument of each function.
`pytest tests/test_fuzz.py -n 0 --fuzz-rounds 50` tries nearly all, in a quarter of an hour.
"""

import contextlib
import faulthandler
import inspect
import io
import json
import os
import random
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from conftest import random_mask, random_params, random_tokens, token_data
from cyclopts import Argument
from matplotlib.figure import Figure
from tracked_lists import random_comparison

import assocjax as aj
from assocjax import cli, llm
from assocjax.models.params import WEIGHTS
from assocjax.statistics import shards

WORDS = ["the", "bird", "sang", "and", "a", "fox", "ran"]

# The smallest value of an option of that name, whatever the command; others keep their defaults.
TINY = {
    "--corpus": "../inputs/corpus.txt",
    "--vocab-size": "6",
    "--vocab-sizes": "6",
    "--seq-len": "8",
    "--seq-lens": "8",
    "--num-sequences": "8",
    "--learning-rate": "0.5",
    "--learning-rates": "0.5",
    "--seeds": "0",
    "--init-scales": "0.001",
    "--steps": "2",
    "--num-layers": "1",
    "--duration": "1",
    "--draws": "2",
    "--width": "16",
    "--num-heads": "2",
    "--num-tokens": "6",
    "--min-count": "1",
    "--shuffles": "2",
    "--bins": "2",
    "--scale": "tiny",
}
# Of one command alone.
OWN = {"pretrain-tiny": {"--vocab-size": "60", "--batch-size": "4"}}
POSITIONAL = {
    "tokens": ["the", "bird"],
    "files": ["../inputs/counts-1-of-1.nc"],
    "results": ["../inputs/track.nc"],
    "model": ["../inputs/model/step0"],
    "artefacts": ["figure3"],
}
TEXTS = ["", "\0", " ", "\udcff", "é😀", "\u202eabc", "$x_^{", "\n", "a" * 300, "--", "-1", "%s"]
NUMBERS = ["-1", "0", "1", "1.5", str(10**20), "-" + "9" * 30, "9" * 5000, "nan", "inf", "-inf"]
NUMBERS += ["1e-30", "1e30", "1e400", "0x1", "٣", "1_0", "", "\0", "é"]
VALUES = [None, True, "x", "", "\0", "\udcff", -1, 0, 2.5, 10**20, float("nan"), float("inf")]
VALUES += [-float("inf"), 1e-30, 1e20, 1j, [], [[]], [1, "a"], (), {}, {"a": 1}, object(), b"x"]
VALUES += [np.float64("nan"), np.int64(-3), np.zeros((0, 3)), np.zeros((2, 2)), np.array("x")]
VALUES += [np.full((6, 5), 7), np.full((6, 5), np.nan, np.float32), jnp.ones(3), xr.Dataset()]
VALUES += [Path("none/x"), Path("."), [0, 0], [-1], [10**20], range(0), ["value"] * 2, ["no"]]

ROUNDS = 2
"""Of the suite; in more of them, runs without odd values are tried as well."""

SECONDS = 120  # after which a call hangs, and its traceback is printed


def options(command: str) -> list[Argument]:
    """All options of a command, and what it takes without a name."""
    return list(cli.make_app(command)[command].assemble_argument_collection())


def is_positional(option: Argument) -> bool:
    return option.field_info.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD


def word(option: Argument) -> str:
    """An option with its dashes, or what a positional argument is called."""
    return option.name.lstrip("-") if is_positional(option) else option.name


def base(command: str) -> dict[str, list[str]]:
    """Words of a small run, by option or by what a positional argument is called."""
    found: dict[str, list[str]] = {}
    for option in options(command):
        name = word(option)
        if is_positional(option):
            found[name] = POSITIONAL[name][: option.token_count()[0]]
        elif (value := OWN.get(command, {}).get(name, TINY.get(name))) is not None:
            found[name] = [value]
    return found | {"--out": ["out"]}


def line(command: str, words: dict[str, list[str]]) -> list[str]:
    positional = [w for name, ws in words.items() if not name.startswith("-") for w in ws]
    options = [w for name, ws in words.items() if name.startswith("-") for w in (name, *ws)]
    return [command, *positional, *options]


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Ends the process if the block hangs; every warning is an error."""
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def call(arguments: list[str]) -> tuple[int, str, str]:
    """The exit code of a command in this process, and what it printed; raises what a bug does."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    try:
        with bounded(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main(arguments)
    except SystemExit as stop:
        code = stop.code
    finally:
        jax.config.update("jax_enable_x64", False)
    return code, out.getvalue(), err.getvalue()


def write_inputs(inputs: Path) -> None:
    """What commands read, in order and damaged, and a folder of somebody else."""
    rng = random.Random(0)
    stories = [
        " ".join(rng.choices(WORDS, range(7, 0, -1), k=rng.randint(9, 14))) for _ in range(60)
    ]
    (inputs / "corpus.txt").write_text("<|endoftext|>".join(stories), "utf-8")
    text = f"--corpus {inputs}/corpus.txt --seq-len 8 --vocab-size"
    few = "--num-sequences 8 --num-layers 1 --steps 2"
    for command in (
        f"statistics {text} 6 --shard 1/1 --out {inputs}",
        f"tokenize {text} 6 --out {inputs}/tokens",
        f"track {text} 6 {few} --out {inputs}/track",
        f"pretrain-tiny {text} 60 --batch-size 4 --steps 1 --num-layers 1 --width 16 "
        f"--num-heads 2 --out {inputs}/model",
    ):
        code, _, err = call(command.split())
        assert code == 0 or "assocjax[llm]" in err, err
    shutil.copy(inputs / "track" / "track.nc", inputs)
    for name in ("track.nc", "counts-1-of-1.nc"):
        content = (inputs / name).read_bytes()
        (inputs / f"cut-{name}").write_bytes(content[: len(content) * 2 // 3])
    for name, file in (
        ("tokens", "tokens.bin"),
        ("tokens", "tokens.json"),
        ("track", ".assocjax.json"),
        ("model/step0", "config.json"),
        ("model/step0", "tokenizer.json"),
        ("model/step0", "model.safetensors"),
    ):
        if (inputs / name).is_dir():
            damaged = inputs / f"cut-{file}"
            shutil.copytree(inputs / name, damaged)
            (damaged / file).write_bytes((inputs / name / file).read_bytes()[:-9])
    for name, content in {
        "empty.txt": b"",
        "nul.txt": b"\0" * 99,
        "latin.txt": b"caf\xe9",
        "short.txt": b"one two",
        "cut.json": b'{"model": ',
        "list.json": b"[]",
        "deep.json": b'{"a":' * 5000,
        "cut.jsonl": b'{"text": ',
        "null.jsonl": b'{"text": null}\n',
        "number.jsonl": b'{"text": 3}\n',
        "cut.parquet": b"PAR1",
        "cut.bin": b"\1\2\3",
        "cut.npy": b"\x93NUMPY",
        "cut.gguf": b"GGUF",
        "foreign/thesis.tex": b"years of work",
        "foreign/sweep.nc": b"somebody else's",
        "foreign/.hidden/x": b"",
    }.items():
        (inputs / name).parent.mkdir(parents=True, exist_ok=True)
        (inputs / name).write_bytes(content)
    os.symlink("loop", inputs / "loop")


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def nulls(content: Any, path: tuple = ()) -> set[tuple]:
    """Where a JSON file has null, places in lists aside."""
    if isinstance(content, dict):
        return {found for key in content for found in nulls(content[key], (*path, key))}
    if isinstance(content, list):
        return {found for each in content for found in nulls(each, path)}
    return {path} if content is None else set()


def nulls_in(folder: Path) -> set[tuple]:
    files = [path for path in folder.rglob("*.json") if path.name != ".assocjax.json"]
    return {found for path in files for found in nulls(json.loads(path.read_bytes()), (path.name,))}


@pytest.fixture
def rounds(request) -> int:
    return request.config.getoption("--fuzz-rounds")


@pytest.fixture
def no_drawing(monkeypatch):
    """Figures are made, but not drawn, which would take longest."""
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: path.write_bytes(b"x"))


@pytest.fixture
def no_hub(monkeypatch):
    with contextlib.suppress(ImportError):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_odd_words_are_refused_in_one_line(
    rounds, tmp_path, monkeypatch, no_drawing, no_hub, promote
):
    inputs, work = tmp_path / "inputs", tmp_path / "work"
    inputs.mkdir()
    work.mkdir()
    write_inputs(inputs)
    monkeypatch.chdir(work)
    paths = [f"../inputs/{p.relative_to(inputs)}" for p in sorted(inputs.glob("*"))]
    paths += ["/", ".", "..", "none/x", "../inputs/cut.bin/x", "/dev/null", "/dev/full", "hf:"]
    before, rng, failures = tree(inputs), random.Random(0), []

    def odd(option: Argument) -> list[str]:
        if option.hint is bool:
            return []
        if re.search(r"\b(int|float)\b", str(option.hint)):
            values = NUMBERS
        elif choices := option.get_choices():
            values = [*choices, *TEXTS]
        else:
            values = [*TEXTS, *NUMBERS, *paths, *paths]
        value = rng.choice(values)
        return [value] * option.token_count()[0]

    def try_(command: str, changed: dict[str, list[str]]) -> set[tuple]:
        """Runs it, notes what is wrong, and returns where its JSON files have null."""
        arguments = line(command, base(command) | changed)
        found: set[tuple] = set()
        try:
            code, out, err = call(arguments)
            assert code in (0, 2, 130), code
            assert re.fullmatch(r"assocjax: [^\n]+\n" if code else "", err), err
            assert changed or not code or "assocjax[llm]" in err, err
            assert code or "nan" not in out.lower().split(), out
            after = tree(inputs)
            new = after.keys() - before.keys()
            assert before.items() <= after.items(), "files of the user changed"
            assert not new or "--out" in changed, f"files outside --out: {new}"
            for path in sorted(new, reverse=True):
                Path(path).rmdir() if after[path] is None else Path(path).unlink()
            if not code and (not changed or not re.search(r"diverged| - ", out)):
                found = nulls_in(work)
        except Exception as error:
            failures.append(f"{arguments}: {type(error).__name__}: {error}"[:2000])
        shutil.rmtree(work)
        work.mkdir()
        os.chdir(work)
        return found

    for command in cli.COMMANDS:
        known = try_(command, {}) if rounds > ROUNDS else None
        for option in rng.choices(options(command), k=3 * rounds):
            changed = {word(option): odd(option)}
            if unknown := try_(command, changed):
                known = try_(command, {}) if known is None else known
                if not unknown <= known:
                    failures.append(f"{command} {changed}: null at {unknown - known}")
    assert not failures, "\n\n".join(failures)


def library_calls(folder: Path) -> dict[str, dict]:
    """A call of every public function that needs no torch: its arguments by name."""
    tokens, mask = random_tokens(0, 6, 4, 5), random_mask(1, 6, 4)
    data = token_data(tokens, 5, mask)
    params = random_params(1, V=5, T=4, L=1)
    statistics = aj.corpus_statistics(tokens, 5, mask)
    moments = aj.effective_statistics(tokens, depth=1, vocab_size=5, mask=mask)
    coefficients = aj.descent_coefficients(0.5, 3)
    config = aj.RunConfig(steps=2, num_layers=1, theories=("leading",))
    corpus = aj.Corpus.of(tokens, config, vocab_size=5, mask=mask)
    key, sgd = jax.random.key(0), optax.sgd(0.5)
    contexts = aj.context_statistics(tokens, 5, mask)
    twin = aj.prepare_twin(contexts)
    of_corpus = {"data": tokens, "mask": mask}
    of = {"params": params, **of_corpus}
    counted = {"statistics": statistics, **of_corpus}
    entry = {"matrix": "value", "row": 0, "column": 1}
    run = {"config": config, "corpus": corpus, "learning_rate": 0.5, "seed": 0}
    carry = aj.start_run(**run, init_scale=0.1)
    sweep = {"learning_rates": [0.5], "steps": 2, "num_layers": 1, "theories": ["leading"]}
    swept = aj.sweep(data, **sweep)
    track = {"learning_rate": 0.5, "steps": 2, "num_layers": 1, "k": 2}
    truth = {"bigram": {"w0": ["w1"]}}
    tracked = aj.track(data, **track, truth=truth)
    setting = {"theory": "leading", "vocab_size": 5, "seq_len": 4, "num_layers": 1}
    rows = [
        setting
        | {"learning_rate": rate, "output": 1 / rate}
        | {f"{name}*eta": 1.0 for name in WEIGHTS}
        for rate in (0.1, 0.2, 0.4)
    ]
    (folder / "figures").mkdir()
    (folder / "text.txt").write_text(" ".join(WORDS * 9), "utf-8")
    text = {"vocab_size": 6, "seq_len": 4, "num_documents": 1}
    aj.write_tokens(folder / "text.txt", folder / "tokens", **text)
    tokens.astype("<u2").tofile(folder / "raw.bin")
    aj.save(swept, folder / "sweep.nc")
    ablated = aj.ablate(params, params, tokens, mask, draws=2).assign_attrs(swept.attrs)
    for kind, counts in (("counts", None), ("correlations", folder / "counts.nc")):
        shards.run_shard(
            data, folder / "shard.nc", shard=1, shards=1, counts=counts, overwrite=True
        )
        aj.save(shards.merge([folder / "shard.nc"]), folder / f"{kind}.nc")
    flow = {"num_layers": 1, "steps": 3, "learning_rate": 0.1}

    def quadratic(at, step):
        return jnp.zeros(()), at

    training = {"loss_and_gradient": quadratic, "optimizer": sgd, "steps": 2}
    start = (jnp.ones(2), sgd.init(jnp.ones(2)))
    return {
        "ablate": {**of, "theory": params, "draws": 2},
        "advance_run": {**run, "carry": carry, "first": 0, "length": 2},
        "agreement": {"exact": params.output, "theory": params.output},
        "attention_correlation": {**of_corpus, "matrix": np.eye(5, dtype=np.float32)},
        "all_twins": {"last": 4},
        "checkpoint_twins": {"orders": [2, 4], "rows": 8, "vocab_size": 9},
        "attention_only_twin_loss": {"params": params, "statistics": twin, "order": 2},
        "attribute": {**counted, **entry, "documents": None},
        "batch_indices": {"key": key, "step": 1, "num_sequences": 6, "batch_size": 2},
        "compare_params": {"exact": params, "theory": params},
        "bigram_counts": {**of_corpus, "vocab_size": 5, "sequences": None},
        "context_statistics": {**of_corpus, "vocab_size": 5, "sequences": None, "bigram": None},
        "corpus_statistics": {**of_corpus, "vocab_size": 5},
        "corrected_weights": {**of_corpus, "statistics": moments, **flow, "nodes": 3},
        "count_distinct": {"data": tokens},
        "count_ngrams": {"source": data, "sequences": None, "order": 2, "smoothing": None},
        "count_occurrences": {**of_corpus, "vocab_size": 5, "tokens": [0]},
        "data_parallel_loss_and_gradient": {**of, "mesh": jax.make_mesh((1,), ("data",))},
        "descent_coefficients": {"learning_rate": 0.5, "steps": 3},
        "effective_gradient": {**of, "statistics": moments, "around": "token"},
        "effective_loss": {"params": params, "statistics": moments, "around": "token"},
        "effective_statistics": {**of_corpus, "vocab_size": 5, "depth": 1},
        "effective_weights": {**of_corpus, "statistics": moments, **flow},
        "exact_gradient": {**of, "form": None, "microbatch_size": None, "max_distinct": None},
        "exact_loss_and_gradient": {**of, "memory_limit": 2**30},
        "exchanged": {"theory": params},
        "find_passages": {"data": data, "row": "w0", "column": "w1", "matrices": ["value"],
            "top": 2},
        "finish_run": {"observed": aj.advance_run(**run, carry=carry, first=0, length=2)[1]},
        "fit_power_law": {"rows": rows, "exponents": ["learning_rate"], "of": "output"},
        "flow_coefficients": {"duration": 1.0},
        "formation": {"dataset": tracked, "threshold": 0.5},
        "frequency_corrected": counted,
        "get_model": {"value": "attention-only", "argument": None},
        "get_theory": {"value": "leading", "argument": None},
        "gradient_flow": {"params": jnp.ones(2), "gradient": lambda at: at, "times": [0.5],
            "rtol": 1e-3, "atol": 0.0, "max_steps": 64},
        "gradient_from_coefficients": {"statistics": statistics, "num_layers": 1,
            "coefficients": coefficients},
        "horizon_study": {"load": lambda vocab_size, seq_len: data, "vocab_sizes": [5],
            "seq_lens": [4], "num_layers": [1], "learning_rates": [0.5], "duration": 1.0,
            "theories": ["leading"], "threshold": 0.1},
        "horizon_table": {"horizons": aj.validity_horizon(swept)},
        "init_params": {"key": key, "vocab_size": 5, "seq_len": 4, "num_layers": 1, "scale": 0.1,
            "dtype": None},
        "is_linear": {"optimizer": "sgd", "params": None},
        "leading_gradient": {**of, "statistics": statistics},
        "leading_weights": {"statistics": statistics, "num_layers": 1, "learning_rate": 0.5,
            "steps": 3},
        "leading_weights_gradient": {"statistics": statistics, "num_layers": 1,
            "learning_rate": 0.5, "steps": 3},
        "leave_out": {**counted, **entry, "documents": None, "which": [0]},
        "load": {"path": folder / "sweep.nc"},
        "load_statistics": {"counts": folder / "counts.nc",
            "correlations": folder / "correlations.nc"},
        "load_tokens": {"corpus": folder / "text.txt", **text, "num_sequences": 2,
            "tokenizer": "word", "oov": "unk", "long": "window", "short": "drop", "seed": 0,
            "separator": "|", "text_field": "text", "default_vocab_size": 6},
        "logits": {"params": params, "tokens": tokens[0, :-1], "mask": mask[0]},
        "loss": of,
        "make_optimizer": {"optimizer": "sgd", "learning_rate": 0.5},
        "mean_contexts": {"statistics": contexts},
        "merge_contexts": {"parts": [contexts]},
        "mean_overlap": {"dataset": tracked, "matrix": "value", "side": "row"},
        "open_tokens": {"path": folder / "raw.bin", "seq_len": 4, "num_sequences": 2,
            "dtype": "uint16", "vocabulary": 5, "end_id": 9, "long": "window", "short": "drop"},
        "optimizer_coefficients": {"optimizer": sgd, "steps": 3},
        "pair_shares": {**counted, **entry, "sequences": [0]},
        "plan_exact_step": {"vocab_size": 5, "seq_len": 4, "num_layers": 1, "num_sequences": 6,
            "form": None, "microbatch_size": None, "memory_limit": 2**30, "max_distinct": None,
            "itemsize": 4},
        "plot_ablation": {"dataset": ablated},
        "plot_bounds": {"bounds": aj.theorem_bounds(swept)},
        "plot_context_graph": {"dataset": tracked, "token": "w0", "k": 2, "scoring": "corrected"},
        "plot_cosines": {"dataset": swept, "gradients": False},
        "plot_errors": {"dataset": swept, "init_scale": None},
        "plot_horizon_study": {"rows": rows,
            "corpus_name": "x"},
        "plot_horizons": {"horizons": aj.validity_horizon(swept)},
        "plot_loss": {"dataset": swept},
        "plot_overlap": {"dataset": tracked},
        "plot_precision": {"dataset": tracked},
        "plot_statistics": {"dataset": aj.statistics_dataset(data, statistics), "top": 3},
        "prepare_twin": {"statistics": contexts, "backoff": 0.0, "shuffle_seed": None,
            "entries": None},
        "precision_at_k": {"matrix": np.eye(5), "vocabulary": data.vocabulary,
            "truth": truth["bigram"], "k": 2},
        "register_model": {"value": aj.get_model("attention-only")},
        "register_theory": {"value": aj.get_theory("leading")},
        "run_comparison": {**run, "init_scale": 0.1},
        "save": {"dataset": swept, "path": folder / "saved.nc", "overwrite": True},
        "save_sweep": {"dataset": swept, "folder": folder / "figures", "overwrite": True},
        "save_track": {"dataset": tracked, "folder": folder / "figures", "overwrite": True},
        "second_moments": {"statistics": moments},
        "sparse_statistics": {"source": data, "frequency_corrected": False, "residual": "uniform"},
        "start_run": {**run, "init_scale": 0.1},
        "statistics_dataset": {"data": data, "statistics": statistics},
        "summary": {"dataset": swept},
        "sweep": {"data": data, **sweep, "seeds": [0], "init_scales": [0.0],
            "theories": ["leading"], "gradient": "exact", "optimizer": "sgd", "batch_size": None,
            "microbatch_size": None, "memory_limit": 2**30, "checkpoint": folder / "swept",
            "checkpoint_every": 1, "overwrite": True},
        "theorem_bounds": {"dataset": swept},
        "theorem_conditions": {"num_layers": 1, "seq_len": 64, "vocab_size": 1000,
            "learning_rate": 0.02, "steps": 2, "init_scale": 1e-12, "xi": 0.0},
        "to_dataframe": {"dataset": swept},
        "top_associations": {"matrix": np.eye(5), "vocabulary": data.vocabulary, "token": "w0",
            "k": 2, "occurrences": np.ones(5, int)},
        "track": {"data": data, **track, "record_at": [0, 2], "seed": 0, "init_scale": 0.0,
            "optimizer": "sgd", "batch_size": None, "microbatch_size": None, "truth": truth,
            "checkpoint": folder / "tracked", "overwrite": True},
        "train": {"params": jnp.ones(2), **training},
        "train_segment": {"carry": start, **training, "first": 0, "length": 2},
        "training_influence": {**of, "optimizer": sgd, "steps": 2, "weight": "output",
            "index": (0, 1), "documents": None},
        "uniform_attention_gradient": of,
        "validity_horizon": {"dataset": swept, "threshold": 0.1},
        "weights_from_coefficients": {"statistics": statistics, "num_layers": 1,
            "coefficients": coefficients},
        "write_comparison": {"dataset": random_comparison(), "path": folder / "compared.html",
            "overwrite": True},
        "write_explorer": {"dataset": tracked, "path": folder / "page.html", "token": None,
            "max_steps": None, "max_text": 9, "data": data, "overwrite": True},
        "write_tokens": {"corpus": folder / "text.txt", "folder": folder / "written", **text,
            "tokenizer": "word", "oov": "unk", "long": "window", "short": "drop", "seed": 0,
            "separator": "|", "text_field": "text", "default_vocab_size": 6, "overwrite": True},
    }  # fmt: skip


def language_model_calls() -> dict[str, dict]:
    """The same of `assocjax.llm`, as far as no model is needed."""
    rng = np.random.default_rng(0)
    A, M = (rng.normal(size=(6, n)).astype(np.float32) for n in (3, 6))
    pair = {"A": A, "M": M, "centering": "feature"}
    data = token_data(random_tokens(0, 6, 4, 5), 5)
    ids, few = np.arange(4), {"num_shuffles": 2, "seed": 0}
    log_p = np.log(rng.dirichlet(np.ones(5), (3, 4)))
    predictions = llm.Predictions(log_p, log_p[0], np.arange(4, 8), 1.0)
    streams = llm.Streams(*rng.normal(size=(3, 1, 6, 3)).astype(np.float32))
    return {
        "basis_matrices": {"source": data, "token_ids": ids, "residual": "uniform"},
        "bootstrap_similarity": {"A": A[:4], "source": data, "token_ids": ids, "num_groups": 2,
            "num_replicates": 2, "level": 0.9, "seed": 0, "centering": "feature",
            "residual": "uniform"},
        "common_mean_share": pair,
        "compare_model": {"streams": streams, "matrices": {"uniform": {"value": M}},
            "counts": np.arange(6), "centerings": ["feature"], "num_bins": 2, **few,
            "layers": [1], "attention": None},
        "covariance_similarity": pair,
        "dominating": pair,
        "find_recipe": {"recipe": "pretrain-tiny"},
        "frequency_bins": {"counts": np.arange(6), "num_bins": 2},
        "ngram_agreement": {"predictions": predictions, "ngrams": aj.count_ngrams(data),
            "token_ids": ids, "others": None, "num_bins": 2, **few},
        "permutation_null": {**pair, **few, "bins": np.array([0, 0, 1, 1, 2, 2])},
        "subset_matrices": {"statistics": aj.sparse_statistics(data), "token_ids": ids},
        "theory_of_tokens": {"source": data, "num_tokens": 3, "min_count": 1},
        "with_summed_rate": {"dataset": xr.Dataset(coords={"step": [1]}),
            "recipe": "pretrain-tiny"},
    }  # fmt: skip


NEED_COMPARISON = {"plot_by_layer", "plot_heads", "plot_layers_by_step", "plot_twins"}
NEED_COMPARISON |= {"twin_shares", "plot_shares", "formation_steps", "prediction_scores"}
NEED_COMPARISON |= {"plot_predictions", "removal_scores", "plot_twins_by_step"}
NEED_COMPARISON |= {"plot_ngrams"}
"""Of Datasets of comparisons: `test_figures`, `test_twins` and `test_predictions` try them."""

NEED_COMPILING = {"compare_twins", "twin_loss", "flax_model", "predict_formation"}
NEED_COMPILING |= {"remove_bigrams", "compare_checkpoints"}
"""Each call compiles a network: the tests of each try them with bad arguments."""

NEED_MODEL = {"load_model", "weight_hashes", "shared_weights", "single_token_streams"}
NEED_MODEL |= {"occurrence_streams", "query_key_factors", "tokens_of_model", "compare_revisions"}
NEED_MODEL |= {"load_decoder", "save_decoder", "pretrain_tiny", "compare_with_twins"}
NEED_MODEL |= {"read_predictions", "compare_ngrams"}
"""The commands `compare`, `ngrams` and `pretrain-tiny`, whose options are fuzzed, call them."""


def functions(module) -> dict[str, Any]:
    found = {name: getattr(module, name) for name in module.__all__}
    return {n: f for n, f in found.items() if callable(f) and not inspect.isclass(f)}


def is_finite(result: Any) -> bool:
    if isinstance(result, xr.Dataset):
        result = {name: variable.values for name, variable in result.data_vars.items()}
    arrays = [
        leaf for leaf in jax.tree.leaves(result) if isinstance(leaf, jax.Array | np.ndarray | float)
    ]
    return all(np.isfinite(a).all() for a in arrays if np.asarray(a).dtype.kind in "fc")


def try_values(functions: dict[str, Any], calls: dict[str, dict], rounds: int) -> None:
    """Calls each as in `calls`, but for one odd argument, and notes what is wrong."""
    rng, failures = random.Random(0), []

    def try_(name: str, odd: dict[str, Any]) -> bool:
        """Whether its result is finite, or there is none."""
        try:
            with bounded():
                return is_finite(functions[name](**calls[name] | odd))
        except (aj.InputError, aj.InputTypeError) as error:
            if not odd or "\n" in str(error):
                failures.append(f"{name}({odd}): {error}")
        except Exception as error:
            failures.append(f"{name}({odd}): {type(error).__name__}: {error}"[:2000])
        return True

    for name, arguments in calls.items():
        inspect.signature(functions[name]).bind(**arguments)
        if rounds > ROUNDS:
            try_(name, {})
        for argument in rng.choices([*arguments], k=rounds):
            odd = {argument: rng.choice(VALUES)}
            silent = is_finite(odd) and "NaN" not in (functions[name].__doc__ or "")
            if not try_(name, odd) and silent and try_(name, {}):
                failures.append(f"{name}({odd}): NaN, of which the docstring does not tell")
    assert not failures, "\n\n".join(failures)


def test_odd_values_are_refused_by_functions(rounds, tmp_path, monkeypatch, no_drawing):
    monkeypatch.chdir(tmp_path)
    calls = library_calls(tmp_path)
    found = functions(aj)
    assert calls.keys() == found.keys() - NEED_COMPARISON - NEED_COMPILING
    try_values(found, calls, rounds)


def test_odd_values_are_refused_by_functions_of_language_models(rounds):
    calls = language_model_calls()
    found = functions(llm)
    assert calls.keys() == found.keys() - NEED_MODEL
    try_values(found, calls, rounds)

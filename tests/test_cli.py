"""The command line: what it writes, what it prints, and one line for every bad input."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import xarray as xr
from conftest import count_by_loops

import assocjax as aj
from assocjax import cli
from assocjax.analysis import scorings
from assocjax.analysis.associations import MATRICES
from assocjax.corpora import fables
from assocjax.models.params import WEIGHTS
from assocjax.statistics.datasets import statistics_summary
from assocjax.statistics.sparse import sparse_summary
from assocjax.storage import MARKER

TINY = ("--num-sequences", "8", "--seq-len", "8", "--num-layers", "1", "--num-documents", "60")
TINY_TEXT = ("--num-documents", "60", "--seq-len", "8")
ONE_RUN = ("--learning-rates", "0.5", "--seeds", "0")
FIGURES = ("cosine_weights", "cosine_gradients", "relative_error", "loss")


@pytest.fixture(autouse=True)
def precision():
    """The command line chooses a precision for its process, which here is that of all tests."""
    before = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The same stories as a .txt and a .jsonl file."""
    folder = tmp_path_factory.mktemp("corpus")
    stories = fables.generate(60)
    (folder / "stories.txt").write_text("<|endoftext|>".join(stories), "utf-8")
    lines = "\n".join(json.dumps({"story": story}) for story in stories)
    (folder / "stories.jsonl").write_text(lines, "utf-8")
    return folder


@pytest.fixture(scope="module")
def tiny_sweep(tmp_path_factory):
    """A sweep, one of whose learning rates diverges, and what it printed."""
    out = tmp_path_factory.mktemp("results") / "new" / "folder"
    arguments = ("--steps", "3", "--learning-rates", "0.5", "1e30", "--out", str(out))
    starts = ("--seeds", "0", "1", "--init-scales", "0", "1e-4")
    process = run("sweep", *TINY, *starts, *arguments)
    assert process.returncode == 0, process.stderr
    return out, process


@pytest.fixture
def no_drawing(monkeypatch):
    """Drawing takes longest in a tiny sweep, and the figures of other tests are as good."""
    monkeypatch.setattr("assocjax.figures.save_sweep", lambda dataset, folder: [])


def run(*arguments, **environment):
    """A process of its own, as a user starts it; warnings that nobody expects are errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "assocjax.cli", *arguments],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "COLUMNS": "100",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
            "XLA_FLAGS": "",
            **environment,
        },
    )


def refuse_constant(constant):
    raise AssertionError(f"{constant} is not standard JSON")


def read_json(path):
    return json.loads(path.read_text("utf-8"), parse_constant=refuse_constant)


# Help


@pytest.mark.parametrize(
    "arguments", [[], ["sweep"], ["horizon"], ["statistics"], ["associations"], ["track"]]
)
def test_help(arguments, capsys):
    cli.main([*arguments, "--help"])
    out, err = capsys.readouterr()
    assert not err
    for word in ("--corpus", "--out", "--precision") if arguments else ("sweep", "associations"):
        assert word in out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("tokenize", ("--corpus", "--tokenizer", "assocjax-tokens")),
        ("pretrain-tiny", ("--corpus", "--width", "step0", "assocjax-pretrained", "same command")),
        ("merge", ("FILES", "--out", "assocjax statistics --help")),
        ("statistics", ("--matrices", "V above 8192", "--shard", "assocjax tokenize", "same bits")),
    ],
)
def test_help_of_large_corpora(command, words, capsys):
    cli.main([command, "--help"])
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for word in words:
        assert word in out


def test_help_tells_defaults(capsys):
    cli.main(["sweep", "--help"])
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for default in ("0.1 0.5 1 2", "0", "40", "3", "sgd", "assocjax-sweep", "fables", "4"):
        assert f"[default: {default}]" in out
    assert "seed of the fables [default: 0]" in out
    assert "[default: of leading effective leading-factored, those that apply]" in out
    assert "None" not in out


def test_help_does_not_wait_for_heavy_imports():
    code = (
        "import sys\n"
        "from assocjax.cli import main\n"
        "main(['sweep', '--help'])\n"
        "main(['--help'])\n"
        "heavy = {'jax', 'numpy', 'numba', 'xarray', 'matplotlib', 'flax', 'optax', 'torch'}\n"
        "heavy |= {'tokenizers', 'transformers'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stderr.strip() == "[]"


# Sweep


def test_sweep_leaves_netcdf_that_plain_xarray_opens(tiny_sweep):
    out, _ = tiny_sweep
    with xr.open_dataset(out / "sweep.nc") as dataset:
        sizes = {"learning_rate": 2, "seed": 2, "init_scale": 2, "theory": 2}
        sizes |= {"quantity": 2, "weight": 4, "layer": 1, "step": 4}
        assert dict(dataset.sizes) == sizes
        np.testing.assert_array_equal(dataset["learning_rate"], [0.5, 1e30])
        np.testing.assert_array_equal(dataset["seed"], [0, 1])
        np.testing.assert_array_equal(dataset["init_scale"], [0, 1e-4])
        np.testing.assert_array_equal(dataset["step"], [0, 1, 2, 3])
        np.testing.assert_array_equal(dataset["layer"], [1])
        np.testing.assert_array_equal(dataset["theory"], ["leading", "effective"])
        runs = ("learning_rate", "seed", "init_scale")
        dims = (*runs, "theory", "quantity", "weight", "layer", "step")
        expected = dict.fromkeys(("relative_error", "cosine", "norm_ratio", "distance"), dims)
        expected |= {"loss": (*runs, "step"), "diverged_step": runs}
        expected["theory_diverged_step"] = (*runs, "theory")
        np.testing.assert_array_equal(dataset["weight"], WEIGHTS)
        assert {name: v.dims for name, v in dataset.data_vars.items()} == expected
        assert all(v.dtype == np.float32 for n, v in dataset.items() if "diverged" not in n)
        assert all("long_name" in variable.attrs for variable in dataset.variables.values())
        assert dataset["loss"].attrs["units"] == "nat"
        data = aj.load_tokens("fables", seq_len=8, num_sequences=8, num_documents=60)
        assert dataset.attrs["corpus_sha256"] == data.sha256
        assert dataset.attrs["corpus_name"] == "fables"
        config = json.loads(dataset.attrs["config"])
        assert config["steps"] == 3
        assert config["num_layers"] == 1
        assert config["optimizer"] == "sgd"
        assert config["learning_rates"] == [0.5, 1e30]
        assert json.loads(dataset.attrs["versions"])["jax"] == jax.__version__
        # Not only the form: the zero start begins at log V, and the first step goes downhill.
        start = dataset["loss"].sel(learning_rate=0.5, seed=0, init_scale=0)
        assert float(start[0]) == pytest.approx(np.log(data.vocab_size), rel=1e-5)
        assert float(start[1]) < float(start[0])


def test_sweep_leaves_a_summary_that_agrees(tiny_sweep):
    out, _ = tiny_sweep
    summary = read_json(out / "summary.json")
    dataset = aj.load(out / "sweep.nc")
    assert summary["corpus_sha256"] == dataset.attrs["corpus_sha256"]
    assert summary["config"] == json.loads(dataset.attrs["config"])
    assert summary["diverged"] == dataset.attrs["diverged"]
    assert len(summary["summary"]) == 8
    for row in summary["summary"]:
        cell = dataset.isel(step=-1).sel(
            learning_rate=row["learning_rate"],
            init_scale=row["init_scale"],
            theory=row["theory"],
            quantity="weights",
        )
        assert row["s*eta"] == 3 * row["learning_rate"]
        if row["learning_rate"] == 0.5:
            assert row["loss"] == pytest.approx(float(cell["loss"].mean()))
            error = cell["relative_error"].sel(weight="output")
            assert row["error"] == pytest.approx(float(error.max()))
            for weight in WEIGHTS:
                cosine = cell["cosine"].sel(weight=weight)
                assert row[weight] == pytest.approx(float(cosine.min()))
        else:
            assert {row[name] for name in ("loss", "error", *WEIGHTS)} == {None}


def test_sweep_leaves_figures(tiny_sweep):
    out, _ = tiny_sweep
    for name in FIGURES:
        for kind, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
            content = (out / f"{name}.{kind}").read_bytes()
            assert content.startswith(magic)
            assert len(content) > 5000
    names = {f"{name}.{kind}" for name in FIGURES for kind in ("png", "pdf")}
    assert {path.name for path in out.iterdir()} == names | {MARKER, "sweep.nc", "summary.json"}


def test_sweep_prints_a_table(tiny_sweep):
    out, process = tiny_sweep
    assert not process.stderr  # no progress bar where no one watches
    assert "fables: 8 sequences of 8 positions" in process.stdout
    table = [line.split() for line in process.stdout.splitlines()]
    header = next(row for row in table if row[:1] == ["theory"])
    # With a rate of 1e30 there is no room for a cosine of each weight.
    assert header == ["theory", "eta", "s*eta", "loss", "error", "cosine"]
    rows = [row for row in table if row[1:3] == ["5.00e-01", "1.50e+00"]]
    assert len(rows) == 4  # one for each starting scale and theory
    summary = read_json(out / "summary.json")["summary"]
    expected = [row for row in summary if row["learning_rate"] == 0.5]
    assert [float(row[3]) for row in rows] == pytest.approx([r["loss"] for r in expected], abs=1e-3)
    smallest = [min(row[name] for name in WEIGHTS) for row in expected]
    assert [float(row[5]) for row in rows] == pytest.approx(smallest, abs=1e-3)
    for path in out.iterdir():
        assert path.name in process.stdout or path.name == MARKER


def test_a_diverged_run_is_named_and_the_others_go_on(tiny_sweep):
    out, process = tiny_sweep
    dataset = aj.load(out / "sweep.nc")
    named = dataset.attrs["diverged"].split("; ")
    assert len(named) == 4  # two seeds, two starting scales
    assert all(run.startswith("learning_rate=1e+30 seed=") for run in named)
    assert f"diverged: {dataset.attrs['diverged']}" in " ".join(process.stdout.split())
    first = dataset["diverged_step"]
    assert (first.sel(learning_rate=0.5) == -1).all()
    assert (first.sel(learning_rate=1e30) >= 1).all()
    for seed in (0, 1):
        for scale in (0, 1e-4):
            where = {"learning_rate": 1e30, "seed": seed, "init_scale": scale}
            step = int(first.sel(where))
            assert any(
                run.endswith(f"seed={seed} init_scale={scale:g} at step {step}") for run in named
            )
            for name in dataset.data_vars:
                if "diverged" not in name:
                    assert dataset[name].sel(where).isel(step=slice(step, None)).isnull().all()
            assert dataset["loss"].sel(where).isel(step=slice(step)).notnull().all()
    alone = aj.sweep(
        aj.load_tokens("fables", seq_len=8, num_sequences=8, num_documents=60),
        learning_rates=[0.5],
        seeds=[0, 1],
        init_scales=[0, 1e-4],
        steps=3,
        num_layers=1,
        theories=["leading", "effective"],
    )
    beside = dataset.sel(learning_rate=[0.5])
    assert beside["loss"].notnull().all()
    # Another batch of runs may add in another order; small cosines are sums that cancel.
    for name in alone.data_vars:
        np.testing.assert_allclose(beside[name], alone[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_sweep_of_a_text_file_without_a_step(corpus, tmp_path, capsys):
    command = ["sweep", "--corpus", str(corpus / "stories.txt"), "--steps", "0"]
    command += ["--num-layers", "1"]
    cli.main([*command, *TINY, *ONE_RUN, "--out", str(tmp_path)])
    dataset = aj.load(tmp_path / "sweep.nc")
    assert dataset["step"].values.tolist() == [0]
    # Stories in a file are the stories told.
    told = aj.load_tokens("fables", seq_len=8, num_documents=60)
    assert dataset.attrs["corpus_sha256"] == told.sha256
    assert dataset.attrs["corpus_name"] == "stories.txt"
    assert dataset["loss"].item() == pytest.approx(np.log(told.vocab_size), rel=1e-5)
    assert "stories.txt: 8 sequences" in capsys.readouterr().out
    for figure in FIGURES:
        assert (tmp_path / f"{figure}.png").stat().st_size > 1000


def test_sweep_of_a_jsonl_file_in_double_precision(corpus, tmp_path, no_drawing):
    command = ["sweep", "--corpus", str(corpus / "stories.jsonl"), "--text-field", "story"]
    options = ["--precision", "float64", "--steps", "2"]
    cli.main([*command, *options, *TINY, *ONE_RUN, "--out", str(tmp_path)])
    dataset = aj.load(tmp_path / "sweep.nc")
    told = aj.load_tokens("fables", seq_len=8, num_documents=60)
    assert dataset.attrs["corpus_sha256"] == told.sha256
    assert {v.dtype for n, v in dataset.items() if "diverged" not in n} == {np.dtype(float)}
    # Digits that float32 does not have: the loss of the zero start, and the first step, in which
    # the theory is exact.
    start = dataset["loss"].isel(step=0).item()
    assert start == pytest.approx(np.log(told.vocab_size), rel=1e-14)
    error = dataset["relative_error"].sel(weight="output", quantity="weights", step=1)
    assert error.max() < 1e-13


def test_sweep_of_python_docs(tmp_path, capsys, no_drawing):
    command = ["sweep", "--corpus", "python-docs", "--vocab-size", "50", "--steps", "1"]
    cli.main([*command, "--batch-size", "4", *TINY, *ONE_RUN, "--out", str(tmp_path)])
    dataset = aj.load(tmp_path / "sweep.nc")
    assert dataset.attrs["corpus_name"] == "python-docs"
    assert json.loads(dataset.attrs["corpus"])["vocab_size"] == 50
    assert json.loads(dataset.attrs["config"])["batch_size"] == 4
    assert dataset["loss"].isel(step=0).item() == pytest.approx(np.log(50), rel=1e-5)
    assert "After 1 step" in capsys.readouterr().out


def test_main_works_where_jax_already_runs(monkeypatch, tmp_path, capsys):
    # As in a notebook: the number of devices can no longer be chosen.
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    assert jax.devices()
    cli.main(["associations", "bird", *TINY_TEXT])
    assert "bird in fables" in capsys.readouterr().out


# Statistics and associations


def test_statistics(tmp_path, capsys):
    cli.main(["statistics", *TINY_TEXT, "--precision", "float64", "--out", str(tmp_path)])
    data = aj.load_tokens("fables", seq_len=8, num_documents=60)
    expected = aj.corpus_statistics(data)
    with xr.open_dataset(tmp_path / "statistics.nc") as dataset:
        assert tuple(dataset["token"].values) == data.vocabulary
        assert dataset["bigram"].dtype == np.float64
        np.testing.assert_array_equal(dataset["bigram"], expected.bigram)
        summary = read_json(tmp_path / "summary.json")
        assert summary["corpus_sha256"] == data.sha256
        out = capsys.readouterr().out
        for row in summary["summary"]:
            values = dataset[row["matrix"]].values
            assert row["norm"] == pytest.approx(np.linalg.norm(values))
            assert row["largest"] == values.max()
            assert row["matrix"] in out
    assert f"{data.mask.sum()} positions" in out
    for kind in ("png", "pdf"):
        assert (tmp_path / f"statistics.{kind}").stat().st_size > 5000


@pytest.mark.parametrize("scoring", ["corrected", "raw", "z-score"])
def test_associations(scoring, tmp_path, capsys):
    option = ["--scoring", scoring] if scoring != "corrected" else []  # the default
    command = ["associations", "bird", ".", "red", *TINY_TEXT, "--top", "3", *option]
    cli.main(command)
    printed = capsys.readouterr().out
    cli.main([*command, "--out", str(tmp_path)])
    assert capsys.readouterr().out.startswith(printed.rstrip("\n"))
    data = aj.load_tokens("fables", seq_len=8, num_documents=60)
    statistics = aj.corpus_statistics(data)
    counts = count_by_loops(data.tokens, data.mask, data.vocab_size)
    matrices = {name: getattr(statistics, name) for name in MATRICES}
    if scoring == "corrected":
        statistics = aj.frequency_corrected(statistics, data.tokens, data.mask)
        matrices = {name: getattr(statistics, name) for name in MATRICES}
    elif scoring == "z-score":
        support = scorings.support_of(counts, data.vocabulary)
        matrices = scorings.theory_scores(statistics, support, scoring=scoring)
    content = read_json(tmp_path / "associations.json")
    assert content["config"]["scoring"] == scoring
    assert content["corpus_sha256"] == data.sha256
    assert list(content["associations"]) == ["bird", ".", "red"]
    truth, words = fables.ground_truth(), " ".join(printed.replace("*", "").split())
    for token, lists in content["associations"].items():
        assert f"{token} in fables, {scoring} scores" in printed
        assert list(lists) == [name for name in MATRICES if name in matrices]
        for name, best in lists.items():
            row = counts[name][data.token_id(token)]
            expected = aj.top_associations(
                matrices[name], data.vocabulary, token, 3, occurrences=row
            )
            found = [(each["token"], each["score"], each["occurrences"]) for each in best]
            assert found == expected
            planted = truth.get(name, {}).get(token, ())
            assert all(each["planted"] == (each["token"] in planted) for each in best)
            assert MATRICES[name] in printed
            for other, score, number in expected:
                assert number > 0
                assert f"{other} {score:.2g} ({number})" in words
    assert "apple* " in printed


def test_an_empty_list_says_why(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("the end .\n" * 3 + "ab cd ef gh\n")
    corpus = ["--corpus", str(tmp_path / "text.txt"), "--separator", "\n", "--seq-len", "2"]
    cli.main(["associations", ".", "end", *corpus, "--scoring", "raw"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "none: no token follows '.' in this text" in printed
    assert "none: no token stands before 'the'" not in printed
    assert "bigram: tokens that follow it . " in printed


def test_many_unknown_tokens_are_announced(capsys):
    corpus = ["associations", "the", *TINY_TEXT, "--scoring", "raw"]
    cli.main(corpus)
    assert "warning" not in capsys.readouterr().out
    cli.main([*corpus, "--vocab-size", "20"])
    printed = capsys.readouterr().out
    (line,) = (line for line in printed.splitlines() if line.startswith("warning"))
    data = aj.load_tokens("fables", seq_len=8, num_documents=60, vocab_size=20)
    assert f"{data.unk_fraction:.1%} of the tokens" in line
    enough = int(line.split("--vocab-size ")[1].split()[0])
    assert 20 < enough < 202
    data = aj.load_tokens("fables", seq_len=8, num_documents=60, vocab_size=enough, short="pad")
    assert data.unk_fraction < 0.06  # 5 % of the text; windows repeat some of its tokens
    assert "<unk>" not in printed.replace(line, "")


def test_no_largest_entry_is_of_unknown_tokens():
    data = aj.load_tokens("fables", seq_len=8, num_documents=60, vocab_size=20)
    dense, sparse = aj.corpus_statistics(data), aj.sparse_statistics(data)
    of_dense = statistics_summary(aj.statistics_dataset(data, dense))
    of_sparse = {row["matrix"]: row for row in sparse_summary(sparse, data.vocabulary)}
    unknown = data.token_id("<unk>")
    for row in of_dense:
        matrix = np.asarray(getattr(dense, row["matrix"]))
        known = np.delete(np.delete(matrix, unknown, 0), unknown, 1)
        assert row["largest"] == known.max()
        at = data.token_id(row["row"]), data.token_id(row["column"])
        assert matrix[at] == known.max()
        if row["matrix"] in of_sparse:
            assert of_sparse[row["matrix"]]["largest"] == pytest.approx(known.max(), rel=1e-5)


def test_attribute_says_how_often_the_pair_occurs(capsys):
    cli.main(["attribute", "red", "apple", *TINY_TEXT, "--weight", "bigram", "--top", "1"])
    data = aj.load_tokens("fables", seq_len=8, num_documents=60)
    counts = count_by_loops(data.tokens, data.mask, data.vocab_size)["bigram"]
    number = counts[data.token_id("red"), data.token_id("apple")]
    assert f"occurrences of the pair: {number}, planted" in capsys.readouterr().out


# Associations over training


def test_track_and_explore(tmp_path, capsys):
    arguments = ("--steps", "2", "--record-at", "2", "0", "--top", "4", "--vocab-size", "60")
    out = ("--graph", "the", "--out", str(tmp_path))
    cli.main(["track", *TINY, *arguments, "--learning-rate", "0.5", *out])
    printed = capsys.readouterr().out
    dataset = aj.load(tmp_path / "track.nc")
    data = aj.load_tokens("fables", seq_len=8, num_sequences=8, num_documents=60, vocab_size=60)
    assert dataset.attrs["corpus_sha256"] == data.sha256
    assert dataset["step"].values.tolist() == [0, 2]
    assert dataset.sizes["rank"] == 4
    config = json.loads(dataset.attrs["config"])
    assert (config["learning_rate"], config["init_scale"]) == (0.5, 1e-5)
    summary = read_json(tmp_path / "summary.json")
    assert summary["formation"][0]["matrix"] == "bigram"
    # Names are frequent enough to be among the 60, and with them what is planted of them.
    assert 0 <= float(dataset["interchangeability_theory_precision"].sel(scoring="raw")) <= 1
    row = next(r for r in summary["formation"] if r["scoring"] == "z-score")
    line = next(line for line in printed.splitlines() if line.strip().startswith("bigram"))
    assert round(row["end"], 2) in map(float, line.replace("-", "nan").split()[2:])
    files = {path.name for path in tmp_path.iterdir()}
    graph = f"context_{data.token_id('the')}_the"
    figures = {f"{n}.{k}" for n in ("overlap", "precision", graph) for k in ("png", "pdf")}
    assert files == figures | {MARKER, "track.nc", "summary.json"}
    for name in files - {MARKER, "summary.json"}:
        assert name in printed
    cli.main(["explore", str(tmp_path / "track.nc"), "--token", "the"])
    assert "track.html" in " ".join(capsys.readouterr().out.split())
    text = (tmp_path / "track.html").read_text("utf-8")
    assert f'"start":{data.token_id("the")},' in text
    assert data.sha256 in text


# Bad input


@pytest.fixture
def bad_files(tmp_path):
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "latin.txt").write_bytes("caf\xe9 au lait".encode("latin-1"))
    (tmp_path / "short.txt").write_text("three little words")
    (tmp_path / "lines.jsonl").write_text('{"title": "a b c"}\n')
    (tmp_path / "broken.jsonl").write_text('{"text": ')
    return tmp_path


# {dir} is a folder with those files. What the message must say comes last.
BAD = {
    "missing file": ("sweep --corpus {dir}/none.txt", ["corpus", "none.txt"]),
    "empty file": ("sweep --corpus {dir}/empty.txt", ["corpus", "empty.txt", "empty"]),
    "not UTF-8": ("sweep --corpus {dir}/latin.txt", ["corpus", "latin.txt", "UTF-8", "offset 3"]),
    "a folder": ("sweep --corpus {dir}", ["corpus"]),
    "no such field": ("sweep --corpus {dir}/lines.jsonl", ["lines.jsonl", "'text'", "'title'"]),
    "not JSON": ("sweep --corpus {dir}/broken.jsonl", ["broken.jsonl", "line 1"]),
    "no document long enough": (
        "sweep --corpus {dir}/short.txt --num-sequences 1",
        ["short.txt", "33 tokens", "longest has 3"],
    ),
    "too few sequences": (
        "sweep --corpus {dir}/short.txt --seq-len 2 --num-sequences 9",
        ["--num-sequences", "1 sequences", "got 9"],
    ),
    "tiny vocabulary": ("sweep --vocab-size 1", ["--vocab-size", ">= 2", '"1"']),
    "vocabulary larger than the text's": (
        "statistics --corpus {dir}/short.txt --seq-len 2 --vocab-size 99",
        ["--vocab-size", "3 different tokens", "got 99"],
    ),
    "vocabulary that is no number": ("sweep --vocab-size many", ["--vocab-size", "'many'"]),
    "no positions": ("sweep --seq-len 0", ["--seq-len", ">= 1", '"0"']),
    "unknown corpus": ("sweep --corpus fabels", ["corpus", "'fabels'", "'fables'?"]),
    "unknown tokenizer": ("sweep --tokenizer words", ["tokenizer", "'words'"]),
    "unknown precision": ("sweep --precision half", ["--precision", '"half"', "float32"]),
    "negative steps": ("sweep --steps -1", ["--steps", ">= 0", '"-1"']),
    "fractional steps": ("sweep --steps 1.5", ["--steps", "'1.5'"]),
    "no layers": ("sweep --num-layers 0", ["--num-layers", ">= 1", '"0"']),
    "zero learning rate": ("sweep --learning-rates 0.1 0", ["--learning-rates", "> 0", '"0.0"']),
    "negative learning rate": ("sweep --learning-rates -1", ["--learning-rates", "> 0", '"-1.0"']),
    "infinite learning rate": ("sweep --learning-rates inf", ["--learning-rates", '"inf"']),
    "learning rate, no number": ("sweep --learning-rates fast", ["--learning-rates", '"fast"']),
    "no learning rate": ("sweep --learning-rates", ["--learning-rates"]),
    "repeated learning rate": ("sweep --learning-rates 1 2 1", ["--learning-rates", "repeat"]),
    "repeated seed": ("sweep --seeds 3 3", ["--seeds", "repeat"]),
    "negative seed": ("sweep --seeds -3", ["--seeds", ">= 0", '"-3"']),
    "large seed": (f"sweep --seeds {2**31}", ["--seeds", str(2**31 - 1), str(2**31)]),
    "repeated start": ("sweep --init-scales 0 0", ["--init-scales", "repeat"]),
    "start that is not finite": ("sweep --init-scales nan", ["--init-scales", "nan"]),
    "unknown optimizer": ("sweep --optimizer nosuch", ["optimizer", "'nosuch'"]),
    "function of optax": ("sweep --optimizer apply_updates", ["optimizer", "'apply_updates'"]),
    "nothing of optax": ("sweep --optimizer sgd_", ["optimizer", "'sgd_'"]),
    "attribute of a module": ("sweep --optimizer __name__", ["optimizer", "'__name__'"]),
    "unknown schedule": ("sweep --schedule step", ["--schedule", '"step"', '"cosine"']),
    "warm-up as long as the run": (
        "sweep --schedule cosine --warmup-steps 9 --steps 9",
        ["--warmup-steps must be less than steps, 9; got 9"],
    ),
    "unknown gradient": ("sweep --gradient backward", ["--gradient", "'backward'"]),
    "batch of too many": ("sweep --batch-size 9", ["--batch-size", "8", "got 9"]),
    "empty batch": ("sweep --batch-size 0", ["--batch-size", ">= 1", '"0"']),
    "no memory": ("sweep --memory-limit 0", ["--memory-limit", "'0'"]),
    "negative memory": ("sweep --memory-limit -2", ["--memory-limit", "'-2'"]),
    "memory for no run": ("sweep --memory-limit 0.001", ["--memory-limit", "one run", "above"]),
    "no steps between checkpoints": (
        "sweep --checkpoint-every 0",
        ["--checkpoint-every", ">= 1", '"0"'],
    ),
    "steps without end": (
        "horizon --corpus none.txt --learning-rates 1e-30",
        ["--learning-rates", "24", "got 1e-30"],
    ),
    "one process of some": ("sweep --process-id 1", ["--coordinator", "together"]),
    "memory that is no number": ("sweep --memory-limit nan", ["--memory-limit", "'nan'"]),
    "infinite memory": ("sweep --memory-limit inf", ["--memory-limit", "'inf'"]),
    "output under a file": ("sweep --out {dir}/short.txt/out", ["folder", "short.txt/out"]),
    "output is a file": ("statistics --out {dir}/short.txt", ["folder", "short.txt"]),
    "output of associations": ("associations bird --out {dir}/short.txt", ["is a file"]),
    "unknown token": ("associations bird brid", ["'brid'", "close to it", "'bird'"]),
    "unlike any token": ("associations xyzzy", ["'xyzzy'", "vocabulary of fables"]),
    "no token": ("associations", ["TOKENS is missing"]),
    "shard that is no part": ("statistics --shard 1-4", ["--shard", "I/N", "'1-4'"]),
    "second pass without a shard": ("statistics --counts {dir}/short.txt", ["--shard", "None"]),
    "shard after the last": ("statistics --shard 5/4", ["--shard", "I from 1 to N", "'5/4'"]),
    "counts that are none": (
        "statistics --shard 1/4 --counts {dir}/short.txt",
        ["cannot read results", "short.txt"],
    ),
    "merge of other files": ("merge {dir}/short.txt", ["cannot read results", "short.txt"]),
    "statistics whose name is too long": (
        f"associations bird --statistics {'a' * 300}",
        ["--statistics", "has no results"],
    ),
    "nothing to merge": ("merge", ["FILES is missing"]),
    "statistics that are not there": (
        "associations bird --statistics {dir}/none",
        ["--statistics", "none", "statistics.nc", "counts.nc"],
    ),
    "correction without a corpus": (
        "associations bird --statistics {dir} --scoring corrected",
        ["--scoring corrected", "--statistics"],
    ),
    "token file that is not there": ("statistics --corpus {dir}/no.bin", ["no.bin", "no such"]),
    "tokens of some sequences": ("tokenize --num-sequences 3", ["--num-sequences"]),
    "dtype of a text": ("statistics --dtype uint16", ["--dtype", "only for token files"]),
    "no associations": ("associations bird --top 0", ["--top", ">= 1", '"0"']),
    "graph of an unknown token": ("track --graph brid", ["'brid'", "'bird'"]),
    "record after the end": ("track --steps 3 --record-at 4", ["--record-at", "3", "got 4"]),
    "no lists": ("track --top 0", ["--top", ">= 1", '"0"']),
    "nothing to explore": ("explore {dir}/none.nc", ["cannot read results", "none.nc"]),
    "no results named": ("explore", ["RESULTS is missing"]),
    "no command": ("", ["COMMAND"]),
    "unknown command": ("train", ['"train"', "track"]),
    "unknown option": ("sweep --lr 1", ["--lr"]),
}  # fmt: skip


def one_line(stderr, expected):
    assert stderr.startswith("assocjax: ")
    assert stderr.count("\n") == 1
    assert stderr.endswith("\n")
    assert "Traceback" not in stderr
    for words in expected:
        assert words in stderr


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case, bad_files, capsys, monkeypatch):
    line, expected = BAD[case]
    monkeypatch.chdir(bad_files)
    arguments = [word.format(dir=bad_files) for word in line.split()]
    if arguments and "--corpus" not in arguments:
        # A small corpus, quickly read; of an option given twice, the second counts.
        arguments[1:1] = {
            "sweep": TINY,
            "track": TINY,
            "train": (),
            "merge": (),
            "explore": (),
        }.get(arguments[0], TINY_TEXT)
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    one_line(capsys.readouterr().err, expected)


def test_bad_input_in_a_process(tmp_path):
    process = run("sweep", *TINY, "--steps", "-1", "--out", str(tmp_path))
    assert process.returncode == 2
    one_line(process.stderr, ["--steps", '"-1"', "(see assocjax sweep --help)"])
    assert not list(tmp_path.iterdir())


def test_no_network(monkeypatch, tmp_path, capsys):
    pytest.importorskip("datasets")
    import huggingface_hub

    def unreachable(*arguments, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(SystemExit) as stop:
        cli.main(["sweep", "--corpus", "tinystories", "--out", str(tmp_path)])
    assert stop.value.code == 2
    one_line(capsys.readouterr().err, ["TinyStories", "cannot be reached", "no route to host"])


def test_interrupt_is_one_line(monkeypatch, tmp_path, capsys):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("assocjax.corpora.load_tokens", interrupt)
    with pytest.raises(SystemExit) as stop:
        cli.main(["sweep", "--out", str(tmp_path)])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "assocjax: interrupted\n"


def test_a_bug_keeps_its_traceback(monkeypatch, tmp_path):
    def fail(*arguments, **options):
        raise ValueError("not the user's fault")

    monkeypatch.setattr("assocjax.corpora.load_tokens", fail)
    with pytest.raises(ValueError, match="not the user's fault"):
        cli.main(["sweep", "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": -1}, ValueError, "steps must be at least 0; got -1"),
        ({"steps": 1.0}, TypeError, "steps must be an integer"),
        ({"num_layers": 0}, ValueError, "num_layers"),
        ({"learning_rates": []}, ValueError, "learning_rates"),
        ({"learning_rates": [0.0]}, ValueError, "learning_rates must be positive"),
        ({"learning_rates": [1.0, 1.0]}, ValueError, "learning_rates must not repeat"),
        ({"learning_rates": 0.1}, TypeError, "learning_rates must be a sequence"),
        ({"learning_rates": ["fast"]}, TypeError, "learning_rates must be a number"),
        ({"learning_rates": "fast"}, TypeError, "learning_rates must be a sequence"),
        ({"learning_rates": [float("nan")]}, ValueError, "learning_rates must be finite"),
        ({"seeds": [-1]}, ValueError, "seeds"),
        ({"seeds": [0.5]}, TypeError, "seeds must be an integer"),
        ({"seeds": [2**31]}, ValueError, "seeds must be at most"),
        ({"init_scales": [-1.0]}, ValueError, "init_scales"),
        ({"gradient": "backward"}, ValueError, "gradient must be one of"),
        ({"optimizer": "nosuch"}, ValueError, "optimizer must be the name"),
        ({"optimizer": "apply_updates"}, ValueError, "optimizer must be the name"),
        ({"optimizer": 3}, TypeError, "optimizer must be a name"),
        ({"optimizer": lambda learning_rate: learning_rate}, TypeError, "optimizer must be"),
        ({"batch_size": 9}, ValueError, "batch_size must be at most .* 8"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"microbatch_size": 0}, ValueError, "microbatch_size"),
        ({"memory_limit": 0}, ValueError, "memory_limit"),
        ({"memory_limit": 1e9}, TypeError, "memory_limit must be an integer"),
        ({"data": "fables"}, TypeError, "data must be TokenData"),
    ],
)
def test_library_sweep_rejects_bad_arguments(options, error, message):
    data = aj.load_tokens("fables", seq_len=8, num_sequences=8, num_documents=60)
    arguments = {"data": data, "learning_rates": [0.1], "steps": 1, "num_layers": 1} | options
    with pytest.raises(error, match=message):
        aj.sweep(arguments.pop("data"), **arguments)


# Large corpora


def test_shards_of_a_token_file_give_the_bits_of_one_run(tmp_path, capsys):
    tokens, out, one = (str(tmp_path / name) for name in ("tokens", "out", "one"))
    cli.main(["tokenize", *TINY_TEXT, "--short", "pad", "--out", tokens])
    assert "written to" in capsys.readouterr().out
    for kind, first in (("counts", []), ("correlations", ["--counts", f"{out}/counts.nc"])):
        for shard in ("1/2", "2/2"):
            cli.main(["statistics", "--corpus", tokens, "--shard", shard, *first, "--out", out])
        files = [f"{out}/{kind}-{shard}-of-2.nc" for shard in (2, 1)]
        cli.main(["merge", *files, "--out", out])
    cli.main(["statistics", "--corpus", tokens, "--out", one])
    for name in ("counts.nc", "correlations.nc"):
        assert aj.load(f"{out}/{name}").identical(aj.load(f"{one}/{name}"))
    written = {path.name for path in (tmp_path / "one").iterdir()}
    assert written == {MARKER, "counts.nc", "correlations.nc", "summary.json"}
    capsys.readouterr()
    # What is read off them is what the text itself gives, by dense matrices.
    text = [*TINY_TEXT, "--short", "pad", "--precision", "float64"]
    scores = {}
    for name, arguments in (
        ("dense", [*text, "--matrices", "dense"]),
        ("sparse", [*text, "--matrices", "sparse"]),
        ("file", ["--corpus", tokens]),
        ("dense of a file", ["--corpus", tokens, "--matrices", "dense", "--precision", "float64"]),
        ("statistics", ["--statistics", out]),
    ):
        folder = tmp_path / name
        command = ["associations", "bird", "--top", "3", "--scoring", "raw", *arguments]
        cli.main([*command, "--out", str(folder)])
        content = read_json(folder / "associations.json")
        assert content["corpus_name"] == "fables"
        assert content["config"]["top"] == 3
        found = content["associations"]["bird"]
        assert set(found) == set(MATRICES)
        scores[name] = [best["score"] for matrix in found.values() for best in matrix]
    for name in scores:
        np.testing.assert_allclose(scores[name], scores["dense"], rtol=1e-6, err_msg=name)
    # The summary tells the norms of the dense matrices.
    data = aj.load_tokens("fables", seq_len=8, num_documents=60, short="pad")
    dense = aj.corpus_statistics(data)
    for row in read_json(tmp_path / "one" / "summary.json")["summary"]:
        matrix = np.asarray(getattr(dense, row["matrix"]), float)
        assert row["norm"] == pytest.approx(np.linalg.norm(matrix), rel=1e-5)
        assert row["largest"] == pytest.approx(matrix.max(), rel=1e-5)
        i, j = np.unravel_index(np.argmax(matrix), matrix.shape)
        assert (row["row"], row["column"]) == (data.vocabulary[i], data.vocabulary[j])


def test_frequency_correction_of_sparse_matrices(tmp_path):
    scores = []
    for matrices in ("dense", "sparse"):
        how = ("--matrices", matrices, "--precision", "float64")
        out = ("--out", str(tmp_path / matrices))
        cli.main(["associations", "bird", *TINY_TEXT, *how, *out])
        found = read_json(tmp_path / matrices / "associations.json")["associations"]["bird"]
        scores.append([best["score"] for matrix in found.values() for best in matrix])
    np.testing.assert_allclose(*scores, rtol=1e-6)


# Horizons


def test_horizon_prints_a_table_and_writes_rows_laws_and_a_figure(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    arguments = ("--num-documents", "60", "--num-sequences", "8", "--out", str(tmp_path))
    settings = ("--seq-lens", "8", "4", "--vocab-sizes", "12", "--num-layers", "1")
    ends = ("--learning-rates", "2", "1", "--duration", "16", "--threshold", "0.001")
    cli.main(["horizon", *arguments, *settings, *ends])
    out = capsys.readouterr().out
    content = read_json(tmp_path / "horizons.json")
    rows = content["horizons"]
    found = {(row["seq_len"], row["learning_rate"], row["theory"]) for row in rows}
    assert len(rows) == len(found) == 6
    assert {row["theory"] for row in rows} == {"leading", "effective"}
    base = rows[0]
    assert (base["vocab_size"], base["seq_len"], base["num_layers"]) == (12, 8, 1)
    assert base["output*eta"] == 2 * base["output"] > 0
    for law in content["laws"]:
        assert ("exponents" in law) != ("none" in law)
    assert content["config"]["threshold"] == 0.001
    assert len(content["corpus_sha256"]) == 64
    for word in ("query_key", "output*eta", "leading", "effective", "Power laws", "horizons.png"):
        assert word in out
    assert out.count("fables: ") == 2  # each size is read once
    for kind in ("png", "pdf"):
        assert (tmp_path / f"horizons.{kind}").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sweep", "--theories", "nosuch"), "--theories must be one of 'leading', 'eff"),
        (("horizon", "--theories"), "--theories requires at least 1"),
        (("horizon", "--duration", "0"), '"0.0" for --duration. Must be > 0'),
        (("horizon", "--threshold", "-1"), '"-1.0" for --threshold. Must be >= 0'),
        (("horizon", "--num-layers", "0"), '"0" for --num-layers. Must be >= 1'),
        (
            ("horizon", "--vocab-sizes", "9999"),
            "--vocab-sizes: the text has 202 different tokens, got 9999",
        ),
    ],
)
def test_bad_settings_of_theories_and_horizons(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, "--num-documents", "60", "--out", str(tmp_path)])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_sizes_of_horizons_fail_before_the_work(monkeypatch, tmp_path, capsys):
    def study(*arguments, **options):
        raise AssertionError("the work has begun")

    monkeypatch.setattr("assocjax.experiments.horizons.horizon_study", study)
    sizes = ("--vocab-sizes", "12", "9999", "--seq-lens", "8", "--num-layers", "1")
    with pytest.raises(SystemExit) as stop:
        cli.main(["horizon", "--num-documents", "60", *sizes, "--out", str(tmp_path)])
    assert stop.value.code == 2
    one_line(capsys.readouterr().err, ["--vocab-sizes", "got 9999"])


def test_less_precise_products_are_an_error_that_is_printed(tmp_path):
    """A process of its own: the precision of products is set for all of a process."""
    tiny = "sweep --vocab-size 60 --seq-len 6 --num-sequences 4 --num-layers 1 --steps 1"
    arguments = [*tiny.split(), "--learning-rates", "1", "--seeds", "0", "--init-scales", "0"]
    command = [sys.executable, "-m", "assocjax.cli", *arguments, "--theories", "leading"]
    command += ["--matmul-precision", "tensorfloat32", "--out", str(tmp_path)]
    command += ["--figure-format", "png", "--dpi", "20"]  # drawing takes longest
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "exact gradients with products in tensorfloat32" in " ".join(found.stdout.split())
    assert aj.load(tmp_path / "sweep.nc").attrs["matmul_precision"] == "tensorfloat32"

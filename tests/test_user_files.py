"""No command and no function removes or changes a file that assocjax may write."""

import contextlib
import inspect
import io
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from conftest import assert_described
from matplotlib.figure import Figure
from rich.cells import cell_len
from rich.console import Console
from tracked_lists import random_comparison

import assocjax as aj
from assocjax import cli, figures
from assocjax.cli._report import show_table, width
from assocjax.corpora import fables
from assocjax.statistics import shards
from assocjax.storage import MARKER, is_ours

CORPUS = ["--corpus", "../text.txt", "--seq-len", "6"]
FEW = [*CORPUS, "--num-sequences", "8"]
RUN = [*FEW, "--num-layers", "1", "--steps", "2"]
STUDY = ["--corpus", "../text.txt", "--num-sequences", "8", "--vocab-sizes", "20"]
STUDY += ["--seq-lens", "6"]
STUDY += ["--num-layers", "1", "--learning-rates", "0.5", "--duration", "1"]
STUDY += ["--theories", "leading"]
MODEL = ["--vocab-size", "150", "--seq-len", "16", "--batch-size", "4", "--num-layers", "2"]
MODEL += ["--width", "16", "--num-heads", "2", "--steps", "1"]
COMPARE = [
    "--corpus",
    "../text.txt",
    "--seq-len",
    "16",
    "--num-sequences",
    "60",
    "--min-count",
    "1",
]
COMPARE += ["--num-tokens", "30", "--shuffles", "4", "--bins", "2", "--revisions", "step0"]

TWINS = [*CORPUS, "--num-sequences", "60", "--revisions", "step0,step1", "--orders", "1"]
TWINS += ["--num-twins", "1", "--rows", "16"]

PREDICT = ["--corpus", "../text.txt", "--num-sequences", "60", "--vocab-size", "20"]
PREDICT += ["--seq-len", "6", "--batch-size", "4", "--num-layers", "1", "--width", "8"]
PREDICT += ["--num-heads", "1", "--steps", "2", "--num-twins", "1", "--num-runs", "1"]

COMMANDS = {
    "sweep": ([*RUN, "--learning-rates", "0.5", "--theories", "leading"], ["--steps", "3"]),
    "horizon": (STUDY, ["--duration", "1.5"]),
    "statistics": (FEW, ["--seq-len", "5"]),
    "statistics --matrices sparse": (FEW, ["--seq-len", "5"]),
    "associations bird": (FEW, ["--top", "3"]),
    "attribute bird flew": (FEW, ["--top", "3"]),
    "tokenize": (CORPUS, ["--seq-len", "5"]),
    "track": (RUN, ["--seed", "1"]),
    "predict": (PREDICT, ["--fraction", "0.4"]),
    "ablate": ([*RUN, "--draws", "2"], ["--seed", "1"]),
    "reproduce figure5 --scale tiny": ([], None),
    "pretrain-tiny": (["--corpus", "../text.txt", *MODEL], ["--seed", "1"]),
    "compare ../model": (COMPARE, ["--shuffles", "5"]),
    "ngrams ../model": (COMPARE, ["--shuffles", "5"]),
    "compare ../model --twin pretrain-tiny": (TWINS, ["--num-twins", "2"]),
}


READERS = ("reproduce.reproduce", "llm.texts.tokens_of_model", "corpora.load_tokens")
READERS += ("corpora.open_tokens", "corpora.write_tokens", "corpora.read_documents")
"""Those that import others come first, since they keep what they have imported."""


def _fail(*arguments, **options):
    raise AssertionError("the corpus is read")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A user's folder, with a text, and beside it whatever else there is."""
    home = tmp_path_factory.mktemp("home")
    (home / "text.txt").write_text("<|endoftext|>".join(fables.generate(60)), "utf-8")
    (home / "thesis").mkdir()
    (home / "thesis" / "chapter.tex").write_text("years of work")
    (home / "models").mkdir()
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.chdir(home / "models")
        cli.main(["pretrain-tiny", "--corpus", "../text.txt", *MODEL, "--out", "../model"])
    return home


@pytest.fixture(autouse=True)
def as_a_user(home, monkeypatch):
    """In a folder of its own, with figures that are quickly drawn."""
    before = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    work = home / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def draw(self, path, *, metadata, **options):
        Path(path).write_text(f"drawn, {' '.join(str(v) for v in metadata.values())}")

    monkeypatch.setattr(Figure, "savefig", draw)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
    jax.config.update("jax_enable_x64", before)
    monkeypatch.undo()
    shutil.rmtree(work)


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def refused(command, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(command)
    err = capsys.readouterr().err
    assert stop.value.code == 2, err
    assert len(err.strip().splitlines()) == 1
    return err


def check_table(table):
    """At 80 columns no line is longer, no digit and no name of a column is lost, and in words it
    says what it shows."""
    screen = Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
    show_table(table, screen)
    printed = screen.file.getvalue()
    assert all(cell_len(line.rstrip()) <= 80 for line in printed.splitlines())
    words = printed.split()
    if len({group for group, _ in table["columns"]}) > 1:  # rows would no longer be aligned
        assert width(table) <= 80
    for (group, name), left, cells in zip(
        table["columns"], table["left"], table["cells"], strict=True
    ):
        assert set(f"{group} {name}".split()) <= set(words)
        assert left or set(cells) <= set(words)
    assert table["verdict"].split()[0] in words


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_touches_nothing_but_what_it_wrote(name, home, capsys, monkeypatch):
    if name.startswith(("compare", "ngrams")):
        pytest.importorskip("torch", reason="language models need the extra llm")
    options, change = COMMANDS[name]
    command = [*name.split(), *options, "--out"]
    around = tree(home)

    cli.main([*command, "out"])
    printed = capsys.readouterr().out
    written = tree("out")
    for path in Path("out").rglob("*.nc"):
        assert_described(aj.load(path))
    for table in (
        part for part in json.loads(written[MARKER])["command"]["report"] if "table" in part
    ):
        check_table(table)
    assert tree(home) == around | {f"work/out/{file}": data for file, data in written.items()}

    # Files of the same names that somebody else wrote, in a folder and in one of its folders.
    for file in (*written, "unfinished/checkpoint/1/x", "notes.txt"):
        if file != MARKER:
            (Path("theirs") / file).parent.mkdir(parents=True, exist_ok=True)
            (Path("theirs") / file).write_text("theirs")
    theirs = tree("theirs")
    for more in ([], ["--overwrite"]):
        assert "assocjax may write" in refused([*command, "theirs", *more], capsys)
        assert tree("theirs") == theirs

    # The same again is complete, which is said, with its report, before anything is read; what the
    # user has added stays.
    for file in ("notes.txt", "a/notes.txt", "unfinished/notes.txt"):
        Path("out", file).parent.mkdir(exist_ok=True)
        Path("out", file).write_text("mine")
    mine = {file: b"mine" for file in ("notes.txt", "a/notes.txt", "unfinished/notes.txt")}
    with monkeypatch.context() as patch:
        for reader in READERS:
            patch.setattr(f"assocjax.{reader}", _fail)
        cli.main([*command, "out"])
        again = capsys.readouterr().out.splitlines(keepends=True)
        assert again[0] == "already complete, in out: --overwrite computes it again\n"
        assert len(again) > 2
        assert printed.endswith("".join(again[1:]))
        assert tree("out") == written | mine
        if change is not None:
            said = refused([*command, "out", *change], capsys)
            assert f"configuration: its {change[0]} is" in said
            assert f"here it is {change[1]};" in said
            assert tree("out") == written | mine

    # Another configuration replaces ours, but nothing else, where it is asked to.
    if change is not None:
        cli.main([*command, "out", *change, "--overwrite"])
        after = tree("out")
        assert {file: after.pop(file) for file in mine} == mine
        assert after.keys() == written.keys()
        assert after != written
        assert all(is_ours(Path("out", file)) for file in after if file != MARKER)
    assert {
        file: data for file, data in tree(home).items() if not file.startswith("work/")
    } == around


def test_texts_of_one_name_and_results_of_another_form(capsys):
    text = Path("../text.txt").read_text("utf-8")
    command = ["statistics", *FEW[2:], "--corpus", "copy.txt", "--out", "out"]
    Path("copy.txt").write_text(text, "utf-8")
    cli.main(command)
    Path("copy.txt").write_text(text.replace("bird", "brid"), "utf-8")
    said = refused(command, capsys)
    assert "its text 'copy.txt' is of the same name and size as here, but not the same" in said
    Path("copy.txt").write_text(text, "utf-8")
    cli.main(command)
    assert capsys.readouterr().out.startswith("already complete")
    Path("other.txt").write_text(text, "utf-8")
    said = refused([*command, "--corpus", "other.txt"], capsys)
    assert "is 'copy.txt', here it is 'other.txt'" in said

    # A folder holds either form, never both; of the other, only the user's own file stays.
    Path("out/statistics.txt").write_text("mine")
    cli.main([*command, "--matrices", "sparse", "--overwrite"])
    names = {MARKER, "counts.nc", "correlations.nc", "summary.json", "statistics.txt"}
    assert tree("out").keys() == names
    refused([*command, "--shard", "1/2"], capsys)
    cli.main(["associations", "bird", "--statistics", "out", "--out", "lists"])
    printed = capsys.readouterr().out
    cli.main([*command, "--overwrite"])
    assert "counts.nc" not in tree("out")
    cli.main(["associations", "bird", "--statistics", "out"])
    dense = capsys.readouterr().out
    assert "bird in copy.txt" in dense
    assert "bird in copy.txt" in printed
    # What was read has changed since.
    refused(["associations", "bird", "--statistics", "out", "--out", "lists", "--top", "2"], capsys)


def test_a_figure_of_a_format_that_is_no_longer_asked_for_is_removed(capsys, monkeypatch):
    command = ["statistics", *FEW, "--out", "out", "--quiet"]
    cli.main([*command, "--figure-format", "svg", "--dpi", "40"])
    assert Path("out/statistics.svg").is_file()
    assert not Path("out/statistics.png").exists()
    Path("out/mine.svg").write_text("mine")
    capsys.readouterr()
    monkeypatch.setattr("assocjax.statistics.dense.corpus_statistics", _fail)  # only drawn again
    cli.main(command)
    assert capsys.readouterr().out.startswith("\nStatistics of text.txt")  # no notes
    names = {"statistics.nc", "statistics.png", "statistics.pdf", "summary.json", "mine.svg"}
    assert tree("out").keys() == {MARKER, *names}


def test_a_text_of_the_hub_is_read_again_only_if_it_has_changed(home, capsys, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    constants = pytest.importorskip("huggingface_hub.constants")
    commit, read = SimpleNamespace(sha="first"), []

    def opened(source):
        read.append(source)
        return f"hf:{source}", lambda: iter([{"text": "the bird flew away and sang "}] * 9)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.HfApi, "dataset_info", lambda self, name, timeout: commit)
    monkeypatch.setattr("assocjax.corpora._hub.open_dataset", opened)
    command = [
        "associations",
        "bird",
        "--corpus",
        "hf:owner/name",
        "--seq-len",
        "4",
        "--out",
        "out",
    ]
    for commit.sha, times in (("first", 1), ("first", 1), ("second", 2)):
        cli.main(command)
        assert len(read) == times
    assert capsys.readouterr().out.count("already complete") == 2


def test_the_page_and_the_shards(home, capsys, monkeypatch):
    """Commands that write single files beside others."""
    cli.main(["track", *RUN, "--out", "out"])
    cli.main(["explore", "out/track.nc"])
    page = Path("out/track.html").read_bytes()
    capsys.readouterr()
    with monkeypatch.context() as patch:  # again, before the results are read
        patch.setattr("assocjax.storage.results.load", _fail)
        cli.main(["explore", "out/track.nc"])
        cli.main(["explore", str(Path("out/track.nc").absolute()), "--out", "out/track.html"])
    assert capsys.readouterr().out.count("already complete: out/track.html") == 2
    Path("out/theirs.html").write_text("theirs")
    for more in ([], ["--overwrite"]):
        refused(["explore", "out/track.nc", "--out", "out/theirs.html", *more], capsys)
        refused(["explore", "out/track.nc", "--out", "out/track.nc", *more], capsys)
    refused(["explore", "out/track.nc", "--token", "fish"], capsys)
    assert Path("out/track.html").read_bytes() == page
    cli.main(["explore", "out/track.nc", "--token", "fish", "--overwrite"])
    assert Path("out/track.html").read_bytes() != page
    assert Path("out/theirs.html").read_text() == "theirs"

    Path("parts").mkdir()
    for file in ("notes.txt", "counts-2-of-2.nc", "counts.nc"):
        Path("parts", file).write_text("theirs")
    theirs = tree("parts")
    shard = ["statistics", *FEW, "--out", "parts", "--shard"]
    cli.main([*shard, "1/2"])
    for more in ([], ["--overwrite"]):
        refused([*shard, "2/2", *more], capsys)
    cli.main(["statistics", *FEW, "--out", "other", "--shard", "2/2"])
    files = ["parts/counts-1-of-2.nc", "other/counts-2-of-2.nc"]
    for more in ([], ["--overwrite"]):
        refused(["merge", *files, "--out", "parts", *more], capsys)
    cli.main(["merge", *files, "--out", "other"])
    cli.main(["merge", *files, "--out", "other"])  # the same, once more
    assert {file: tree("parts")[file] for file in theirs} == theirs


FUNCTIONS = {
    "save": lambda path, dataset, data, **o: aj.save(dataset, path / "a.nc", **o),
    "save_sweep": lambda path, dataset, data, **o: aj.save_sweep(dataset, path, **o),
    "save_track": lambda path, dataset, data, **o: aj.save_track(_track(data), path, **o),
    "write_explorer": lambda path, dataset, data, **o: aj.write_explorer(
        _track(data), path / "a.html", **o
    ),
    "write_comparison": lambda path, dataset, data, **o: aj.write_comparison(
        random_comparison(), path / "a.html", **o
    ),
    "write_tokens": lambda path, dataset, data, **o: aj.write_tokens(
        "../text.txt", path, seq_len=4, **o
    ),
    "sweep": lambda path, dataset, data, **o: _sweep(data, checkpoint=path, **o),
    "track": lambda path, dataset, data, **o: _track(data, checkpoint=path, **o),
    "figures.save": lambda path, dataset, data, **o: figures.save(Figure(), path / "a", **o),
    "shards.run_shard": lambda path, dataset, data, **o: shards.run_shard(
        data, path / "a.nc", shard=1, shards=1, **o
    ),
}
ONLY_READ = {"open_tokens", "load_statistics", "load", "load_tokens"}


def _sweep(data, **options):
    return aj.sweep(
        data, learning_rates=[0.5], steps=2, num_layers=1, theories=["leading"], **options
    )


def _track(data, **options):
    return aj.track(data, learning_rate=0.5, steps=2, num_layers=1, **options)


@pytest.fixture(scope="module")
def data(home):
    return aj.load_tokens(home / "text.txt", seq_len=6, num_sequences=8)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_touches_nothing_but_what_it_wrote(name, data):
    dataset = _sweep(data)
    call = FUNCTIONS[name]
    Path("new").mkdir()
    call(Path("new"), dataset, data)
    names = tree("new").keys() - {MARKER}
    Path("theirs").mkdir()
    for file in (*names, "a", "notes.txt"):
        (Path("theirs") / file).parent.mkdir(parents=True, exist_ok=True)
        (Path("theirs") / file).write_text("theirs")
    theirs = tree("theirs")
    for overwrite in (False, True):
        what = r"assocjax may write|not written by assocjax|cannot read results"
        with pytest.raises(aj.InputError, match=what):
            call(Path("theirs"), dataset, data, overwrite=overwrite)
        assert tree("theirs") == theirs
    before = tree("new")
    call(Path("new"), dataset, data)  # the same, once more
    assert tree("new") == before


def test_every_public_function_that_takes_a_path_is_tried():
    paths = {"path", "folder", "out", "checkpoint", "counts", "corpus", "file"}
    with_paths = {
        name
        for name in aj.__all__
        if inspect.isfunction(of := getattr(aj, name))
        and any(
            parameter.name in paths and "PathLike" in str(parameter.annotation)
            for parameter in inspect.signature(of).parameters.values()
        )
    }
    assert {"save", "sweep", "track"} <= with_paths
    assert with_paths <= FUNCTIONS.keys() | ONLY_READ


KILLED_AT = """
import os, sys
from pathlib import Path
left = int(sys.argv[1])
def dying(of):
    def do(*arguments, **options):
        global left
        if not left:
            os._exit(9)
        left -= 1
        return of(*arguments, **options)
    return do
for name in ("replace", "rename", "unlink", "rmdir", "mkdir", "rmtree"):
    if hasattr(os, name):
        setattr(os, name, dying(getattr(os, name)))
from assocjax.cli import main
main(sys.argv[2:])
"""


def test_killed_at_ten_moments_nothing_else_is_touched(home):
    """`tokenize`, which starts soonest, over an older result of another configuration."""
    command = ["tokenize", *CORPUS, "--out", "out"]
    cli.main(command)
    Path("out/notes.txt").write_text("mine")
    around = tree(home)
    for moment in range(10):
        changed = [*command, "--vocab-size", str(20 + moment), "--overwrite"]
        run = [sys.executable, "-c", KILLED_AT, str(moment), *changed]
        code = subprocess.run(run, check=False, env=os.environ, capture_output=True).returncode
        assert code in (0, 9)
        after = tree(home)
        for file, content in around.items():
            if not file.startswith("work/out/") or file.endswith("notes.txt"):
                assert after[file] == content, file
        with contextlib.suppress(aj.InputError):  # whole, or refused
            assert aj.open_tokens("out").vocab_size >= 20
    cli.main([*command, "--vocab-size", "40", "--overwrite"])
    assert aj.open_tokens("out").vocab_size == 40
    names = {MARKER, "tokens.bin", "tokens.json", "notes.txt"}
    assert tree("out").keys() == names


def test_results_are_saved_before_figures_are_drawn(monkeypatch):
    """A figure that fails loses nothing; drawing starts when the numbers are on the disk."""

    def fail(self, path, **options):
        raise ZeroDivisionError

    monkeypatch.setattr(Figure, "savefig", fail)
    for command, file in (
        (["sweep", *COMMANDS["sweep"][0]], "sweep.nc"),
        (["statistics", *FEW], "statistics.nc"),
        (["track", *RUN], "track.nc"),
        (["ablate", *RUN, "--draws", "2"], "ablation.nc"),
        (["horizon", *COMMANDS["horizon"][0]], "horizons.json"),
        (["reproduce", "figure4", "--scale", "tiny"], "fables/figure4.nc"),
        (["predict", *PREDICT], "predictions.nc"),
        (["ngrams", "../model", *COMPARE[:-1], "step0,step1"], "ngrams.nc"),
        (["compare", "../model", "--twin", "pretrain-tiny", *TWINS], "twins.nc"),
    ):
        if "../model" in command and find_spec("torch") is None:
            continue
        out = Path(command[0])
        with pytest.raises(ZeroDivisionError):
            cli.main([*command, "--out", str(out)])
        assert (out / file).stat().st_size

"""Folders and files of results: nothing of the user's is lost, and nothing is mixed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

import assocjax as aj
from assocjax import cli, figures
from assocjax.storage import (
    MARKER,
    Folder,
    check_claimable,
    claim,
    difference,
    hold,
    results,
    whole_file,
)


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder, and what is in them."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def write(folder: Folder, name: str, text: str) -> None:
    with folder.file(name) as part:
        part.write_text(text)


@pytest.fixture
def finished(tmp_path) -> Path:
    """A folder with a finished result, and a note of the user's."""
    out = tmp_path / "out"
    with claim(out, "test", {"steps": 60}, result="a.txt") as folder:
        write(folder, "a.txt", "of 60 steps")
        write(folder, "figure.txt", "of 60 steps")
        folder.finish()
    (out / "note.txt").write_text("mine")
    return out


# A folder of somebody else


@pytest.mark.parametrize("name", ["thesis.tex", "unfinished/checkpoint/1/x", "sweep.nc", ".hidden"])
def test_a_folder_of_somebody_else_is_refused_and_untouched(name, tmp_path):
    theirs = tmp_path / "exp" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("years of work")
    before = tree(tmp_path)
    for overwrite in (False, True):
        with (
            pytest.raises(aj.InputError, match=r"folder .*exp is not empty, and no .* may write"),
            claim(tmp_path / "exp", "sweep", {}, overwrite=overwrite),
        ):
            raise AssertionError("not refused")
    assert tree(tmp_path) == before


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(aj.InputError, match=r"folder .*file.* cannot be"), claim(path, "a", {}):
            raise AssertionError("not refused")
    assert tree(tmp_path) == {"file": b"x"}


def test_results_of_another_command_are_refused(finished):
    before = tree(finished)
    with (
        pytest.raises(aj.InputError, match="holds results of test, not of track"),
        claim(finished, "track", {}, overwrite=True),
    ):
        raise AssertionError("not refused")
    assert tree(finished) == before


def test_files_of_the_user_in_our_folder_stay(finished):
    (finished / "b.txt").write_text("mine too")
    with claim(finished, "test", {"steps": 80}, overwrite=True) as folder:
        with (
            pytest.raises(aj.InputError, match=r"b\.txt was not written by assocjax"),
            folder.file("b.txt"),
        ):
            raise AssertionError("not refused")
        write(folder, "a.txt", "of 80 steps")
        folder.finish()
    files = tree(finished)
    del files[MARKER]
    # The figure of the earlier result is not left beside the later one.
    assert files == {"a.txt": b"of 80 steps", "note.txt": b"mine", "b.txt": b"mine too"}


@pytest.mark.parametrize(
    "marker", ["", "{}", "[]", '{"kind": 1}', '{"kind": "test", "files": 3}', "\x00"]
)
def test_a_damaged_marker_is_refused(marker, tmp_path):
    (tmp_path / MARKER).write_text(marker)
    (tmp_path / "a.txt").write_text("x")
    before = tree(tmp_path)
    with pytest.raises(aj.InputError, match="cannot be read"), claim(tmp_path, "test", {}):
        raise AssertionError("not refused")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["../note.txt", "/etc/note.txt", "a/../../note.txt"])
def test_a_marker_cannot_name_files_outside(name, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "note.txt").write_text("mine")
    record = {"kind": "test", "identity": {}, "complete": True, "files": [name]}
    (out / MARKER).write_text(json.dumps(record))
    with pytest.raises(aj.InputError), claim(out, "test", {"a": 1}, overwrite=True) as folder:
        write(folder, "a.txt", "x")
    assert (tmp_path / "note.txt").read_text() == "mine"


# One result, and another


def test_a_finished_result_is_found_again(finished):
    before = tree(finished)
    with claim(finished, "test", {"steps": 60}, result="a.txt") as folder:
        assert folder.complete
    assert tree(finished) == before


def test_a_finished_result_of_another_configuration_is_not_replaced(finished):
    before = tree(finished)
    with (
        pytest.raises(
            aj.InputError, match=r"finished result .*its steps is 60, here it is 80.*overwrite"
        ),
        claim(finished, "test", {"steps": 80}),
    ):
        raise AssertionError("not refused")
    assert tree(finished) == before


def test_a_result_that_fails_to_begin_leaves_the_one_before(finished):
    before = tree(finished)
    with (
        pytest.raises(ZeroDivisionError),
        claim(finished, "test", {"steps": 80}, overwrite=True),
    ):
        raise ZeroDivisionError
    assert tree(finished) == before


def test_a_result_whose_file_is_gone_is_computed_again(finished):
    (finished / "a.txt").unlink()
    with claim(finished, "test", {"steps": 60}, result="a.txt") as folder:
        assert not folder.complete
        assert not folder.files
        write(folder, "a.txt", "again")
    assert not (finished / "figure.txt").exists()


def test_where_nothing_is_written_nothing_is_left(tmp_path):
    with pytest.raises(ZeroDivisionError), claim(tmp_path / "out", "test", {}):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_what_is_unfinished_goes_at_the_end(tmp_path):
    with claim(tmp_path / "out", "test", {}) as folder:
        (folder.work("checkpoint") / "x").write_text("x")
        write(folder, folder.work_name("part.txt"), "part")
        assert folder.has_work("part.txt")
    (tmp_path / "out" / "unfinished" / "note.txt").write_text("mine")
    with claim(tmp_path / "out", "test", {}) as folder:
        assert folder.has_work("part.txt")
        folder.finish()
    assert tree(tmp_path / "out").keys() == {MARKER, "unfinished/note.txt"}


def test_folders_are_written_whole(tmp_path):
    out = tmp_path / "out"
    with claim(out, "test", {}) as folder:
        with pytest.raises(ZeroDivisionError):  # noqa: SIM117
            with folder.directory("step0") as part:
                (part / "weights").write_text(f"half {1 / 0}")
        assert not (out / "step0").exists()
        for text in ("first", "second"):
            with folder.directory("step0") as part:
                (part / "weights").write_text(text)
        assert (out / "step0" / "weights").read_text() == "second"
        (out / "step0" / "note.txt").write_text("mine")
        with pytest.raises(aj.InputError, match="step0 was not written"), folder.directory("step0"):
            raise AssertionError("not refused")
        (out / "step1").mkdir()
        (out / "step1" / "theirs").write_text("x")
        with pytest.raises(aj.InputError, match="step1 was not written"), folder.directory("step1"):
            raise AssertionError("not refused")
    assert (out / "step0" / "note.txt").read_text() == "mine"
    assert (out / "step1" / "theirs").read_text() == "x"


def test_names_like_ours_are_the_users_too(finished):
    for name in (".assocjax-backup/thesis.txt", ".assocjax-notes.txt", "sub/.assocjax-old.nc"):
        (finished / name).parent.mkdir(exist_ok=True)
        (finished / name).write_text("mine")
    before = tree(finished)
    with claim(finished, "test", {"steps": 60}, result="a.txt"):
        pass
    assert tree(finished) == before
    (finished.parent / "other" / ".assocjax-data").mkdir(parents=True)
    with (
        pytest.raises(aj.InputError, match="is not empty"),
        claim(finished.parent / "other", "test", {}),
    ):
        raise AssertionError("not refused")


def test_what_is_written_in_a_folder_within_is_left_to_its_writer(finished):
    with claim(finished / "inner", "test", {}) as inner, inner.file("b.txt") as part:
        part.write_text("under way")
        with claim(finished, "test", {"steps": 60}, result="a.txt"):
            assert part.read_text() == "under way"
    assert (finished / "inner" / "b.txt").read_text() == "under way"


def test_an_old_result_stays_until_a_new_file_is_whole(finished):
    """Work that is stopped before, or a disk that is full, loses nothing."""
    old = {file: of for file, of in tree(finished).items() if file != MARKER}
    with claim(finished, "test", {"steps": 80}, overwrite=True) as folder:
        (folder.work("checkpoint") / "1").write_text("of 80 steps")
    files = tree(finished)
    assert {file: files[file] for file in old} == old
    with claim(finished, "test", {"steps": 80}, overwrite=True) as folder:
        assert (folder.work("checkpoint") / "1").read_text() == "of 80 steps"
        with pytest.raises(aj.InputError, match="No space left on device"):  # noqa: SIM117
            with folder.file("a.txt"):
                raise OSError(28, "No space left on device")
    files = tree(finished)
    assert {file: files[file] for file in old} == old
    with claim(finished, "test", {"steps": 60}, result="a.txt") as folder:
        assert folder.complete
    assert not (finished / "unfinished").exists()
    with claim(finished, "test", {"steps": 80}, overwrite=True) as folder:
        folder.work("checkpoint")
        write(folder, "a.txt", "of 80 steps")
        folder.finish()
    assert tree(finished).keys() == {MARKER, "a.txt", "note.txt"}


# Two processes

HOLD = """
import sys
from assocjax.storage import claim
with claim(sys.argv[1], "test", {}) as folder:
    with folder.file("a.txt") as part:
        part.write_text("x")
        print("held", flush=True)
        sys.stdin.read()
"""


def test_one_process_writes_at_a_time_and_a_dead_one_holds_nothing(tmp_path):
    out = tmp_path / "out"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    before = tree(out)
    with (
        pytest.raises(aj.InputError, match=rf"written by process {holder.pid} on .* since"),
        claim(out, "test", {}),
    ):
        raise AssertionError("not refused")
    assert tree(out) == before
    holder.kill()
    holder.communicate()
    with claim(out, "test", {}) as folder:
        # Half of the file that the dead process was writing is gone.
        assert tree(out).keys() == {".assocjax.lock"}
        write(folder, "a.txt", "y")
        with (
            pytest.raises(aj.InputError, match=rf"by process {os.getpid()}"),
            claim(out, "test", {}),
        ):
            raise AssertionError("not refused")
    assert tree(out).keys() == {MARKER, "a.txt"}


def test_a_lock_may_be_held_over_several_claims(tmp_path):
    out = tmp_path / "out"
    with hold(out):
        with claim(out, "test", {}) as folder:
            write(folder, "a.txt", "x")
        with claim(out, "test", None) as folder:
            write(folder, "b.txt", "x")
        other = subprocess.run(
            [sys.executable, "-c", HOLD, str(out)], capture_output=True, text=True, input=""
        )
        assert "is being written by process" in other.stderr
    assert tree(out).keys() == {MARKER, "a.txt", "b.txt"}
    with hold(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists()


# Killed anywhere

KILLED_AT = """
import os, sys
from pathlib import Path
from assocjax.storage import claim
left = int(sys.argv[2])
def dying(of):
    def do(*arguments, **options):
        global left
        if not left:
            os._exit(9)
        left -= 1
        return of(*arguments, **options)
    return do
for name in ("replace", "rename", "unlink", "rmdir", "mkdir", "write_text"):
    setattr(Path, name, dying(getattr(Path, name)))
with claim(sys.argv[1], "test", {"steps": 80}, result="a.txt", overwrite=True) as folder:
    for name in ("a.txt", folder.work_name("part.txt"), "b.txt"):
        with folder.file(name) as part:
            part.write_text("of 80 steps")
    folder.finish()
"""


@pytest.mark.parametrize("begin", range(5))
def test_killed_at_any_moment_nothing_is_mixed(begin, finished):
    """A new result over an old one; the process ends before each change of the disk in turn."""
    moment = begin
    while True:
        run = [sys.executable, "-c", KILLED_AT, str(finished), str(moment)]
        code = subprocess.run(run, check=False).returncode
        files = tree(finished)
        assert files["note.txt"] == b"mine"
        record = json.loads(files[MARKER])
        steps = record["identity"]["steps"]
        if steps == 60:
            assert files["a.txt"] == files["figure.txt"] == b"of 60 steps"
        elif not record.get("replaced"):
            assert "figure.txt" not in files
            assert files.get("a.txt") in (None, b"of 80 steps")
        assert record["complete"] == (steps == 60 or ("b.txt" in files and record["complete"]))
        if code == 0:
            break
        assert code == 9
        moment += 5
    # Whatever was left half way, the next start clears up.
    with claim(finished, "test", {"steps": 80}, result="a.txt") as folder:
        assert folder.complete
    files = tree(finished)
    assert files.keys() == {MARKER, "a.txt", "b.txt", "note.txt"}


# Single files


@pytest.fixture
def dataset():
    return xr.Dataset({"x": ("i", np.arange(3.0))}, attrs={"config": "{}"})


def test_a_file_is_replaced_only_if_it_is_ours_and_that_was_asked_for(dataset, tmp_path):
    path = tmp_path / "a.nc"
    aj.save(dataset, path)
    before = path.read_bytes()
    aj.save(dataset, path)  # the same, once more
    with pytest.raises(aj.InputError, match=r"a\.nc exists already, with other content"):
        aj.save(dataset * 2, path)
    assert path.read_bytes() == before
    aj.save(dataset * 2, path, overwrite=True)
    xr.testing.assert_equal(aj.load(path), dataset * 2)
    dataset.to_netcdf(tmp_path / "theirs.nc", engine="netcdf4")
    theirs = (tmp_path / "theirs.nc").read_bytes()
    with pytest.raises(aj.InputError, match=r"theirs\.nc was not written by assocjax"):
        aj.save(dataset, tmp_path / "theirs.nc", overwrite=True)
    assert (tmp_path / "theirs.nc").read_bytes() == theirs
    assert tree(tmp_path).keys() == {"a.nc", "theirs.nc"}
    xr.testing.assert_identical(aj.load(path), (dataset * 2).assign_attrs(aj.load(path).attrs))
    assert "written_by" not in aj.load(path).attrs


def test_figures_are_replaced_only_if_they_are_ours(tmp_path):
    first, second = Figure(), Figure()
    second.text(0, 0, "another")
    for path in figures.save(first, tmp_path / "a"):
        assert b"written by assocjax" in path.read_bytes()
    figures.save(first, tmp_path / "a")
    with pytest.raises(aj.InputError, match=r"a\.png exists already"):
        figures.save(second, tmp_path / "a")
    figures.save(second, tmp_path / "a", overwrite=True)
    first.savefig(tmp_path / "b.png")
    before = tree(tmp_path)
    with pytest.raises(aj.InputError, match=r"b\.png was not written by assocjax"):
        figures.save(first, tmp_path / "b", overwrite=True)
    assert tree(tmp_path) == before


def test_a_file_that_is_a_folder_or_cannot_be_written(dataset, tmp_path, monkeypatch):
    (tmp_path / "a.nc").mkdir()
    with pytest.raises(aj.InputError, match=r"a\.nc: it is a folder"):
        aj.save(dataset, tmp_path / "a.nc")
    with pytest.raises(aj.InputError, match=r"cannot write .*no/b\.nc: there is no folder"):
        aj.save(dataset, tmp_path / "no" / "b.nc")

    def full(self, path, **options):
        path.write_bytes(b"half")
        raise RuntimeError("NetCDF: HDF error")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", full)
    with pytest.raises(aj.InputError, match=r"cannot write .*c\.nc: NetCDF: HDF error"):
        aj.save(dataset, tmp_path / "c.nc")
    assert tree(tmp_path) == {}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    with pytest.raises(aj.InputError, match=r"cannot write .*a\.txt: No space left on device"):  # noqa: SIM117
        with whole_file(path), Path("/dev/full").open("w") as full:
            full.write("x" * 10**6)
    assert tree(tmp_path) == {}


def test_a_result_is_read_even_where_nothing_can_be_written(finished):
    assert check_claimable(finished, "test")["identity"] == {"steps": 60}
    assert check_claimable(finished / "new", "test") is None
    assert not (finished / "new").exists()


def test_differences_are_named():
    mine = {"config": {"steps": 3, "rates": (1, 2)}, "name": "a"}
    assert difference(mine, {"name": "a", "config": {"rates": [1, 2], "steps": 3}}) is None
    other = mine | {"config": {"steps": 3}}
    assert difference(mine, other) == "its config.rates is [1, 2], here it is None"


def test_results_in_a_claimed_folder_are_known_as_ours(tmp_path, dataset):
    with claim(tmp_path / "out", "sweep", {}) as folder:
        results.save_to(folder, "sweep.nc", dataset)
    with pytest.raises(aj.InputError, match="with other content"):
        aj.save(dataset * 2, tmp_path / "out" / "sweep.nc")


@pytest.mark.parametrize("flag", ["no", 0, None, np.zeros(2)])
def test_what_is_neither_true_nor_false_replaces_nothing(flag, tmp_path):
    """A text such as "no" would count as true."""
    aj.save(xr.Dataset({"x": 1}), tmp_path / "x.nc")
    before = tree(tmp_path)
    with pytest.raises(aj.InputTypeError, match="overwrite must be True or False"):
        aj.save(xr.Dataset({"x": 2}), tmp_path / "x.nc", overwrite=flag)
    with (
        pytest.raises(aj.InputTypeError, match="overwrite must be True or False"),
        claim(tmp_path / "out", "test", {}, overwrite=flag),
    ):
        raise AssertionError("not refused")
    assert tree(tmp_path) == before


def test_a_name_that_no_file_can_have(tmp_path):
    with pytest.raises(aj.InputError, match="cannot write"):
        aj.save(xr.Dataset(), tmp_path / ("a" * 300))
    with pytest.raises(aj.InputTypeError, match="path must be a path"):
        aj.save(xr.Dataset(), 2.5)  # type: ignore[arg-type]


def test_merges_and_shards_keep_out_of_results_of_another_command(finished, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("a b c d " * 9)
    text = ["--corpus", str(tmp_path / "text.txt"), "--seq-len", "4", "--shard", "1/1", "--out"]
    cli.main(["statistics", *text, str(tmp_path)])
    before = tree(finished)
    shard = str(tmp_path / "counts-1-of-1.nc")
    for arguments in (["merge", shard, "--out"], ["statistics", *text]):
        with pytest.raises(SystemExit):
            cli.main([*arguments, str(finished)])
        assert "holds results of test, not of statistics" in capsys.readouterr().err
    assert tree(finished) == before

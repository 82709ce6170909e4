"""A sweep that is stopped anywhere and goes on is the sweep that never was."""

import errno
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import xarray as xr
from conftest import random_mask, random_tokens, token_data

import assocjax as aj
from assocjax.experiments import _grids, sweeps
from assocjax.storage import MARKER, checkpoints, results

N, T, V, L = 8, 5, 6, 2
UNFINISHED = "unfinished/checkpoint"
GRID = {"learning_rates": [0.3, 0.1], "seeds": [3, 0], "init_scales": [0.0, 0.05]}
SIZES = {"theories": ["leading"], "steps": 6, "num_layers": L, "checkpoint_every": 2}


@pytest.fixture
def data():
    return token_data(random_tokens(0, N, T, V), V, random_mask(1, N, T))


class Killed(BaseException):
    """As if the process ended here."""


def killed_sweep(data, saves, **arguments):
    """A sweep that dies when it has saved so many checkpoints."""
    save, left = checkpoints.Checkpoints.save, [saves]

    def counted(self, *arguments):
        if not left[0]:
            raise Killed
        left[0] -= 1
        save(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "save", counted)
        with pytest.raises(Killed):
            aj.sweep(data, **arguments)


def noisy(rate):
    """An optimizer with random keys in its state."""
    return optax.chain(optax.add_noise(0.01, 0.5, jax.random.key(1)), optax.sgd(rate))


noisy.name = "noise of 0.01, then sgd"


@pytest.mark.parametrize(
    "options",
    [
        {"theories": ["leading", "effective"]},
        {"optimizer": noisy, "batch_size": 3, "num_layers": 1},
    ],
    ids=["theories", "noise-and-batches"],
)
def test_going_on_gives_the_same_bits(data, options, tmp_path, promote):
    arguments = GRID | SIZES | options
    never = aj.sweep(data, **arguments, checkpoint=tmp_path / "never")
    for _ in range(2):
        killed_sweep(data, 1, **arguments, checkpoint=tmp_path / "killed")
    lines = []
    aj.sweep(data, **arguments, checkpoint=tmp_path / "killed", announce=lines.append)
    assert any("resuming from" in line and "2 of 4 parts" in line for line in lines)
    files = [(tmp_path / name / "sweep.nc").read_bytes() for name in ("never", "killed")]
    assert files[0] == files[1]
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {MARKER, "sweep.nc"}
    if "optimizer" in options:
        return
    # Segments are parts of one scan: the sweep without them, to rounding.
    del arguments["checkpoint_every"]
    whole = aj.sweep(data, **arguments)
    for name in whole.data_vars:
        np.testing.assert_allclose(never[name], whole[name], rtol=1e-3, atol=1e-5, err_msg=name)


def test_checkpoints_are_not_saved_more_often_than_is_worth_while(data, tmp_path, monkeypatch):
    arguments = GRID | SIZES | {"checkpoint_every": None, "steps": 4}
    saved, save = [], checkpoints.Checkpoints.save

    def counted(self, part, *rest):
        saved.append(part)
        save(self, part, *rest)

    monkeypatch.setattr(checkpoints.Checkpoints, "save", counted)
    seldom = aj.sweep(data, **arguments, checkpoint=tmp_path / "seldom")
    assert saved == []
    monkeypatch.setattr(sweeps, "_PAUSE", 0.0)
    always = aj.sweep(data, **arguments, checkpoint=tmp_path / "always")
    assert saved == [1, 2, 3, 4]  # of the five segments of one step
    xr.testing.assert_identical(seldom, always)


def test_half_of_an_older_checkpoint_is_no_matter(data, tmp_path, caplog):
    arguments = GRID | SIZES | {"checkpoint": tmp_path}
    killed_sweep(data, 2, **arguments)
    (last,) = (tmp_path / UNFINISHED).iterdir()
    older = last.with_name("1")
    shutil.copytree(last, older)  # as when the process is killed while this one is removed
    (older / "_CHECKPOINT_METADATA").unlink()
    lines = []
    aj.sweep(data, **arguments, announce=lines.append)
    assert any("2 of 4 parts" in line for line in lines)
    assert not caplog.records


def test_killed_while_the_last_checkpoint_is_removed(data, tmp_path, monkeypatch):
    arguments = GRID | SIZES | {"checkpoint": tmp_path}

    remove = shutil.rmtree

    def remove_half(folder, **options):
        if Path(folder) != tmp_path / UNFINISHED:
            return remove(folder, **options)
        for path in folder.glob("*/configuration/metadata"):
            path.unlink()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", remove_half)
        with pytest.raises(Killed):
            aj.sweep(data, **arguments)
    complete = (tmp_path / "sweep.nc").read_bytes()
    aj.sweep(data, **arguments)
    assert (tmp_path / "sweep.nc").read_bytes() == complete
    assert {path.name for path in tmp_path.iterdir()} == {MARKER, "sweep.nc"}


def test_what_is_known_is_readable_at_every_checkpoint(data, tmp_path):
    arguments = GRID | SIZES | {"checkpoint": tmp_path}
    killed_sweep(data, 2, **arguments)
    with xr.open_dataset(tmp_path / "sweep.nc") as partial:
        assert partial.attrs["incomplete"] == "2 of 4 parts are done"
        known = partial.load()
    complete = aj.sweep(data, **arguments)
    assert "incomplete" not in complete.attrs
    assert known.sizes == complete.sizes
    for name, values in known.data_vars.items():
        if "step" in values.dims:
            reached = slice(0, 4)
            xr.testing.assert_equal(values.isel(step=reached), complete[name].isel(step=reached))
            assert values.isel(step=slice(4, None)).isnull().all()
    assert (known["diverged_step"] == -1).all()


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"steps": 7}, ["config.steps is 6", "it is 7"]),
        ({"learning_rates": [0.3, 0.2]}, ["config.learning_rates is [0.3, 0.1]", "[0.3, 0.2]"]),
        ({"checkpoint_every": 3}, ["checkpoint_every is 2", "it is 3"]),
        ({"versions": "0.0.1"}, ["versions.jax is", "'0.0.1'"]),
        ({"sha256": "1" * 64}, ["not the same text"]),
    ],
)
def test_a_checkpoint_of_another_sweep_is_refused(data, change, names, tmp_path, monkeypatch):
    arguments = GRID | SIZES | {"checkpoint": tmp_path}
    killed_sweep(data, 1, **arguments)
    if "versions" in change:
        now = results.versions() | {"jax": change.pop("versions")}
        monkeypatch.setattr(results, "versions", lambda: now)
    if "sha256" in change:
        data = aj.TokenData(
            data.tokens, data.mask, data.vocabulary, data.name, change.pop("sha256")
        )
    with pytest.raises(aj.InputError) as refused:
        aj.sweep(data, **arguments | change)
    for words in names:
        assert words in str(refused.value)


@pytest.mark.parametrize("kind", ["foreseen", "OSError", "of tensorstore"])
def test_a_full_disk_is_one_line_and_loses_nothing(data, kind, tmp_path, monkeypatch):
    arguments = GRID | SIZES
    never = aj.sweep(data, **arguments, checkpoint=tmp_path / "never")
    text = os.strerror(errno.ENOSPC)
    error = OSError(errno.ENOSPC, text) if kind == "OSError" else ValueError(f"RESOURCE: {text}")
    save = checkpoints.ocp.CheckpointManager.save

    def fill(self, step, **options):
        if step == 2:
            raise error
        return save(self, step, **options)

    with monkeypatch.context() as patch:
        if kind == "foreseen":
            frees = iter((1 << 30, 100))
            usage = type("Usage", (), {"free": property(lambda self: next(frees))})
            patch.setattr(checkpoints.shutil, "disk_usage", lambda folder: usage())
        else:
            patch.setattr(checkpoints.ocp.CheckpointManager, "save", fill)
        with pytest.raises(aj.InputError, match=f"cannot write a checkpoint .*: {text}; .* intact"):
            aj.sweep(data, **arguments, checkpoint=tmp_path / "full")
    lines = []
    after = aj.sweep(data, **arguments, checkpoint=tmp_path / "full", announce=lines.append)
    assert any("1 of 4 parts" in line for line in lines)
    xr.testing.assert_identical(after, never)


def test_ctrl_c_waits_for_a_checkpoint_and_a_second_one_does_not(data, tmp_path):
    arguments = GRID | SIZES | {"checkpoint": tmp_path}

    def at_step(number, times):
        def progress(done, total):
            if done == number:
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)
                    time.sleep(0.2)  # signals that wait together are one

        return progress

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(_grids.Stopped, match="interrupted; 1 of 4 parts are saved"):
        aj.sweep(data, **arguments, progress=at_step(1, 1))
    with pytest.raises(KeyboardInterrupt) as stopped:
        aj.sweep(data, **arguments, progress=at_step(3, 2))
    assert not str(stopped.value)
    assert signal.getsignal(signal.SIGINT) is before
    lines = []
    after = aj.sweep(data, **arguments, announce=lines.append)
    assert any("1 of 4 parts" in line for line in lines)
    assert not after["loss"].isnull().any()


SWEEP = """
import sys
from assocjax import cli, figures
figures.save_sweep = lambda dataset, folder: []  # which takes longest
cli.main(sys.argv[1:])
"""


def start(out, cache):
    """`assocjax sweep` in a process, with 14 checkpoints; programs compile once for all of them."""
    arguments = ["--num-sequences", "8", "--seq-len", "8", "--num-documents", "60"]
    arguments += ["--num-layers", "1", "--steps", "14", "--checkpoint-every", "1"]
    arguments += ["--learning-rates", "0.5", "--theories", "leading", "--out", str(out)]
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SWEEP, "sweep", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def wait_for(folder, step):
    """Until a checkpoint of some step, whole or not, is there."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if any(path.name.split(".")[0] == str(step) for path in folder.glob(f"{UNFINISHED}/*")):
            return
        time.sleep(0.002)
    raise AssertionError(f"no checkpoint {step} in {folder}")


def test_killed_at_any_moment_a_sweep_goes_on(tmp_path):
    out, cache = tmp_path / "killed", tmp_path / "cache"
    never = start(tmp_path / "never", cache)
    _, err = never.communicate()
    assert never.returncode == 0, err
    rng = np.random.default_rng(0)
    process = start(out, cache)
    wait_for(out, 3)
    time.sleep(rng.uniform(0, 0.3))  # somewhere in a checkpoint, or in the steps after it
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    process = start(out, cache)
    wait_for(out, 9)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.startswith("assocjax: interrupted; ")
    assert err.endswith("run the same again to resume\n")
    process = start(out, cache)
    printed, err = process.communicate()
    assert process.returncode == 0, err
    assert "resuming from" in printed
    for name in ("sweep.nc", "summary.json"):
        assert (out / name).read_bytes() == (tmp_path / "never" / name).read_bytes()


def test_a_finished_sweep_is_found_again_and_another_is_not_mixed_with_it(data, tmp_path):
    arguments = GRID | SIZES | {"checkpoint": tmp_path / "out"}
    first = aj.sweep(data, **arguments)
    before = (tmp_path / "out" / "sweep.nc").read_bytes()
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "run_grid", None)  # nothing is computed
        again = aj.sweep(data, **arguments, announce=lines.append)
    assert lines == [f"already complete: {tmp_path / 'out' / 'sweep.nc'}"]
    xr.testing.assert_identical(again, first)
    with pytest.raises(aj.InputError, match=r"finished .* its config\.steps is 6, here it is 4"):
        aj.sweep(data, **arguments | {"steps": 4})
    assert (tmp_path / "out" / "sweep.nc").read_bytes() == before
    other = aj.sweep(data, **arguments | {"steps": 4}, overwrite=True)
    assert other.sizes["step"] == 5
    xr.testing.assert_identical(aj.load(tmp_path / "out" / "sweep.nc"), other)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", ["cut short", "metadata", "foreign"])
def test_a_checkpoint_that_cannot_be_read_is_one_line(data, damage, tmp_path):
    arguments = GRID | SIZES | {"checkpoint": tmp_path}
    killed_sweep(data, 1, **arguments)
    (last,) = (tmp_path / UNFINISHED).iterdir()
    if damage == "foreign":
        (last.with_name("99") / "mine").mkdir(parents=True)
        (last.with_name("99") / "_CHECKPOINT_METADATA").write_text("{}")
    for path in last.rglob("*"):
        chosen = {"cut short": path.parent.name == "d", "metadata": path.suffix == ""}
        if path.is_file() and chosen.get(damage) and path.name != "_CHECKPOINT_METADATA":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        aj.InputError, match=r"checkpoint in .* cannot be read here \(.*resume where"
    ):
        aj.sweep(data, **arguments)
    gc.collect()  # what readers of orbax that were stopped have to say, they say here


def test_an_optimizer_without_a_name_cannot_be_gone_on_with(data, tmp_path):
    def momentum(decay):
        def make(rate):
            return optax.sgd(rate, momentum=decay)

        return make

    arguments = SIZES | {"learning_rates": [0.3], "checkpoint": tmp_path / "out"}
    with pytest.raises(aj.InputError, match=r"optimizer: with a checkpoint, .* attribute name"):
        aj.sweep(data, **arguments, optimizer=momentum(0.5))
    assert not (tmp_path / "out").exists()
    for decay, name in ((0.5, "momentum 0.5"), (0.9, "momentum 0.9")):
        optimizer = momentum(decay)
        optimizer.name = name
        if decay == 0.5:
            killed_sweep(data, 1, **arguments, optimizer=optimizer)
            continue
        with pytest.raises(
            aj.InputError,
            match=r"its config\.optimizer is 'momentum 0\.5', here it is 'momentum 0\.9",
        ):
            aj.sweep(data, **arguments, optimizer=optimizer)


def test_a_sweep_goes_on_on_other_devices_where_that_is_asked_for(data, tmp_path, monkeypatch):
    arguments = GRID | SIZES
    never = aj.sweep(data, **arguments)
    killed_sweep(data, 2, **arguments, checkpoint=tmp_path / "c")
    for count in ("device_count", "local_device_count"):
        monkeypatch.setattr(jax, count, lambda: 1)
    with pytest.raises(aj.InputError, match=r"its devices is \[\d, \d\], here it is \[1, 1\]"):
        aj.sweep(data, **arguments, checkpoint=tmp_path / "c")
    lines = []
    found = aj.sweep(
        data,
        **arguments,
        checkpoint=tmp_path / "c",
        allow_different_devices=True,
        announce=lines.append,
    )
    assert any("2 of 4 parts are done" in line for line in lines)
    assert json.loads(found.attrs["begun_on"])["devices"] != [1, 1]
    for name, expected in never.data_vars.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)
    assert aj.load(tmp_path / "c" / "sweep.nc").identical(found)
    # The bits that count are those of one division: another configuration is refused as before.
    killed_sweep(data, 1, **arguments, checkpoint=tmp_path / "d")
    with pytest.raises(aj.InputError, match="learning_rates"):
        aj.sweep(
            data,
            **arguments | {"learning_rates": [0.3, 0.2]},
            checkpoint=tmp_path / "d",
            allow_different_devices=True,
        )


def test_a_checkpoint_of_another_division_is_begun_anew_where_that_is_asked_for(data, tmp_path):
    arguments = GRID | SIZES | {"checkpoint": tmp_path / "out"}
    never = aj.sweep(data, **arguments | {"checkpoint": tmp_path / "never", "checkpoint_every": 3})
    killed_sweep(data, 1, **arguments)
    with pytest.raises(aj.InputError, match="checkpoint_every is 2, here it is 3"):
        aj.sweep(data, **arguments | {"checkpoint_every": 3})
    after = aj.sweep(data, **arguments | {"checkpoint_every": 3}, overwrite=True)
    xr.testing.assert_identical(after, never)

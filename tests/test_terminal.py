"""What a terminal shows: bars, phases, and lines beside them."""

import os
import pty
import re
import subprocess
import sys
import termios

import jax
import numpy as np
import pytest
import xarray as xr

import assocjax as aj
from assocjax import cli
from assocjax.cli import ablate, compare, sweep
from assocjax.cli._corpus import check_device
from assocjax.cli._options import as_typed
from assocjax.cli._report import Report

WORK = """
from assocjax.cli._terminal import note, progress_bar, quiet, show, status

with quiet({quiet}):
    with status("reading"):
        note("a text")
    with progress_bar() as progress:
        note("one run")
        for step in (1, 2, 3):
            progress(step, 3)
            note(17 * "long " + str(step))
            print("by another library")
    with progress_bar():
        note("already complete")
    with progress_bar(unit="") as progress:
        progress(1, 2, "a name of a phase that is long")
        progress(2, 2, "a name of a phase that is long")
    show("result")
"""


def screen_of(code: str, columns: int) -> list[str]:
    """Runs Python code in a terminal, and returns the lines that it shows at the end."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, columns))
    environment = {
        name: os.environ[name] for name in os.environ if name not in ("COLUMNS", "LINES")
    }
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment | {"TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 1 << 16):
            shown += part
    except OSError:  # the terminal is closed, as Linux tells it
        pass
    os.close(ours)
    assert process.wait() == 0, shown
    return emulate(shown.decode(), columns)


def emulate(shown: str, columns: int) -> list[str]:
    """The screen after the characters and control sequences that rich writes."""
    lines: dict[int, list[str]] = {}
    row = column = 0
    for parameters, letter, character in re.findall(r"\x1b\[([?\d;]*)([A-Za-z])|((?s:.))", shown):
        if character == "\r":
            column = 0
        elif character == "\n":
            row += 1
        elif character:
            if column == columns:
                row, column = row + 1, 0
            lines.setdefault(row, [" "] * columns)[column] = character
            column += 1
        elif letter == "A":
            row -= int(parameters or 1)
        elif letter == "K":
            lines[row] = [" "] * columns
        else:
            assert letter in "mhl"  # colours, and the cursor shown or hidden
    return ["".join(lines.get(row, [])).rstrip() for row in range(max(lines) + 1)]


@pytest.mark.parametrize("columns", [80, 120])
def test_lines_stand_above_the_bar_and_the_bar_only_once(columns):
    screen = screen_of(WORK.format(quiet=False), columns)
    screen = [re.sub(r"[\d-]:[\d-]{2}:[\d-]{2}", "TIME", line) for line in screen]
    screen = [re.sub("[━╸╺]+", "BAR", line) for line in screen]
    expected = ["a text", "one run"]
    for step in (1, 2, 3):
        line = 17 * "long " + str(step)
        first = line[:columns].rstrip()
        expected += filter(None, [first, line[columns:], "by another library"])
    long = "a name of a phase that i…" if columns == 80 else "a name of a phase that is long"
    expected += ["training BAR 3/3 steps TIME elapsed", "already complete"]
    expected += [f"{long} BAR 2/2 TIME elapsed", "result"]
    assert [line for line in screen if line] == expected


@pytest.mark.parametrize("columns", [80, 120])
def test_lines_are_broken_between_words(columns):
    """Also an error, and a path longer than the terminal, which can be copied."""
    path = "/".join(40 * ["part"])
    code = f"""
from pathlib import Path
from assocjax.cli import _fail
from assocjax.cli._report import Report
report = Report()
report.written({[f"figure_{i}.png" for i in range(20)]})
report.path("written: {path}")
report.show(Path("results"))
try:
    _fail({20 * "configuration "!r}, 2)
except SystemExit:
    pass
"""
    screen = screen_of(code, columns)
    words = " ".join(screen).replace(path[columns:], "").split()
    assert words.count("configuration") == 20
    assert {word.strip(",") for word in words if "figure" in word} == {
        f"figure_{i}.png" for i in range(20)
    }
    assert path in "".join(screen)


def test_quiet_shows_results_only():
    screen = screen_of(WORK.format(quiet=True), 80)
    assert [line for line in screen if line] == ["by another library"] * 3 + ["result"]


def test_numbers_of_a_column_have_one_format():
    report = Report()
    rows = [
        {"a": 0.5, "b": 1e-5, "c": 0.123456, ("group", "d"): 1},
        {"a": 12.25, "b": 2.0, "c": 3.0, ("group", "d"): None},
    ]
    report.table("title", rows)
    assert report.parts[0]["cells"] == [
        ["0.50", "12.25"],
        ["1.00e-05", "2.00e+00"],
        ["0.1235", "3.0000"],
        ["1", "-"],
    ]
    assert Report.read(report.parts) is not None
    assert Report.read([{"other": 1}]) is None


def test_version(capsys):
    cli.main(["--version"])
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


def test_a_sweep_tells_where_theories_end_and_whether_a_loss_has_turned_up():
    """The theory ends at step 2, stays, ends where the run diverges, and never holds."""
    rates, cosine = [0.1, 0.5, 2.0, 4.0], np.ones((1, 4, 2, 1, 2, 1, 4))
    cosine[0, 0, 1, 0, 1, 0, 2:] = 0.9  # the second seed and the second weight
    cosine[..., 0] = np.nan  # from a zero start there is no direction
    cosine[0, 2, :, :, :, :, 2:] = np.nan
    cosine[0, 3, 0] = 0.1  # one seed of two
    loss = np.broadcast_to([4.0, 3.0, 2.0, 1.0], (4, 2, 4)).copy()
    loss[1, 0, 3] = 2.03  # above the lowest, 2, by 0.03 of a decrease of 2
    loss[2, :, 2:] = np.nan
    dims = ("theory", "learning_rate", "seed", "quantity", "weight", "layer", "step")
    dataset = xr.Dataset(
        {
            "cosine": (dims, cosine),
            "loss": (("learning_rate", "seed", "step"), loss),
            "diverged_step": (("learning_rate", "seed"), [[-1, -1], [-1, -1], [2, 2], [-1, -1]]),
        },
        {"theory": ["leading"], "learning_rate": rates, "quantity": ["weights"]},
    ).assign_coords(step=[0, 1, 2, 3])
    assert list(sweep._ends(dataset)) == [
        "leading ends at step 2 (eta 0.1), step 2 (eta 2); stays to the last step at eta 0.5; does "
        "not hold at any step at eta 4."
    ]
    assert sweep._turns(dataset) == "The loss has turned up at eta 0.5."
    assert sweep._turns(dataset.sel(learning_rate=[0.1])) == "No loss has turned up."


def test_ablation_and_comparison_are_told_beside_their_controls():
    row = {"matched_norm": 0.1, "matched_norm_sd": 0.05}
    rows = [
        {"unit": unit, "theory": change} | row
        for unit, change in (("value", 0.3), ("output", 0.15), ("position", -0.1))
    ]
    said = ablate._verdict(rows, "remove", "norm")
    assert "raises the loss for value; lowers the loss for position;" in said
    assert "does not change the loss for output." in said
    scores = {"step0": {"attention": (0.0, 0.0, 0.1)}}
    scores["step9"] = {"attention": (0.5, 0.0, 9.0), "bigram": (0.1, 0.0, 2.9)}
    assert compare._verdict(scores).endswith(": signal in attention; no signal in bigram.")
    assert compare._verdict({"main": scores["step0"]}).endswith(": no signal in attention.")


@pytest.mark.parametrize(
    ("message", "typed"),
    [
        ("memory_limit: one run needs more", "--memory-limit: one run needs more"),
        ("every entry of seeds must be at least 0", "--seeds must be at least 0"),
        ("seeds of /x/seq_len/seeds and 'seq_len'", "seeds of /x/seq_len/seeds and 'seq_len'"),
        ("no sequence of 5 tokens (seq_len + 1)", "no sequence of 5 tokens (--seq-len + 1)"),
        ("another: its config.steps is 6; replace it with overwrite=True (--overwrite)",
         "another: its --steps is 6; replace it with --overwrite"),
    ],
)  # fmt: skip
def test_errors_name_options_as_typed(message, typed):
    assert as_typed(message, sweep.Sweep()) == typed


def test_a_device_that_is_not_there():
    check_device(None)
    check_device(jax.devices()[0].platform)
    with pytest.raises(aj.InputError, match="--device tpu: JAX finds no tpu here"):
        check_device("tpu")

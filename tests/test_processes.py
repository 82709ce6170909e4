"""Sweeps over several devices and processes, and the memory that they foresee."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import random_tokens, token_data

import assocjax as aj
from assocjax import grids, plans

SWEEP = """
import sys
from assocjax import cli, figures
figures.save_sweep = lambda dataset, folder: []  # which takes longest
cli.main(sys.argv[1:])
"""
ARGUMENTS = ("--num-sequences", "8", "--seq-len", "6", "--vocab-size", "12", "--num-layers", "1")
ARGUMENTS += ("--num-documents", "60", "--steps", "3", "--theories", "leading")


def start(out, devices, *arguments):
    command = ("-W", "error", "-c", SWEEP, "sweep", *ARGUMENTS, *arguments, f"--out={out}")
    return subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)},
    )


def test_devices_and_processes_do_not_change_a_sweep(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    by_hand = ("--coordinator", f"localhost:{port}", "--num-processes", "2", "--process-id")
    processes = {
        "one": [start(tmp_path / "one", 1)],
        "eight": [start(tmp_path / "eight", 8)],
        "two": [start(tmp_path / "two", 2, *by_hand, str(i)) for i in range(2)],
    }
    printed = {}
    for name, group in processes.items():
        for i, process in enumerate(group):
            printed[name, i], err = process.communicate(timeout=300)
            assert process.returncode == 0, err
    assert "on 8 devices" in printed["eight", 0]
    assert "on 4 devices" in printed["two", 0]
    assert "fables" in printed["two", 0]
    assert "fables" not in printed["two", 1]
    one = aj.load(tmp_path / "one" / "sweep.nc")
    assert not one["loss"].isnull().any()
    for name in ("eight", "two"):
        other = aj.load(tmp_path / name / "sweep.nc")
        for variable in one.data_vars:
            # float32; small cosines are sums that cancel.
            np.testing.assert_allclose(
                other[variable], one[variable], rtol=1e-3, atol=1e-4, err_msg=f"{name} {variable}"
            )


@pytest.mark.parametrize(
    ("theories", "runs", "one_by_one"),
    [
        (("leading",), 1, False),
        (("leading",), 2, True),
        (("effective",), 2, False),
        (("leading", "effective"), 1, True),
    ],
)
def test_memory_foreseen_is_what_the_compiler_plans(theories, runs, one_by_one):
    """An estimate must not be short, nor so long that it wastes the machine."""
    N, T, V, L = 16, 16, 400, 2
    config = aj.RunConfig(steps=3, num_layers=L, theories=theories, microbatch_size=4)
    sizes = plans.Sizes(N, V, T, 4)
    corpus = aj.Corpus.of(token_data(random_tokens(0, N, T, V), V), depth=config.depth)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(corpus))
    assert plans.corpus_bytes(config, sizes) == held
    plan = plans.Plan((1, 1), (1, runs), one_by_one)
    mesh = grids._mesh(plan)
    grid = grids.Grid(np.array([0.1]), np.array([[0, 0.1], [1, 0.1]]))
    of_chunk = grids._chunk_arguments(grid, slice(0, 1), slice(0, runs), corpus, mesh)
    carry = jax.eval_shape(lambda *a: grids._start_chunk(config, mesh, *a), corpus, *of_chunk)
    static = config, mesh, one_by_one, 4, False
    arguments = corpus, *of_chunk[:2], carry, np.asarray(0, np.int32)
    lowered = grids._advance_chunk.lower(*static, *arguments)
    found = lowered.compile().memory_analysis()
    of_compiler = (
        found.argument_size_in_bytes
        + found.temp_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
    )
    assert 1 <= plans.planned_bytes(config, sizes, plan) / of_compiler < 3


def test_time_foreseen_is_that_of_the_work():
    """In proportion to steps, runs and the machine's inverse speed, from the plan's own count."""
    sizes = plans.Sizes(256, 300, 32, 4)
    config = aj.RunConfig(steps=9, num_layers=2)
    work = aj.plan_exact_step(vocab_size=300, seq_len=32, num_layers=2, num_sequences=256).work
    once = plans.foreseen_seconds(config, sizes, (1, 1), work)
    assert 10 < once < 13  # steps + 1 gradients, and comparisons
    assert plans.foreseen_seconds(config, sizes, (3, 4), work) == pytest.approx(12 * once)
    assert plans.foreseen_seconds(config, sizes, (1, 1), 2 * work) == pytest.approx(once / 2)
    both = aj.RunConfig(steps=9, num_layers=2, theories=("leading", "effective"))
    assert plans.foreseen_seconds(both, sizes, (1, 1), work) > once
    # A theory is followed once for all starts.
    assert plans.foreseen_seconds(both, sizes, (1, 8), work) < 8 * plans.foreseen_seconds(
        both, sizes, (1, 1), work
    )
    assert plans.measured_multiply_adds() > 1e6


def test_what_cannot_fit_is_refused_with_what_would():
    sizes = plans.Sizes(8, 1000, 16, 4)
    config = aj.RunConfig(steps=1, num_layers=4, theories=("effective",))
    need = plans.least_bytes(config, sizes)
    assert plans.make_plan(config, sizes, (1, 1), need) == plans.Plan((1, 1), (1, 1), True)
    with pytest.raises(aj.InputError) as refused:
        plans.make_plan(config, sizes, (1, 1), need - 1)
    message = str(refused.value)
    assert "memory_limit must hold one run" in message
    assert "vocab_size 1000 and 4 layers" in message
    assert "vocab_size up to 999 or num_layers up to 3" in message
    # What is offered fits, and is the most that does.
    limit = need // 3
    with pytest.raises(aj.InputError) as refused:
        plans.make_plan(config, sizes, (1, 1), limit)
    offered = int(str(refused.value).split("vocab_size up to ")[1].split()[0])
    assert plans.least_bytes(config, sizes._replace(vocab_size=offered)) <= limit
    assert plans.least_bytes(config, sizes._replace(vocab_size=offered + 1)) > limit


def test_the_machine_limits_too(monkeypatch):
    monkeypatch.setattr(plans, "machine_bytes", lambda: 1 << 20)
    config, sizes = aj.RunConfig(steps=1, num_layers=1), plans.Sizes(8, 100, 16, 4)
    with pytest.raises(aj.InputError, match=r"memory of this machine .*; got 0\.000977 GiB"):
        plans.make_plan(config, sizes, (1, 1), 4 << 30)

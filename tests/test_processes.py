"""Sweeps over several devices and processes, and the memory that they foresee."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import planned_memory, random_tokens, token_data

import assocjax as aj
from assocjax.experiments import _grids, _plans

SWEEP = """
import sys
from assocjax import cli, figures
figures.save_sweep = lambda dataset, folder: []  # which takes longest
cli.main(sys.argv[1:])
"""
# Five sequences and three of padding, of which each of two processes has half.
ONE_BATCH = """
import sys
import jax
import numpy as np
import assocjax as aj

process = int(sys.argv[2])
jax.distributed.initialize(sys.argv[1], 2, process)
random = np.random.default_rng(0)
tokens, mask = random.integers(0, 9, (8, 7)), random.random((8, 6)) < 0.8
mask[5:] = False
params = aj.init_params(jax.random.key(0), vocab_size=9, seq_len=6, num_layers=2, scale=0.3)
expected = aj.exact_loss_and_gradient(params, tokens, mask)
mesh = jax.make_mesh((jax.device_count(),), ("data",))
sharding = jax.NamedSharding(mesh, jax.P("data"))
half = slice(4 * process, 4 * process + 4)
parts = (jax.make_array_from_process_local_data(sharding, a[half]) for a in (tokens, mask))
found = aj.data_parallel_loss_and_gradient(params, *parts, mesh=mesh)
for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(np.asarray(a.addressable_data(0)), b, rtol=1e-4, atol=1e-7)
print(jax.device_count(), "devices")
"""
ARGUMENTS = ("--num-sequences", "8", "--seq-len", "6", "--vocab-size", "12", "--num-layers", "1")
ARGUMENTS += ("--num-documents", "60", "--steps", "3", "--theories", "leading")
ARGUMENTS += ("--seeds", "0", "1", "--init-scales", "0", "1e-4")


def start(out, devices, *arguments):
    return start_program(devices, SWEEP, "sweep", *ARGUMENTS, *arguments, f"--out={out}")


def start_program(devices, program, *arguments):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)},
    )


def free_address():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def test_processes_do_not_change_the_gradient_of_a_batch():
    address = free_address()
    for process in [start_program(2, ONE_BATCH, address, str(i)) for i in range(2)]:
        printed, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert "4 devices" in printed


def test_devices_and_processes_do_not_change_a_sweep(tmp_path):
    by_hand = ("--coordinator", free_address(), "--num-processes", "2", "--process-id")
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


@pytest.mark.optimized
@pytest.mark.parametrize(
    ("theories", "runs", "one_by_one"),
    [
        (("leading",), 2, True),
        (("effective",), 2, False),
        (("leading", "effective"), 1, True),
    ],
)
def test_memory_foreseen_is_what_the_compiler_plans(theories, runs, one_by_one):
    """An estimate must not be short, nor so long that it wastes the machine."""
    N, T, V, L = 16, 16, 400, 2
    config = aj.RunConfig(steps=3, num_layers=L, theories=theories, microbatch_size=4)
    sizes = _plans.CorpusSizes(N, V, T, 4)
    corpus = aj.Corpus.of(token_data(random_tokens(0, N, T, V), V), config)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(corpus))
    assert _plans.corpus_bytes(config, sizes) == held
    plan = _plans.Plan((1, 1), (1, runs), one_by_one)
    mesh = _grids._mesh(plan)
    grid = _grids.Grid(np.array([0.1]), np.array([[0, 0.1], [1, 0.1]]))
    of_chunk = _grids._chunk_arguments(grid, slice(0, 1), slice(0, runs), corpus, mesh)
    carry = jax.eval_shape(lambda *a: _grids._start_chunk(config, mesh, *a), corpus, *of_chunk)
    static = config, mesh, one_by_one, 4, False
    arguments = corpus, *of_chunk[:2], carry, np.asarray(0, np.int32)
    lowered = _grids._advance_chunk.lower(*static, *arguments)
    found = planned_memory(lowered)
    of_compiler = (
        found.argument_size_in_bytes
        + found.temp_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
    )
    assert 1 <= _plans.planned_bytes(config, sizes, plan) / of_compiler < 3


def test_what_cannot_fit_is_refused_with_what_it_needs():
    sizes = _plans.CorpusSizes(8, 1000, 16, 4)
    config = aj.RunConfig(steps=1, num_layers=4, theories=("effective",))
    need = _plans.least_bytes(config, sizes)
    assert _plans.make_plan(config, sizes, (1, 1), need) == _plans.Plan((1, 1), (1, 1), True)
    with pytest.raises(aj.InputError) as refused:
        _plans.make_plan(config, sizes, (1, 1), need - 1)
    message = str(refused.value)
    assert "memory_limit must hold one run" in message
    assert "vocab_size 1000 and 4 layers" in message
    assert f"a memory_limit above {need / 2**30:.3g} GiB" in message


def test_the_machine_limits_too(monkeypatch):
    monkeypatch.setattr(_plans, "machine_bytes", lambda: 1 << 20)
    config = aj.RunConfig(steps=1, num_layers=1, theories=("leading",))
    sizes = _plans.CorpusSizes(8, 100, 16, 4)
    with pytest.raises(aj.InputError, match=r"memory of this machine .*; got 0\.000977 GiB"):
        _plans.make_plan(config, sizes, (1, 1), 4 << 30)


def test_a_job_or_a_container_limits_too(tmp_path):
    """Of both versions of control groups, those above included; as files of a made-up system."""
    for path, limit in {
        "job/memory.max": "max",
        "job/step/memory.max": "5000",
        "memory/box/memory.limit_in_bytes": "7000",
        "memory/memory.limit_in_bytes": "9000",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{limit}\n")
    groups = tmp_path / "groups"
    groups.write_text("4:cpu,memory:/box\n3:cpuset:/\n0::/job/step/task\n")
    assert sorted(_plans.group_limits(groups, tmp_path)) == [5000, 7000, 9000]
    assert _plans.group_limits(tmp_path / "elsewhere", tmp_path) == []

"""Every benchmark runs, at a small size; what it measures is not asserted, but for agreement."""

import importlib
import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import assert_trees_close, random_params, random_tokens

import assocjax as aj

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SHARED = ("dense", "harness")
SCRIPTS = sorted(p.stem for p in BENCHMARKS.glob("*.py") if p.stem not in SHARED)


@pytest.fixture(autouse=True)
def _default_promotion():
    """As users run them: strict promotion is for the package."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a module of the folder, as a script that is run does."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture(params=["jax", "torch"])
def dense(request, benchmark):
    """The dense definitions in one framework, and its name."""
    if request.param == "torch" and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is no dependency: benchmarks/README.md says how to install it")
    return request.param, benchmark("dense")


@pytest.mark.parametrize("name", SCRIPTS)
def test_runs(name, benchmark, tmp_path, capsys):
    out = tmp_path / "result.json"
    benchmark(name).main(["--small", "--out", str(out)])
    assert capsys.readouterr().out
    assert {"device", "versions"} <= json.loads(out.read_text()).keys()


def test_every_script_is_in_the_readme():
    text = (BENCHMARKS / "README.md").read_text("utf-8")
    assert [name for name in SCRIPTS if f"benchmarks/{name}.py" not in text] == []


def test_dense_statistics_agree(dense):
    framework, module = dense
    N, T, V = 6, 7, 5
    tokens = random_tokens(0, N, T, V)
    found = getattr(module, f"{framework}_statistics")(tokens, V, 2)
    statistics = aj.corpus_statistics(tokens, V)
    expected = {name: getattr(statistics, name) for name in module.NAMES}
    assert_trees_close(found, expected, rtol=2e-5)


@pytest.mark.parametrize("gradient", ["loss_and_gradient", "autograd"])
@pytest.mark.parametrize("L", [1, 3])
def test_dense_gradients_agree(dense, gradient, L):
    framework, module = dense
    N, T, V = 4, 6, 5
    tokens, params = random_tokens(1, N, T, V), random_params(0, V=V, T=T, L=L)
    if framework == "torch":
        weights, batch = module.torch_params(params), module.to_torch(tokens).long()
        loss, found = getattr(module, f"torch_{gradient}")(weights, batch, 2)
        found = aj.Params(**{name: a.cpu().numpy() for name, a in found.items()})
    else:
        loss, found = getattr(module, f"jax_{gradient}")(params, tokens, 2)
    expected = aj.exact_loss_and_gradient(params, tokens)
    assert_trees_close((np.float32(loss), found), expected, rtol=2e-5)


def test_products_of_a_program_are_counted(benchmark):
    """A product of [3,5] and [5,7], in a loop of 4, under jit and vmap."""

    @jax.jit
    def loop(a, b):
        return jax.lax.scan(lambda total, _: (total + a @ b, None), a @ b, length=4)[0]

    a, b = np.ones((2, 3, 5), np.float32), np.ones((5, 7), np.float32)
    jaxpr = jax.make_jaxpr(jax.vmap(loop, (0, None)))(a, b).jaxpr
    assert benchmark("matmul_peak").product_flops(jaxpr) == 2 * (2 * 3 * 5 * 7) * 5


def test_products_of_the_dense_step_are_as_many_as_its_program_has(benchmark):
    N, T, V, L = 2, 6, 5, 3
    tokens, params = random_tokens(0, N, T, V), random_params(0, V=V, T=T, L=L)
    module = benchmark("dense")
    jaxpr = jax.make_jaxpr(lambda p: module.jax_autograd(p, tokens, 1))(params).jaxpr
    counted = benchmark("matmul_peak").product_flops(jaxpr)
    assert counted == benchmark("matmul_peak").dense_flops(V, T, L, N)

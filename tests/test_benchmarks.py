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


def test_a_twin_leaves_for_good(benchmark):
    """From the last crossing on, interpolated in the logarithm of the step."""
    leaving_step = benchmark("twin_horizon").leaving_step
    steps = np.array([1.0, 2, 4, 8, 16])
    assert leaving_step(steps, np.array([0, 0.9, 0.04, 0.06, 0.2]), 0.05) == pytest.approx(32**0.5)
    assert leaving_step(steps, np.array([0.3, 0.9, 0.1, 0.06, 0.2]), 0.05) == 0
    assert leaving_step(steps, np.array([0.3, 0.9, 0.1, 0.06, 0.04]), 0.05) == np.inf


def test_the_law_of_leaving_is_recovered(benchmark):
    """Powers that differ by a known amount between two weights; what has not left is left out."""
    horizon, rows = benchmark("twin_horizon"), []
    for weight, power in (("value", 0.3), ("query", 0.5)):
        for rate, width in ((1e-3, 16), (1e-3, 32), (4e-3, 16), (4e-3, 32)):
            row = {"text": "a", "twin": "twin-2", "weight": weight, "rate": rate, "width": width}
            rows.append(row | {"step": 5.0, "summed": 7 * rate**power / width})
    rows += [row | {"step": step, "summed": step} for row in rows[:2] for step in (0.0, np.inf)]
    law = horizon.fit_law(rows, "twin-2")
    assert (law["cells"], law["groups"]) == (8, 2)
    assert (law["rate"], law["rate_spread"]) == pytest.approx((0.4, 0.1))
    assert (law["width"], law["width_spread"]) == pytest.approx((-1, 0), abs=1e-9)
    assert law["factor"] == pytest.approx(np.exp(0.1 * np.log(2)))


def test_what_an_order_adds_is_orthogonal_to_lower_orders(benchmark):
    shares = benchmark("twin_shares")
    changes = list(np.random.default_rng(0).normal(size=(3, 4, 5)))
    first, second, third = shares.added(changes)
    for a, b in ((first, second), (first, third), (second, third)):
        assert np.sum(a * b) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(first, changes[0])
    assert np.sum(second * changes[1]) == pytest.approx(np.sum(second**2))
    counts = np.arange(6).reshape(2, 3)
    rows = shares.largest(np.eye(2, 3), -np.eye(2, 3), counts, 2, 2)
    expected = [(1, 1, 4, 4), (0, 2, 2, 1)]  # (0, 0) does not occur twice
    assert [tuple(row.values()) for row in rows] == expected
    scores = shares.z_scores(np.array([[1.0, 5], [3, 5]]))
    np.testing.assert_allclose(scores, [[-1, 0], [1, 0]])

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_params
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import assocjax as aj
from assocjax.models.params import WEIGHTS

entries = st.floats(-100, 100, width=32, allow_subnormal=False)


@given(hnp.arrays(np.float32, (3, 4), elements=entries), st.integers(0, 2**31))
def test_definitions(exact, seed):
    theory = np.random.default_rng(seed).normal(size=(3, 4)).astype(np.float32)
    actual = aj.agreement(jnp.asarray(exact), jnp.asarray(theory))
    e, t = exact.astype(np.float64), theory.astype(np.float64)
    norm_e, norm_t = np.linalg.norm(e), np.linalg.norm(t)
    np.testing.assert_allclose(actual.distance, np.linalg.norm(e - t), rtol=1e-5)
    if norm_e == 0:
        assert all(np.isnan(value) for value in actual[:3])
        return
    np.testing.assert_allclose(actual.relative_error, np.linalg.norm(e - t) / norm_e, rtol=1e-5)
    np.testing.assert_allclose(actual.cosine, np.vdot(e, t) / (norm_e * norm_t), atol=1e-6)
    np.testing.assert_allclose(actual.norm_ratio, norm_t / norm_e, rtol=1e-5)


@pytest.mark.optimized
@pytest.mark.parametrize("scale", [1e-34, 1e-24, 1e-12, 1.0, 1e18])
def test_no_underflow_or_overflow_in_float32(scale):
    rng = np.random.default_rng(0)
    exact, theory = rng.normal(size=(2, 20, 20)).astype(np.float32)
    expected = aj.agreement(jnp.asarray(exact), jnp.asarray(theory))
    scaled = aj.agreement(
        jnp.asarray(exact * np.float32(scale)), jnp.asarray(theory * np.float32(scale))
    )
    expected = expected._replace(distance=expected.distance * np.float32(scale))
    chex.assert_trees_all_close(scaled, expected, rtol=1e-5)


def test_equal_opposite_and_scaled():
    a = jnp.arange(6.0).reshape(2, 3)
    chex.assert_trees_all_close(aj.agreement(a, a), aj.Agreement(0, 1, 1, 0), atol=1e-6)
    far = 2 * np.sqrt(55)
    chex.assert_trees_all_close(aj.agreement(a, -a), aj.Agreement(2, -1, 1, far), rtol=1e-6)
    chex.assert_trees_all_close(aj.agreement(a, 3 * a), aj.Agreement(2, 1, 3, far), rtol=1e-6)


def test_undefined_is_nan():
    zero, a = jnp.zeros((2, 2)), jnp.ones((2, 2))
    error, cosine, ratio, distance = aj.agreement(a, zero)
    assert error == 1
    assert jnp.isnan(cosine)
    assert ratio == 0
    assert distance == 2
    for theory, expected in ((a, 2), (zero, 0)):
        *undefined, distance = aj.agreement(zero, theory)
        assert all(jnp.isnan(value) for value in undefined)
        assert distance == expected


def test_derivatives(x64):
    """Against finite differences, at an ordinary point and where the theory is exact."""
    exact, theory, direction = jax.random.normal(jax.random.key(0), (3, 4, 5))
    for measure in ("relative_error", "cosine", "norm_ratio"):

        def of(s, measure=measure):
            return getattr(aj.agreement(exact + s * direction, theory), measure)

        slope = (of(1e-5) - of(-1e-5)) / 2e-5
        np.testing.assert_allclose(jax.grad(of)(0.0), slope, rtol=1e-6)
        np.testing.assert_allclose(jax.jacfwd(of)(0.0), slope, rtol=1e-6)
    at_optimum = jax.grad(lambda t: aj.agreement(exact, t).cosine)(exact)
    np.testing.assert_allclose(at_optimum, 0, atol=1e-12)
    assert jnp.all(jnp.isfinite(jax.grad(lambda t: aj.agreement(exact, t).norm_ratio)(theory)))


def test_params_are_compared_layer_by_layer(x64):
    exact, theory = (random_params(seed, V=4, T=3, L=2) for seed in (0, 1))
    compared = aj.compare_params(exact, theory)
    assert set(compared) == set(WEIGHTS)
    for name in ("query_key", "position", "value"):
        for layer in range(2):
            expected = aj.agreement(getattr(exact, name)[layer], getattr(theory, name)[layer])
            actual = jax.tree.map(lambda a, layer=layer: a[layer], compared[name])
            chex.assert_trees_all_close(actual, expected, rtol=1e-14)
    expected = aj.agreement(exact.output, theory.output)
    chex.assert_trees_all_close(compared["output"], expected, rtol=1e-14)


def test_one_layer_of_theory_stands_for_all():
    exact = random_params(0, V=4, T=3, L=3)
    single = random_params(1, V=4, T=3, L=1)
    repeated = single.replace(
        **{name: jnp.repeat(getattr(single, name), 3, 0) for name in WEIGHTS[:3]}
    )
    chex.assert_trees_all_equal(
        aj.compare_params(exact, single), aj.compare_params(exact, repeated)
    )


def test_shapes_must_match():
    exact, theory = random_params(0, V=4, T=3, L=3), random_params(0, V=4, T=3, L=2)
    with pytest.raises(aj.InputError, match=r"theory.query_key .* \(3, 4, 4\); got \(2, 4, 4\)"):
        aj.compare_params(exact, theory)
    with pytest.raises(aj.InputError, match=r"shape of exact, \(2, 2\); got \(2, 3\)"):
        aj.agreement(jnp.ones((2, 2)), jnp.ones((2, 3)))

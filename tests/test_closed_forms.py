from math import comb

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_trees_close, random_mask, random_params, random_tokens

import assocjax as aj
from assocjax.models.params import WEIGHTS

N, T, V = 12, 6, 7


@pytest.fixture
def corpus():
    tokens, mask = random_tokens(1, N, T, V), random_mask(2, N, T)
    return tokens, mask, aj.corpus_statistics(tokens, V, mask)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 9, 30])
def test_coefficients(x64, steps):
    tokens = random_tokens(0, N, T, V)
    stats = aj.corpus_statistics(tokens, V)
    rate = 0.3
    weights = aj.leading_weights(stats, 2, rate, steps)
    c = sum(k * comb(k, 2) for k in range(steps))
    expected = aj.Params(
        query_key=np.stack([c * rate**4 * stats.query_key] * 2),
        position=np.stack([c * rate**4 * stats.position] * 2),
        value=np.stack([comb(steps, 2) * rate**2 * stats.value] * 2),
        output=steps * rate * np.asarray(stats.bigram),
    )
    chex.assert_trees_all_close(weights, expected, rtol=1e-13)


@pytest.mark.parametrize("steps", [1, 7])
def test_leading_gradient_from_zero_gives_the_closed_form(tolerance, corpus, steps):
    tokens, mask, _ = corpus
    stats = aj.corpus_statistics(tokens, V, mask)  # in this test's precision
    rate = 0.4
    start = random_params(0, V=V, T=T, L=3, scale=0.0)
    end, _ = aj.train(
        start,
        lambda params, step: (jnp.zeros(()), aj.leading_gradient(params, stats, tokens, mask)),
        optax.sgd(rate),
        steps,
    )
    expected = aj.leading_weights(stats, 3, rate, steps)
    assert_trees_close(end, expected, rtol=10 * tolerance)
    gradient = aj.leading_gradient(end, stats, tokens, mask)
    expected = aj.leading_weights_gradient(stats, 3, rate, steps)
    assert_trees_close(gradient, expected, rtol=10 * tolerance)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_order_of_the_error_in_the_learning_rate(x64, corpus, num_layers):
    """||W_O - .|| = O(eta^2), ||V - .|| = O(eta^3), ||W - .|| and ||P - .|| = O(eta^5)."""
    tokens, mask, _ = corpus
    stats = aj.corpus_statistics(tokens, V, mask)
    steps, rates = 6, np.geomspace(1e-4, 1e-3, 4)

    @jax.jit
    def errors(rate):
        params, _ = aj.train(
            random_params(0, V=V, T=T, L=num_layers, scale=0.0),
            lambda params, step: aj.exact_loss_and_gradient(params, tokens, mask),
            optax.sgd(rate),
            steps,
        )
        theory = aj.leading_weights(stats, num_layers, rate, steps)
        compared = aj.compare_params(params, theory)
        absolute = jax.tree.map(lambda a, b: jnp.linalg.norm(a - b), params, theory)
        return absolute, [jnp.max(compared[name].relative_error) for name in WEIGHTS]

    absolute, relative = jax.lax.map(errors, jnp.asarray(rates))
    for name, order in {"output": 2, "value": 3, "query_key": 5, "position": 5}.items():
        slope = np.polyfit(np.log(rates), np.log(getattr(absolute, name)), 1)[0]
        assert slope == pytest.approx(order, abs=0.02), name
    for name, values in zip(WEIGHTS, relative, strict=True):
        slope = np.polyfit(np.log(rates), np.log(values), 1)[0]
        assert slope == pytest.approx(1, abs=0.02), name


def test_steps_and_rate_may_be_traced(x64, corpus):
    stats = aj.corpus_statistics(*corpus[:1], V, corpus[1])
    form = jax.jit(jax.vmap(lambda rate, s: aj.leading_weights(stats, 1, rate, s)))
    rates, steps = jnp.array([0.1, 0.2]), jnp.array([3, 5])
    for i, (rate, s) in enumerate([(0.1, 3), (0.2, 5)]):
        chex.assert_trees_all_close(
            jax.tree.map(lambda a, i=i: a[i], form(rates, steps)),
            aj.leading_weights(stats, 1, rate, s),
            rtol=1e-13,
        )


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ((0, 0.1, 1), aj.InputError, "num_layers"),
        ((1, -0.1, 1), aj.InputError, "learning_rate"),
        ((1, float("inf"), 1), aj.InputError, "learning_rate"),
        ((1, 0.1, -1), aj.InputError, "steps"),
        ((1, 0.1, 1.5), aj.InputTypeError, "steps"),
        ((1, 0.1, np.array(1.5)), aj.InputTypeError, "steps"),
        ((1, 0.1, jnp.asarray(1.5)), aj.InputTypeError, "steps"),
    ],
)
def test_bad_arguments(corpus, arguments, error, name):
    with pytest.raises(error, match=name):
        aj.leading_weights(corpus[2], *arguments)

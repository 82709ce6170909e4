"""Corrections of the effective theory, against exact training."""

import jax
import numpy as np
import optax
import pytest
from conftest import assert_trees_close, random_mask, random_tokens

import assocjax as aj

N, T, V, L = 5, 6, 7, 2


@pytest.fixture
def corpus():
    tokens, mask = random_tokens(1, N, T, V), random_mask(2, N, T)
    return tokens, mask


def exactly(tokens, mask, rate, steps):
    start = aj.init_params(jax.random.key(0), vocab_size=V, seq_len=T, num_layers=L)

    def gradient(params, step):
        return aj.exact_loss_and_gradient(params, tokens, mask)

    return jax.jit(lambda p: aj.train(p, gradient, optax.sgd(rate), steps)[0])(start)


def test_corrections_add_digits(x64, corpus):
    statistics = aj.effective_statistics(corpus[0], depth=L, vocab_size=V, mask=corpus[1])
    rate, steps = 0.05, 60
    exact = exactly(*corpus, rate, steps)
    options = {"num_layers": L, "steps": steps, "learning_rate": rate}
    effective = aj.effective_weights(statistics, *corpus, **options, tolerance=1e-8)
    before = aj.compare_params(exact, effective.params)
    # The first sees attention's feedback on value and output; the second what that does to
    # attention.
    for corrections, names in ((1, ("value", "output")), (2, aj.WEIGHTS)):
        found = aj.corrected_weights(
            statistics, *corpus, **options, corrections=corrections, nodes=12
        )
        assert found.passes == 12 * (1 + corrections)
        after = aj.compare_params(exact, found.params)
        for name in names:
            wrong = np.max(before[name].relative_error)
            assert np.max(after[name].relative_error) < 0.05 * wrong, name
            if corrections == 1:  # what it changes is about what was wrong
                np.testing.assert_allclose(found.change[name], wrong, rtol=0.1)


def test_with_every_step_a_node_it_ends_in_exact_training(x64, corpus):
    statistics = aj.effective_statistics(corpus[0], depth=L, vocab_size=V, mask=corpus[1])
    rate, steps = 0.8, 7
    found = aj.corrected_weights(
        statistics, *corpus, num_layers=L, steps=steps, learning_rate=rate,
        corrections=steps, nodes=100,
    )  # fmt: skip
    assert found.passes == (steps - 2) * (1 + steps)
    assert_trees_close(found.params, exactly(*corpus, rate, steps), rtol=1e-11)


def test_bad_arguments(corpus):
    statistics = aj.effective_statistics(corpus[0], depth=L, vocab_size=V, mask=corpus[1])
    good = {"num_layers": L, "steps": 5, "learning_rate": 0.1}
    for name, value, least in (("steps", 2, 3), ("corrections", 0, 1), ("nodes", 0, 1)):
        with pytest.raises(aj.InputError, match=f"{name} must be at least {least}; got {value}"):
            aj.corrected_weights(statistics, *corpus, **(good | {name: value}))
    with pytest.raises(aj.InputError, match="the corrected weights diverge before step 20"):
        aj.corrected_weights(statistics, *corpus, **(good | {"steps": 20, "learning_rate": 1e30}))

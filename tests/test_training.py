import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import random_params, random_tokens

import assocjax as aj
from assocjax.training.train import batch_indices

N, T, V, L = 6, 4, 5, 2


@pytest.fixture
def problem():
    tokens = random_tokens(0, N, T, V)
    return random_params(1, V=V, T=T, L=L), tokens


def by_exact(tokens):
    return lambda params, step: aj.exact_loss_and_gradient(params, tokens)


def python_loop(params, tokens, optimizer, steps):
    @jax.jit
    def advance(params, state):
        updates, state = optimizer.update(aj.exact_gradient(params, tokens), state, params)
        return optax.apply_updates(params, updates), state

    state, trajectory = optimizer.init(params), [params]
    for _ in range(steps):
        params, state = advance(params, state)
        trajectory.append(params)
    return trajectory


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.3),
        optax.sgd(optax.linear_schedule(0.5, 0.1, 4), momentum=0.9, nesterov=True),
        optax.adamw(0.01),
        optax.chain(optax.clip_by_global_norm(0.1), optax.rmsprop(0.01)),
    ],
    ids=["sgd", "nesterov-schedule", "adamw", "clipped-rmsprop"],
)
def test_any_optimizer_equals_a_python_loop(x64, promote, problem, optimizer):
    params, tokens = problem
    expected = python_loop(params, tokens, optimizer, 5)
    end, seen = aj.train(params, by_exact(tokens), optimizer, 5, observe=lambda snapshot: snapshot)
    chex.assert_trees_all_close(end, expected[-1], rtol=1e-9, atol=1e-14)
    for step, at_step in enumerate(expected):
        snapshot = jax.tree.map(lambda a, s=step: a[s], seen)
        assert snapshot.step == step
        chex.assert_trees_all_close(snapshot.params, at_step, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(snapshot.loss, aj.loss(at_step, tokens), rtol=1e-12)
        chex.assert_trees_all_close(
            snapshot.gradient, aj.exact_gradient(at_step, tokens), rtol=1e-7, atol=1e-12
        )


def test_no_steps(problem):
    params, tokens = problem
    end, losses = aj.train(params, by_exact(tokens), optax.sgd(0.3), 0)
    chex.assert_trees_all_equal(end, params)
    np.testing.assert_allclose(losses, [aj.loss(params, tokens)], rtol=1e-6)


def test_progress_is_reported_once_a_step_for_all_runs(problem):
    params, tokens = problem
    seen = []

    @jax.jit
    def losses(rates):
        def run(rate):
            return aj.train(
                params, by_exact(tokens), optax.sgd(rate), 3, progress=lambda s: seen.append(int(s))
            )[1]

        return jax.vmap(run)(rates)

    jax.block_until_ready(losses(jnp.array([0.1, 0.2, 0.3])))
    jax.effects_barrier()
    assert sorted(seen) == [0, 1, 2, 3]


def test_negative_steps(problem):
    params, tokens = problem
    with pytest.raises(aj.InputError, match="steps must be at least 0; got -1"):
        aj.train(params, by_exact(tokens), optax.sgd(0.1), -1)


def test_an_epoch_visits_every_sequence_once():
    key, size, sequences = jax.random.key(0), 3, 12
    epochs = [
        np.concatenate([batch_indices(key, jnp.int32(s), sequences, size) for s in range(e, e + 4)])
        for e in (0, 4)
    ]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(sequences))
    assert not np.array_equal(*epochs)
    other = batch_indices(jax.random.key(1), jnp.int32(0), sequences, size)
    assert not np.array_equal(other, epochs[0][:size])


def test_an_uneven_epoch_repeats_nothing():
    key = jax.random.key(0)
    batches = [batch_indices(key, jnp.int32(s), 10, 4) for s in range(2)]
    assert len(np.unique(np.concatenate(batches))) == 8


@pytest.mark.parametrize("batch_size", [0, 11])
def test_bad_batch_size(batch_size):
    with pytest.raises(aj.InputError, match="batch_size must be at"):
        batch_indices(jax.random.key(0), jnp.int32(0), 10, batch_size)

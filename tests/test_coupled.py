"""AdamW with a second moment that all tokens of an embedding share."""

import jax
import numpy as np
import optax
import pytest
from conftest import assert_trees_close

import assocjax as aj
from assocjax import llm
from assocjax.llm.recipe import pretrain_recipe
from assocjax.training.coupled import coupled_adamw

RATE, B1, B2, EPS, DECAY, STEPS = 0.1, 0.8, 0.9, 1e-6, 0.3, 3


@pytest.fixture(autouse=True)
def promoted(promote):
    """optax mixes integers and floats."""


def trained(optimizer, params, gradients):
    """The weights after each step."""

    @jax.jit
    def train(params, gradients):
        state, found = optimizer.init(params), []
        for step in range(STEPS):
            gradient = jax.tree.map(lambda g, step=step: g[step], gradients)
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            found.append(params)
        return found

    return train(params, gradients)


def test_it_is_adamw_with_a_mean_over_tokens():
    """By its definition in NumPy, in float64; and other weights are those of optax's AdamW."""
    rng = np.random.default_rng(0)
    shapes = {"embedding": (5, 3), "unembedding": (3, 5), "blocks_0": {"query": (3, 3)}}
    params, gradients = (
        jax.tree.map(
            lambda shape, n=n: rng.normal(size=(*n, *shape)).astype(np.float32),
            shapes,
            is_leaf=lambda leaf: isinstance(leaf, tuple),
        )
        for n in ((), (STEPS,))
    )
    options = {"b1": B1, "b2": B2, "eps": EPS, "weight_decay": DECAY}
    found = trained(coupled_adamw(RATE, **options), params, gradients)
    plain = trained(optax.adamw(RATE, **options), params, gradients)
    for name, axis in (("embedding", 0), ("unembedding", 1)):
        weight, m, v = (np.asarray(x, np.float64) for x in (params[name], 0, 0))
        for step, g in enumerate(gradients[name].astype(float)):
            m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
            shared = (v / (1 - B2 ** (step + 1))).mean(axis, keepdims=True)
            direction = m / (1 - B1 ** (step + 1)) / (np.sqrt(shared) + EPS)
            weight = weight - RATE * (direction + DECAY * weight)
            np.testing.assert_allclose(found[step][name], weight, rtol=1e-5)
        assert np.abs(found[0][name] - plain[0][name]).max() > 0.01
    assert_trees_close(found[-1]["blocks_0"], plain[-1]["blocks_0"], rtol=1e-6)


def test_steps_of_an_unembedding_sum_to_zero_over_tokens():
    """As its gradients do, unlike those of AdamW: no direction is common to all tokens."""
    rng = np.random.default_rng(1)
    gradients = {"unembedding": rng.normal(size=(STEPS, 4, 6)).astype(np.float32) ** 3}
    gradients["unembedding"] -= gradients["unembedding"].mean(-1, keepdims=True)
    start = {"unembedding": np.zeros((4, 6), np.float32)}
    for make, common in ((coupled_adamw, False), (optax.adamw, True)):
        end = trained(make(RATE, weight_decay=0.0), start, gradients)[-1]["unembedding"]
        mean = np.abs(end.mean(1)).max() / np.abs(end).max()
        assert mean > 0.05 if common else mean < 1e-6


def test_it_has_a_name():
    made = aj.make_optimizer("coupled_adamw", 0.1)
    assert isinstance(made, optax.GradientTransformation)
    assert not aj.is_linear("coupled_adamw")


def test_recipes_of_small_models():
    params = {"embedding": np.ones((4, 2), np.float32), "gain": np.ones(2, np.float32)}
    gradients = {"embedding": np.zeros((STEPS, 4, 2), np.float32)}
    gradients["embedding"][:, 0] = 0.01  # of one token; below the norm at which it is clipped
    gradients["gain"] = np.zeros((STEPS, 2), np.float32)
    ends = {}
    for name in ("adamw", "coupled_adamw", "sgd"):
        config = llm.PretrainConfig(optimizer=name, steps=STEPS, learning_rate=0.1)
        ends[name] = trained(pretrain_recipe(config).optimizer(), params, gradients)[0]
    step = {name: 1 - of["embedding"][0, 0] for name, of in ends.items()}
    # Of sgd rate times gradient; Adam's has the size of the rate, with weight decay; the shared
    # second moment is a quarter of the token's own.
    np.testing.assert_allclose(step["sgd"], 0.1 * 0.01, rtol=1e-3)
    np.testing.assert_allclose(step["adamw"], 0.1 * (1 + 0.1), rtol=1e-3)
    np.testing.assert_allclose(step["coupled_adamw"], 0.1 * (2 + 0.1), rtol=1e-3)
    with pytest.raises(aj.InputError, match=r"optimizer must be .*got 'adam'"):
        llm.PretrainConfig(optimizer="adam")  # type: ignore[arg-type]

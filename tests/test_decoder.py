"""Decoders without another framework; `test_llm_decoders.py` compares them with transformers."""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_mask, random_tokens, token_data

from assocjax import InputError, get_model, sweep
from assocjax.models import decoder as d
from assocjax.models.model import Sizes

V, T, L, D, H = 11, 6, 2, 16, 4
SIZES = Sizes(V, T, L)
STEP: Any = {"num_sequences": 5, "max_distinct": None, "itemsize": 8}
CONFIGS = {
    "neox": d.neox(V, T, L, D, H),
    "llama": d.llama(V, T, L, D, H, num_kv_heads=2),
    "gpt2": d.gpt2(V, T, L, D, H),
}


@pytest.fixture(params=CONFIGS)
def model(request):
    return d.DecoderModel(request.param, CONFIGS[request.param])


@partial(jax.jit, static_argnums=(0, 1, 2))
def random_params(model, seed=0, dtype=None):
    """All random, gains and biases too."""
    params = model.init(jax.random.key(seed), SIZES, 1.0, dtype)
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    moved = [x + jnp.asarray(rng.normal(0, 0.2, x.shape), x.dtype) for x in leaves]
    return jax.tree.unflatten(tree, moved)


def test_a_position_reads_itself_and_those_before_it(model):
    params = random_params(model)
    tokens = random_tokens(0, 3, T, V)[:, :T]
    logits = jax.jit(model.logits)
    before = logits(params, tokens)
    assert before.shape == (3, T, V)
    t = 3
    other = np.where(np.arange(T) == t, (tokens + 1) % V, tokens)
    changed = jnp.any(before != logits(params, other), axis=(0, 2))
    assert changed.tolist() == [False] * t + [True] * (T - t)


def test_nobody_reads_a_masked_position(model):
    params = random_params(model)
    tokens = random_tokens(0, 1, T, V)[:, :T]
    mask = np.array([[True, False, True, True, False, True]])
    logits = jax.jit(model.logits)
    before = logits(params, tokens, mask)
    other = np.where(mask, tokens, (tokens + 1) % V)
    changed = jnp.any(before != logits(params, other, mask), axis=-1)
    assert changed.tolist() == (~mask).tolist()


def reference_logits(config, params, tokens):
    """One sequence, position by position and head by head, in NumPy."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    r, shared = config.head_size, config.num_heads // config.kv_heads

    def norm(of, x):
        x = x - x.mean() if config.norm == "layer" else x
        x = x / np.sqrt((x**2).mean() + config.norm_eps)
        return x * of["gain"] + of.get("bias", 0)

    def turn(x, t):
        x, n = x.copy(), len(config.frequencies)
        for i in range(n):
            angle = t * config.rotary_base ** (-2 * i / int(r * config.rotary_fraction))
            a, b = x[i], x[i + n]
            x[i] = a * math.cos(angle) - b * math.sin(angle)
            x[i + n] = b * math.cos(angle) + a * math.sin(angle)
        return x

    def act(x):
        if config.activation == "silu":
            return x / (1 + np.exp(-x))
        if config.activation == "gelu":
            return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
        return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2

    h = p["embedding"][tokens]
    if config.learned_positions:
        h = h + p["positions"][: len(tokens)]
    for layer in range(config.num_layers):
        w = p[f"blocks_{layer}"]

        def linear(name, x, w=w):
            return x @ w[name] + w.get(f"{name}_bias", 0)

        x = [norm(w["attention_norm"], row) for row in h]
        q, k, v = (
            [linear(name, row).reshape(-1, r) for row in x] for name in ("query", "key", "value")
        )
        out = []
        for t in range(len(tokens)):
            heads = []
            for head in range(config.num_heads):
                query, g = turn(q[t][head], t), head // shared
                weights = np.exp([query @ turn(k[s][g], s) / math.sqrt(r) for s in range(t + 1)])
                values = np.array([v[s][g] for s in range(t + 1)])
                heads.append(weights @ values / weights.sum())
            attended = h[t] + linear("attention_output", np.concatenate(heads))
            y = norm(w["mlp_norm"], h[t] if config.parallel else attended)
            hidden = linear("mlp_in", y)
            hidden = act(linear("mlp_gate", y)) * hidden if config.gated else act(hidden)
            out.append(attended + linear("mlp_out", hidden))
        h = np.array(out)
    unembedding = p["embedding"].T if config.tied else p["unembedding"]
    return np.array([norm(p["final_norm"], row) for row in h]) @ unembedding


def test_logits_are_those_of_loops(model, x64):
    params = random_params(model)
    tokens = random_tokens(1, 1, T, V)[0, :T]
    expected = reference_logits(model.config, params, tokens)
    np.testing.assert_allclose(jax.jit(model.logits)(params, tokens), expected, rtol=0, atol=1e-12)


def test_loss_is_the_mean_over_valid_targets(model, x64):
    params = random_params(model)
    tokens, mask = random_tokens(2, 4, T, V), random_mask(2, 4, T)
    z = np.asarray(jax.jit(model.logits)(params, tokens[:, :-1], mask))
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    nll = -np.take_along_axis(log_p, tokens[:, 1:, None], -1)[..., 0]
    loss = jax.jit(model.loss)(params, tokens, mask)
    np.testing.assert_allclose(loss, nll[mask].mean(), rtol=1e-13)


def test_the_gradient_is_that_of_finite_differences(model, x64):
    params = random_params(model, dtype=jnp.float64)
    tokens, mask = random_tokens(3, 4, T, V), random_mask(3, 4, T)
    loss = jax.jit(model.loss)
    _, gradient = jax.jit(model.loss_and_gradient)(params, tokens, mask)
    rng = np.random.default_rng(0)
    leaves, tree = jax.tree.flatten(jax.tree.map(np.asarray, params))
    for i, leaf in enumerate(leaves):  # one direction for each weight, so that none is left out
        direction = rng.normal(size=leaf.shape)
        ahead, behind = (
            loss(
                tree.unflatten([*leaves[:i], leaf + h * direction, *leaves[i + 1 :]]), tokens, mask
            )
            for h in (1e-5, -1e-5)
        )
        expected = np.vdot(jax.tree.leaves(gradient)[i], direction)
        # Third derivatives times 1e-10, and the rounding of the losses' difference.
        assert abs((ahead - behind) / 2e-5 - expected) < 1e-7


def test_microbatches_give_the_loss_and_gradient_of_the_batch(model, x64, monkeypatch):
    params = random_params(model, dtype=jnp.float64)
    tokens, mask = random_tokens(5, 5, T, V), jnp.asarray(random_mask(5, 5, T))
    expected = jax.jit(jax.value_and_grad(model.loss))(params, tokens, mask)
    config = model.decoder(params).config
    of_five = model.step_bytes(SIZES, **STEP, microbatch_size=None)
    one = d.activation_budget() / model._microbatch_size(config, T, params)
    monkeypatch.setattr(d, "activation_budget", lambda: int(2.5 * one))
    assert model._microbatch_size(config, T, params) == 2
    # A function of its own, of which no program was made before.
    found = jax.jit(lambda *batch: model.loss_and_gradient(*batch))(params, tokens, mask)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), found, expected)
    np.testing.assert_allclose(model.evaluate(params, tokens, mask), expected[0], rtol=1e-12)
    # In microbatches of two; a program has many arrays of the size of its weights, too.
    assert model.step_bytes(SIZES, **STEP, microbatch_size=None) < 0.7 * of_five


def test_attention_over_a_sequence_is_attention_over_its_keys(model):
    config, rng = model.config, np.random.default_rng(0)
    q = jnp.asarray(rng.normal(size=(T, H, D // H)), jnp.float32)
    k, v = (
        jnp.asarray(rng.normal(size=(T, config.kv_heads, D // H)), jnp.float32) for _ in range(2)
    )
    keys, values = (jnp.broadcast_to(x, (T, *x.shape)) for x in (k, v))
    drawn = d.attend(config, q[:, None], keys, values, jnp.tri(T, dtype=bool)[:, None])
    np.testing.assert_allclose(drawn[:, 0], d.causal(config, q, k, v), rtol=0, atol=1e-6)


def test_scores_depend_on_distances_only(x64):
    config, rng = CONFIGS["llama"], np.random.default_rng(0)
    q, k = jnp.asarray(rng.normal(size=(2, 1, H, D // H)))

    def score(at, to):
        q_at, k_to = (d.rotate(config, x, jnp.array([t], jnp.int32)) for x, t in ((q, at), (k, to)))
        return jnp.sum(q_at * k_to, axis=-1)

    np.testing.assert_allclose(score(9, 4), score(5, 0), rtol=0, atol=1e-12)
    assert jnp.max(jnp.abs(score(9, 4) - score(9, 5))) > 1e-3


def test_weights_by_name(model):
    c, params = model.config, random_params(model)
    weights = model.weights(params)
    per_norm = 2 * D if c.norm == "layer" else D
    to_keys = c.kv_heads * c.head_size
    expected = {
        "embedding": (1, V, D),
        "positions": (1, T, D),
        "query": (L, D, D),
        "key": (L, D, to_keys),
        "value": (L, D, to_keys),
        "attention_output": (L, D, D),
        "mlp_in": (L, D, c.mlp_width),
        "mlp_gate": (L, D, c.mlp_width),
        "mlp_out": (L, c.mlp_width, D),
        "norms": (L, 2 * per_norm),
        "biases": (L, 3 * D + 2 * to_keys + c.mlp_width),
        "final_norm": (1, per_norm),
        "unembedding": (1, D, V),
    }
    absent = {
        "neox": {"positions", "mlp_gate"},
        "llama": {"positions", "biases"},
        "gpt2": {"mlp_gate", "unembedding"},
    }[model.name]
    assert {name: w.shape for name, w in weights.items()} == {
        name: shape for name, shape in expected.items() if name not in absent
    }
    assert [name for name in expected if name in weights] == list(weights)
    # Every weight is in it once, layer by layer.
    total = sum(float(np.sum(leaf)) for leaf in jax.tree.leaves(params))
    assert sum(float(np.sum(w)) for w in weights.values()) == pytest.approx(total, abs=1e-3)
    np.testing.assert_array_equal(weights["value"][1], params["blocks_1"]["value"])


def test_the_start(model):
    config = dataclasses.replace(model.config, width=64, mlp_width=256)
    wide = d.DecoderModel(model.name, config)
    params = jax.jit(lambda key: wide.init(key, Sizes(300, 40, 3), 2.0))(jax.random.key(0))
    small, residual = math.sqrt(2 / (5 * 64)), 2 / (3 * 8)
    for name, weight in model.weights(params).items():
        if name in ("norms", "final_norm", "biases"):
            assert set(np.unique(weight).tolist()) <= {0.0, 1.0}, name
        else:
            sd = residual if name in ("attention_output", "mlp_out") else small
            # Five standard errors of the sd of 2,560 values or more.
            assert np.std(weight) == pytest.approx(2 * sd, rel=0.07), name


def test_sizes_are_those_of_the_weights(model):
    params = jax.jit(lambda key: model.init(key, Sizes(7, 5, 3)))(jax.random.key(0))
    config = model.decoder(params).config
    assert (config.vocab_size, config.num_layers) == (7, 3)
    assert jax.jit(model.logits)(params, np.zeros((2, 5), np.int32)).shape == (2, 5, 7)
    assert model.shapes(Sizes(7, 5, 3))["embedding"].shape == (7, D)
    assert hash(model) == hash(d.DecoderModel(model.name, model.config))


@pytest.mark.parametrize("name", CONFIGS)
def test_families_are_models_by_name(name):
    model = get_model(name)
    assert isinstance(model, d.DecoderModel)
    assert (model.name, model.config.width, model.config.num_heads) == (name, 128, 4)
    shapes = model.shapes(SIZES)
    assert shapes["embedding"].shape == (V, 128)
    made = jax.jit(lambda key: model.weights(model.init(key, SIZES)))(jax.random.key(0))
    assert model.layers(SIZES) == {name: len(weight) for name, weight in made.items()}


def test_a_sweep_is_a_loop_over_its_runs(model, promote):
    tokens = random_tokens(4, 6, T, V)
    data = token_data(tokens, V)
    dataset = sweep(
        data,
        model=model,
        num_layers=L,
        steps=2,
        learning_rates=[0.1, 0.3],
        seeds=[0],
        theories=[],
    )
    mask = jnp.ones((6, T), bool)
    loss_and_gradient = jax.jit(model.loss_and_gradient)
    for rate in (0.1, 0.3):
        losses = []
        start, _ = jax.random.split(jax.random.key(0))
        params = jax.jit(lambda key: model.init(key, SIZES, 1.0))(start)
        for _ in range(3):
            loss, gradient = loss_and_gradient(params, tokens, mask)
            losses.append(float(loss))
            params, gradient = jax.tree.map(np.asarray, (params, gradient))
            params = jax.tree.map(lambda w, g, rate=rate: w - rate * g, params, gradient)
        found = dataset.loss.sel(learning_rate=rate).squeeze()
        np.testing.assert_allclose(found, losses, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 15}, "width must be a multiple of num_heads; got 15 for 4"),
        ({"num_kv_heads": 3}, "num_heads must be a multiple of num_kv_heads; got 4 for 3"),
        ({"num_layers": 0}, "num_layers must be at least 1; got 0"),
        ({"norm": "batch"}, "norm must be"),
        ({"rotary_fraction": 1.5}, "rotary_fraction must be at most 1; got 1.5"),
        ({"width": 4, "rotary_fraction": 1.0}, "rotary embedding turns pairs"),
    ],
)
def test_bad_architectures(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIGS["neox"], **changes)

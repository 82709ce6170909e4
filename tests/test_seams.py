"""The two seams: theories and models that are written here, outside of the package."""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from conftest import random_mask, random_tokens, token_data
from flax import linen as nn
from flax import nnx
from test_checkpoints import killed_sweep

import assocjax as aj
from assocjax import cli
from assocjax.experiments import _grids
from assocjax.theories.taylor import taylor_flow, taylor_series, taylor_weights
from assocjax.theories.theory import Batch

N, T, V, L = 8, 5, 6, 2
SIZES = aj.Sizes(V, T, L)


@pytest.fixture
def data():
    return token_data(random_tokens(0, N, T, V), V, random_mask(1, N, T))


class Bag(aj.Model):
    """Predicts from the mean embedding of the tokens so far; layers of embeddings are added."""

    name = "test-bag"
    init_scale = 0.5

    def init(self, key, sizes, scale, dtype=None):
        one, two = jax.random.split(key)
        shape = (sizes.num_layers, sizes.vocab_size, 3)
        return {
            "embedding": scale * jax.random.normal(one, shape, dtype),
            "unembedding": scale * jax.random.normal(two, (3, sizes.vocab_size), dtype),
        }

    def loss(self, params, tokens, mask):
        embedded = params["embedding"].sum(axis=0)[tokens[:, :-1]]
        count = jnp.arange(1, tokens.shape[1], dtype=embedded.dtype)[None, :, None]
        logits = (jnp.cumsum(embedded, axis=1) / count) @ params["unembedding"]
        nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], axis=2)
        return jnp.sum(jnp.where(mask, nll[..., 0], 0)) / jnp.sum(mask).astype(nll.dtype)

    def weights(self, params):
        return {"embedding": params["embedding"], "unembedding": params["unembedding"][None]}


class HalfGradient(aj.Theory):
    """Of any model, from its start: half of the exact gradient of the whole corpus."""

    name = "test-half"
    from_start = True
    of_batches = False

    def prepare(self, model, sizes, batch):
        return jnp.float32(0.5)

    def gradient(self, model, params, prepared, batch):
        exact = jax.grad(model.loss)(params, batch.tokens, batch.mask)
        return jax.tree.map(lambda leaf: prepared.astype(leaf.dtype) * leaf, exact)


BAG, HALF = Bag(), HalfGradient()
GRID = {"learning_rates": [0.3, 0.1], "seeds": [3, 0], "init_scales": [0.2, 0.5]}
RUN = {"model": BAG, "theories": [HALF], "steps": 6, "num_layers": L}


def by_hand(data, rate, seed, scale, steps, factor):
    """Weights and gradients of plain gradient descent by a multiple of the exact gradient."""
    key, _ = jax.random.split(jax.random.key(seed))
    params = BAG.init(key, SIZES, scale)
    gradient_of = jax.jit(jax.grad(BAG.loss))
    for _ in range(steps):
        gradient = gradient_of(params, jnp.asarray(data.tokens), jnp.asarray(data.mask))
        params = jax.tree.map(lambda w, g: w - rate * factor * g, params, gradient)
    return params


def test_a_theory_and_a_model_from_outside_are_swept(data, tmp_path):
    dataset = aj.sweep(data, **GRID, **RUN)
    assert dataset["weight"].values.tolist() == ["embedding", "unembedding"]
    assert dataset["has_layers"].values.tolist() == [True, False]
    assert dataset["theory"].values.tolist() == ["test-half"]
    cell = dataset.sel(learning_rate=0.3, seed=3, init_scale=0.5, theory="test-half").isel(step=-1)
    run = by_hand(data, 0.3, 3, 0.5, 6, 1.0)
    theory = by_hand(data, 0.3, 3, 0.5, 6, 0.5)
    for layer in range(L):
        expected = aj.agreement(run["embedding"][layer], theory["embedding"][layer])
        found = cell.sel(quantity="weights", weight="embedding", layer=layer + 1)
        np.testing.assert_allclose(found["relative_error"], expected.relative_error, rtol=1e-4)
    unembedding = cell["relative_error"].sel(quantity="weights", weight="unembedding")
    assert np.isnan(unembedding.sel(layer=1))
    expected = aj.agreement(run["unembedding"], theory["unembedding"])
    np.testing.assert_allclose(unembedding.sel(layer=2), expected.relative_error, rtol=1e-4)
    # At the start the weights are the same, and the theory's gradient is half of the run's.
    start = dataset["norm_ratio"].isel(step=0, layer=-1)
    np.testing.assert_allclose(start.sel(quantity="weights"), 1, rtol=1e-6)
    np.testing.assert_allclose(start.sel(quantity="gradients"), 0.5, rtol=1e-5)

    assert [row["theory"] for row in aj.summary(dataset)] == ["test-half"] * 4
    table = aj.to_dataframe(dataset[["cosine"]])
    assert set(table.loc[table["weight"] == "unembedding", "layer"]) == {L}
    changes = cell.sel(quantity="changes", weight="unembedding", layer=L)
    origin = by_hand(data, 0.3, 3, 0.5, 0, 1.0)["unembedding"]
    expected = aj.agreement(run["unembedding"] - origin, theory["unembedding"] - origin)
    np.testing.assert_allclose(changes["relative_error"], expected.relative_error, rtol=1e-4)
    # Half of every change at first; more is wrong once the gradients differ.
    assert aj.validity_horizon(dataset, 0.49)["horizon"].max() == 0
    assert aj.validity_horizon(dataset, 0.505)["horizon"].sel(weight="unembedding").min() > 1
    paths = aj.save_sweep(dataset, tmp_path)
    assert {"cosine_weights.png", "relative_error.pdf", "loss.png"} <= {p.name for p in paths}
    aj.save(dataset, tmp_path / "sweep.nc")
    xr.testing.assert_identical(aj.load(tmp_path / "sweep.nc"), dataset)


def test_they_resume_to_the_same_bits(data, tmp_path):
    arguments = GRID | RUN | {"checkpoint_every": 2}
    never = aj.sweep(data, **arguments, checkpoint=tmp_path / "never")
    killed_sweep(data, 2, **arguments, checkpoint=tmp_path / "killed")
    again = aj.sweep(data, **arguments, checkpoint=tmp_path / "killed")
    xr.testing.assert_equal(again, never)


def test_minibatches_leave_out_the_errors_of_a_theory_that_is_not_of_batches(data):
    dataset = aj.sweep(data, learning_rates=[0.1], **RUN | {"steps": 2}, batch_size=3)
    assert dataset["sampling_error"].isnull().all()
    assert dataset["relative_error"].sel(quantity="weights").isel(step=2, layer=-1).notnull().all()


def test_models_and_theories_of_one_name_are_told_apart_by_their_settings(data, tmp_path):
    run = {"learning_rates": [0.1], "steps": 1, "num_layers": L, "theories": []}
    aj.sweep(data, model=aj.Factored(width=4), **run, checkpoint=tmp_path)
    with pytest.raises(aj.InputError, match=r"settings\.factored\.width is 4, here it is 3"):
        aj.sweep(data, model=aj.Factored(width=3), **run, checkpoint=tmp_path)


def test_horizons_are_studied_for_them():
    def load(vocab_size, seq_len):
        return token_data(random_tokens(0, N, seq_len, vocab_size), vocab_size)

    rows = aj.horizon_study(
        load,
        vocab_sizes=[V],
        seq_lens=[T],
        num_layers=[1, 2],
        learning_rates=[0.5],
        duration=6.0,
        model=BAG,
        theories=[HALF],
        threshold=0.4,
    )
    assert [row["num_layers"] for row in rows] == [1, 2]
    # The run slows down as its loss decreases, with two layers until the theory has caught up.
    assert [row["unembedding"] for row in rows] == [0, None]
    assert [row["unembedding*eta"] for row in rows] == [0, None]


PLUGIN = """
import jax
import jax.numpy as jnp
import assocjax as aj
from test_seams import Bag, HalfGradient


class PluginBag(Bag):
    name = "plugin-bag"


class PluginHalf(HalfGradient):
    name = "plugin-half"


aj.register_model(PluginBag())
aj.register_theory(PluginHalf())
"""


def test_the_command_line_sweeps_them(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(PLUGIN, "utf-8")
    command = (
        "sweep --plugins mine.py --model plugin-bag --theories plugin-half --num-sequences 8 "
        "--seq-len 8 --vocab-size 12 --steps 3 --num-layers 2 --learning-rates 0.5 --out out"
    )
    cli.main(command.split())
    out = capsys.readouterr().out
    assert "plugin-half" in out
    dataset = aj.load("out/sweep.nc")
    assert '"plugin-bag"' in dataset.attrs["config"]
    assert (tmp_path / "out" / "relative_error.png").exists()
    cli.main(command.split())  # once more, in the same process: nothing is registered twice
    assert "already complete" in capsys.readouterr().out
    cli.main(
        [
            "horizon",
            "--plugins",
            "mine.py",
            "--model",
            "plugin-bag",
            "--theories",
            "plugin-half",
            "--num-sequences",
            "8",
            "--seq-lens",
            "8",
            "--vocab-sizes",
            "12",
            "--num-layers",
            "1",
            "--learning-rates",
            "0.5",
            "--duration",
            "2",
            "--out",
            "study",
        ]
    )
    assert "plugin-half" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1 / 0\n", "mine.py, line 1: ZeroDivisionError: division by zero"),
        ("def (\n", "mine.py, line 1: SyntaxError"),
        (None, "mine.py does not exist"),
    ],
)
def test_a_plugin_that_fails_is_named_in_a_line(tmp_path, capsys, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("mine.py").write_text(text, "utf-8")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["sweep", "--plugins", "mine.py", "--out", "out"])
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_of_the_papers_model_says_so_in_a_line(data, capsys, monkeypatch, tmp_path):
    message = "theory 'leading' is of weights between tokens, those of model 'attention-only'"
    with pytest.raises(aj.InputError, match=message):
        aj.sweep(data, learning_rates=[0.1], **RUN | {"theories": ["leading"]})
    with pytest.raises(aj.InputError, match="model 'test-bag' has no reading as matrices between"):
        aj.track(data, learning_rate=0.1, steps=2, num_layers=L, model=BAG)
    with pytest.raises(aj.InputTypeError, match="params must be of class Params; got dict"):
        aj.ablate(BAG.init(jax.random.key(0), SIZES, 0.1), None, data)  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(["ablate", "--model", "factored", "--num-sequences", "8", "--seq-len", "8"])
    assert "is of weights between tokens" in capsys.readouterr().err


def test_names_are_checked():
    with pytest.raises(aj.InputError, match=r"model must be one of 'attention-only', .* got 'gpt'"):
        aj.get_model("gpt")
    with pytest.raises(aj.InputError, match=r"theory must be one of 'leading', .*; got 'mine'"):
        aj.get_theory("mine")
    with pytest.raises(aj.InputTypeError, match="theory must be a name or of class Theory; got 3"):
        aj.get_theory(3)  # type: ignore[arg-type]

    class Taken(Bag):
        name = "factored"

    with pytest.raises(aj.InputError, match="must have a name of its own; 'factored' is taken"):
        aj.register_model(Taken())
    with pytest.raises(aj.InputTypeError, match=r"model.name must be a string"):
        aj.register_model(type("Nameless", (Bag,), {"name": None})())
    with pytest.raises(aj.InputTypeError, match="model must be a name or of class Model"):
        aj.register_model(Bag)  # type: ignore[arg-type]


def test_influence_is_of_any_model(x64, data):
    import optax

    start = BAG.init(jax.random.key(0), SIZES, 0.3, jnp.float64)
    at = {"optimizer": optax.sgd(0.2), "steps": 3, "weight": "unembedding", "index": (1, 2)}
    found = aj.training_influence(start, data, model=BAG, **at)
    trained = jax.jit(lambda weights: by_descent(start, data, 3, weights)[1, 2])
    assert found.entry == pytest.approx(float(trained(np.ones(N))))
    for document in (0, 5):
        ends = []
        for change in (1e-5, -1e-5):
            weights = np.ones(N)
            weights[document] += change
            ends.append(float(trained(weights)))
        expected = (ends[0] - ends[1]) / 2e-5
        assert float(found.documents[document]) == pytest.approx(expected, rel=1e-6)


def by_descent(params, data, steps, weights):
    """The unembedding after training by a weighted loss, written out."""
    tokens, mask = jnp.asarray(data.tokens), jnp.asarray(data.mask)

    def loss(params):
        total = 0.0
        for n in range(len(tokens)):
            count = jnp.sum(mask[n]).astype(jnp.float64)
            total += weights[n] * count * BAG.loss(params, tokens[n : n + 1], mask[n : n + 1])
        return total / jnp.sum(mask).astype(jnp.float64)

    for _ in range(steps):
        params = jax.tree.map(lambda w, g: w - 0.2 * g, params, jax.grad(loss)(params))
    return params["unembedding"]


# The Taylor theory.


def batch_of(data) -> Batch:
    return Batch(jnp.asarray(data.tokens), jnp.asarray(data.mask), V)


def test_from_zero_the_lowest_orders_are_the_closed_forms(x64, data):
    model = aj.get_model("attention-only")
    start = model.init(jax.random.key(0), SIZES, 0.0)
    series = taylor_series(model, start, batch_of(data), 4, microbatch_size=3)
    stats = aj.corpus_statistics(data)

    leading = partial(aj.leading_weights, stats, L)
    terms = [(k, j) for k in range(5) for j in range(k + 1)]

    def only(weight, k):
        """The series with order k alone, which is the lowest of this weight."""
        kept = jnp.array([[float(of == k)] for of, _ in terms])
        return lambda eta, s: getattr(taylor_weights(series * kept, start, eta, s), weight)

    for weight, k in (("output", 1), ("value", 2), ("query_key", 4), ("position", 4)):
        for eta, steps in ((0.3, 3), (0.1, 7)):
            expected = getattr(leading(eta, steps), weight)
            found = only(weight, k)(eta, steps)
            np.testing.assert_allclose(
                found, expected, rtol=1e-10, atol=1e-10 * abs(expected).max()
            )
            assert abs(expected).max() > 0
        for lower in range(k):
            np.testing.assert_allclose(only(weight, lower)(1.0, 7), 0, atol=1e-14)
    flow = taylor_flow(series, start, 0.2)
    closed = aj.weights_from_coefficients(stats, L, aj.flow_coefficients(0.2))
    np.testing.assert_allclose(flow.query_key, closed.query_key, rtol=1e-10, atol=1e-16)


@pytest.mark.parametrize(
    "model", ["attention-only", "factored", BAG], ids=["paper", "factored", "bag"]
)
def test_the_error_of_order_k_falls_with_the_power_k_plus_1(x64, data, model):
    model, order = aj.get_model(model), 3
    start = model.init(jax.random.key(1), SIZES, 0.3)
    series = taylor_series(model, start, batch_of(data), order)
    gradient = jax.jit(jax.grad(model.loss))

    def error(rate):
        params = start
        for _ in range(5):
            found = gradient(params, jnp.asarray(data.tokens), jnp.asarray(data.mask))
            params = jax.tree.map(lambda w, g: w - rate * g, params, found)
        theory = taylor_weights(series, start, rate, 5)
        apart = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), params, theory)
        return max(jax.tree.leaves(apart))

    slope = np.log2(error(0.02) / error(0.01))
    assert slope == pytest.approx(order + 1, abs=0.2)


def test_the_flow_is_the_limit_of_small_steps(x64, data):
    start = BAG.init(jax.random.key(1), SIZES, 0.3, jnp.float64)
    series = taylor_series(BAG, start, batch_of(data), 6)
    gradient = partial(jax.grad(BAG.loss), tokens=batch_of(data).tokens, mask=batch_of(data).mask)
    exact = aj.gradient_flow(start, gradient, [0.2], rtol=1e-10).params
    theory = taylor_flow(series, start, 0.2)
    for name, leaf in theory.items():
        np.testing.assert_allclose(leaf, exact[name][0], atol=1e-8)


def test_from_a_gaussian_start_it_beats_the_leading_terms(data):
    dataset = aj.sweep(
        data,
        learning_rates=[0.2],
        init_scales=[0.05],
        steps=6,
        num_layers=L,
        theories=["leading", "taylor"],
    )
    error = dataset["relative_error"].squeeze().isel(step=-1)
    for quantity, least in (("weights", 1e-3), ("gradients", 0.05)):
        of = error.sel(quantity=quantity).max("layer")
        assert (of.sel(theory="taylor") < least).all(), of
        assert (of.sel(theory="taylor") < of.sel(theory="leading") / 10).all(), of


def test_it_is_of_plain_gradient_descent(data):
    with pytest.raises(aj.InputError, match="theory 'taylor' is of optimizer 'sgd'; got 'adam'"):
        aj.sweep(
            data, learning_rates=[0.1], steps=1, num_layers=1, theories=["taylor"], optimizer="adam"
        )


# The factored model.


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("heads", [1, 2])
def test_gradients_of_the_factored_model_agree_with_finite_differences(x64, data, tied, heads):
    model = aj.Factored(width=4, heads=heads, tied=tied)
    params = model.init(jax.random.key(0), SIZES, 0.4)
    tokens, mask = jnp.asarray(data.tokens), jnp.asarray(data.mask)
    loss = jax.jit(model.loss)
    loss_and_gradient = jax.jit(partial(model.loss_and_gradient, microbatch_size=3))
    value, gradient = loss_and_gradient(params, tokens, mask)
    assert value == pytest.approx(float(loss(params, tokens, mask)), rel=1e-12)
    params = jax.tree.map(np.asarray, params)
    rng = np.random.default_rng(0)
    for name, leaf in params.items():
        direction = rng.normal(size=leaf.shape)
        ends = [
            float(loss(params | {name: leaf + sign * 1e-6 * direction}, tokens, mask))
            for sign in (1, -1)
        ]
        expected = (ends[0] - ends[1]) / 2e-6
        assert np.sum(np.asarray(gradient[name]) * direction) == pytest.approx(expected, rel=1e-6)
    assert ("output" in params) != tied


def test_with_the_identity_as_embedding_it_is_the_papers_model(x64, data):
    params = aj.init_params(jax.random.key(0), vocab_size=V, seq_len=T, num_layers=L, scale=0.3)
    weights = {name: getattr(params, name) for name in aj.WEIGHTS}
    model = aj.Factored(width=V)
    factored = weights | {"embedding": jnp.eye(V)}
    expected = aj.exact_loss_and_gradient(params, data.tokens, data.mask)
    found = model.loss_and_gradient(factored, jnp.asarray(data.tokens), jnp.asarray(data.mask))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-13)
    for name in aj.WEIGHTS:
        np.testing.assert_allclose(found[1][name], getattr(expected[1], name), atol=1e-14)
    for sequence, mask in zip(data.tokens, data.mask, strict=True):
        one = aj.logits(params, jnp.asarray(sequence[:-1]), jnp.asarray(mask))
        other = model.logits(factored, jnp.asarray(sequence[:-1]), jnp.asarray(mask))
        np.testing.assert_allclose(other, one, atol=1e-13)
    in_tokens = model.in_tokens(factored)
    np.testing.assert_allclose(in_tokens.value, params.value, atol=1e-15)


def test_heads_are_a_sum_of_attentions(x64):
    model = aj.Factored(width=4, heads=2)
    params = model.init(jax.random.key(0), SIZES, 0.5)
    tokens = jnp.array([3, 1, 4, 1, 5])
    h = np.asarray(params["embedding"])[np.asarray(tokens)]
    for layer in range(L):
        position = np.asarray(params["position"][layer])
        mixed = np.zeros_like(h)
        for head in range(2):
            query, key = (np.asarray(params[name][layer, head]) for name in ("query", "key"))
            scores = h @ query @ (h @ key).T
            for t in range(len(h)):
                score = scores[t, : t + 1] + position[t - np.arange(t + 1)]
                weight = np.exp(score - score.max())
                value = h[: t + 1] @ np.asarray(params["value"][layer])[:, 2 * head : 2 * head + 2]
                mixed[t, 2 * head : 2 * head + 2] = weight / weight.sum() @ value
        h = h + mixed
    np.testing.assert_allclose(
        model.logits(params, tokens), h @ np.asarray(params["output"]), atol=1e-13
    )
    query_key = np.einsum("hdr,her->de", np.asarray(params["query"][0]), params["key"][0])
    E = np.asarray(params["embedding"])
    np.testing.assert_allclose(
        model.in_tokens(params).query_key[0], E @ query_key @ E.T, atol=1e-13
    )


def test_a_frozen_embedding_is_no_weight(data):
    model = aj.Factored(width=4, frozen_seed=7, name="frozen")
    dataset = aj.sweep(data, model=model, learning_rates=[0.5], steps=3, num_layers=L)
    assert dataset["weight"].values.tolist() == ["query_key", "position", "value", "output"]
    assert dataset["loss"].isel(step=-1) < dataset["loss"].isel(step=0)
    with pytest.raises(aj.InputError, match="tied must be False with a frozen embedding"):
        aj.Factored(tied=True, frozen_seed=0)
    with pytest.raises(aj.InputError, match="heads must divide width, 4; got 3"):
        aj.Factored(width=4, heads=3)


def test_the_factored_model_is_tracked(data):
    model = aj.Factored(width=4)
    found = aj.track(data, learning_rate=0.5, steps=3, num_layers=L, model=model, init_scale=0.01)
    assert found["bigram_overlap"].notnull().any()


# Flax modules.


class Block(nn.Module):
    @nn.compact
    def __call__(self, h):
        mask = nn.make_causal_mask(h[..., 0])
        h = h + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(h), mask=mask)
        return h + nn.Dense(h.shape[-1])(nn.gelu(nn.Dense(16)(nn.LayerNorm()(h))))


class GPT(nn.Module):
    vocab_size: int

    @nn.compact
    def __call__(self, tokens):
        h = nn.Embed(self.vocab_size, 8)(tokens)
        h += nn.Embed(T, 8)(jnp.arange(tokens.shape[-1])[None])
        for _ in range(L):
            h = Block()(h)
        return nn.Dense(self.vocab_size)(nn.LayerNorm()(h))


@pytest.fixture
def permissive(promote):
    """Flax promotes dtypes and ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


def test_a_flax_gpt_is_swept_by_one_program_and_equals_a_loop(data, permissive, monkeypatch):
    model = aj.flax_model(GPT(V))
    traced = []
    advance = _grids.advance_run
    monkeypatch.setattr(_grids, "advance_run", lambda *a, **k: traced.append(1) or advance(*a, **k))
    _grids._advance_chunk.clear_cache()
    run = {"steps": 4, "num_layers": L, "optimizer": "adam", "batch_size": 3}
    dataset = aj.sweep(
        data, model=model, learning_rates=[0.01, 0.003], seeds=[0, 5], theories=[], **run
    )
    assert len(traced) == 1  # vmap traces a function once
    assert _grids._advance_chunk._cache_size() == 1  # one program for all runs
    assert dataset["weight"].size > 10
    config = aj.RunConfig(theories=(), model=model, **run)
    corpus = aj.Corpus.of(data, config)
    alone = jax.jit(aj.run_comparison, static_argnums=0)
    for rate in (0.01, 0.003):
        for seed in (0, 5):
            expected = alone(config, corpus, jnp.float32(rate), seed, jnp.float32(1.0))
            found = dataset["loss"].sel(learning_rate=rate, seed=seed).squeeze()
            np.testing.assert_allclose(found, expected["loss"], rtol=1e-5)


def test_a_flax_gpt_is_differentiable_by_learning_rate(x64, data, permissive):
    model = aj.flax_model(GPT(V))
    config = aj.RunConfig(steps=3, num_layers=L, theories=(), model=model, optimizer="adam")
    corpus = aj.Corpus.of(data, config)

    @jax.jit
    def last_loss(rate):
        return aj.run_comparison(config, corpus, rate, 0, jnp.float64(1.0))["loss"][-1]

    found = jax.grad(last_loss)(0.01)
    expected = (last_loss(0.01 + 1e-6) - last_loss(0.01 - 1e-6)) / 2e-6
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_layers_of_a_flax_module_are_found(permissive):
    model = aj.flax_model(GPT(V))
    params = model.init(jax.random.key(0), SIZES, 1.0)
    weights = model.weights(params)
    np.testing.assert_array_equal(
        weights["Block/Dense_0/kernel"][1], params["Block_1"]["Dense_0"]["kernel"]
    )
    np.testing.assert_array_equal(weights["Dense_0/kernel"][0], params["Dense_0"]["kernel"])
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert sum(weight.size for weight in weights.values()) == count
    double = model.init(jax.random.key(0), SIZES, 2.0)
    np.testing.assert_array_equal(
        double["Embed_0"]["embedding"], 2 * params["Embed_0"]["embedding"]
    )
    np.testing.assert_array_equal(double["LayerNorm_0"]["scale"], 1)


class Recurrent(nnx.Module):
    """Of flax's newer interface."""

    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(V, 8, rngs=rngs)
        self.mix = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(L)])
        self.head = nnx.Linear(8, V, rngs=rngs)

    def __call__(self, tokens):
        h = self.embed(tokens)
        for linear in self.mix:
            h = h + jnp.cumsum(linear(h), axis=1)
        return self.head(h)


def test_an_nnx_module_is_a_model(data, permissive):
    model = aj.flax_model(Recurrent)
    params = model.init(jax.random.key(3), SIZES, 1.0)
    module = Recurrent(nnx.Rngs(jax.random.key(3)))
    tokens = jnp.asarray(data.tokens[:, :-1])
    np.testing.assert_allclose(model.logits(params, tokens), module(tokens), rtol=1e-6)
    assert model.weights(params)["mix/kernel"].shape == (L, 8, 8)
    dataset = aj.sweep(
        data, model=model, learning_rates=[0.002], steps=5, num_layers=L, theories=["taylor"]
    )
    assert dataset["loss"].isel(step=-1) < dataset["loss"].isel(step=0)
    assert dataset["cosine"].isel(step=-1, layer=-1).min() > 0.99


def test_bad_flax_modules_are_refused(data, permissive):
    run = {"learning_rates": [0.1], "steps": 1, "theories": []}
    with pytest.raises(aj.InputError, match="num_layers must be 2, as in the module of model 'G"):
        aj.sweep(data, model=aj.flax_model(GPT(V)), num_layers=3, **run)
    with pytest.raises(aj.InputError, match=r"must map tokens .* with V=6; of tokens .* it makes"):
        aj.sweep(data, model=aj.flax_model(GPT(V + 1)), num_layers=L, **run)
    with pytest.raises(aj.InputTypeError, match="module must be a linen module or a function"):
        aj.flax_model(GPT)

    class Normed(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            h = nn.BatchNorm(use_running_average=False)(nn.Embed(V, 4)(tokens))
            return nn.Dense(V)(h)

    with pytest.raises(aj.InputError, match=r"module must have params only; .*batch_stats"):
        aj.sweep(data, model=aj.flax_model(Normed()), num_layers=1, **run)


# The package itself.

PACKAGE = Path(aj.__file__).parent
OF_THE_PAPER = {
    "models", "theories", "statistics", "reproduce", "llm", "figures", "explorer",
    "analysis/scorings.py", "analysis/ablation.py", "analysis/attribution.py",
    "analysis/associations.py", "analysis/passages.py", "cli/ablate.py", "__init__.py",
}  # fmt: skip
"""What may know the weights of the paper's model: the model and its closed forms; statistics and
their labels, which are named after the weights that learn them; readings of matrices between tokens
(which refuse other models); and the paper's artefacts."""


def sources(*, but: set[str]):
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        if place.parts[0] not in but and place.as_posix() not in but:
            yield place, path.read_text("utf-8")


def test_no_other_room_names_a_weight():
    weight = re.compile(
        r"\b(Params|WEIGHTS|init_params)\b|\.(query_key|output)\b|params\.\w+\[|[\"']output[\"']"
    )
    found = 0
    for place, text in sources(but=OF_THE_PAPER):
        assert not weight.search(text), f"{place} knows a weight of the paper's model"
        found += 1
    assert found > 50


def test_no_other_room_names_a_theory():
    built_in = ("leading", "effective", "leading-factored", "taylor")
    names = "|".join(aj.get_theory(name).name for name in built_in)
    theory = re.compile(rf"[\"']({names})[\"']|\b({names})_(weights|gradient|loss|series)\b")
    found = 0
    for place, text in sources(but={"theories", "reproduce", "figures", "__init__.py"}):
        assert not theory.search(text), f"{place} names a theory"
        found += 1
    assert found > 90


def test_the_guide_takes_at_most_40_lines_for_each():
    text = (Path(__file__).parents[1] / "docs" / "your_own.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    for block in blocks:
        lines = [line for line in block.splitlines() if line.strip()]
        assert len(lines) <= 40, block

"""Statistics twins against loops over rows, positions and pairs, and against the leading terms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from conftest import assert_described, planned_memory, random_mask, random_tokens, token_data
from scipy.special import log_softmax

import assocjax as aj
from assocjax import figures
from assocjax.experiments import twins as experiment
from assocjax.experiments.config import run_keys
from assocjax.models.decoder import Decoder, DecoderModel, causal, gpt2, llama, neox, rotate
from assocjax.models.model import Sizes
from assocjax.theories import _sparse_contexts, twin_losses, twins
from assocjax.theories._twin_draws import NEAR, draw_rows, draw_tokens
from assocjax.theories.theory import Batch

V, T, L = 11, 6, 2
CONFIGS = {
    "neox": neox(V, T, L, 16, 2),
    "llama": llama(V, T, L, 16, 4, 2),
    "gpt2": gpt2(V, T, L, 16, 2),
}
ONE_LAYER = neox(V, T, 1, 16, 2)


def corpus(masked=True):
    tokens = random_tokens(0, 30, T, V - 1)
    return token_data(tokens, V, random_mask(1, 30, T) if masked else None)


@partial(jax.jit, static_argnums=(0, 1))
def weights(config, seed=0):
    model = DecoderModel("decoder", config)
    params = model.init(jax.random.key(seed), Sizes(V, T, L), 3.0)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    noise = [
        0.1 * jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, [a + b for a, b in zip(leaves, noise, strict=True)])


def nll(logits, y):
    return jax.nn.logsumexp(logits) - logits[y]


def apply(decoder, params, method):
    """`method` of the decoder, in one program."""
    return jax.jit(lambda params: decoder.apply({"params": params}, method=method))(params)


def mean_states(module, context, positions):
    """The states of all rows before each layer and after the last, with attention `context`."""
    tokens = jnp.arange(V)
    share = positions / positions.sum()
    h = sum(
        share[t] * module.embed(tokens, jnp.full(V, t, jnp.int32)) for t in range(len(positions))
    )
    states = [h]
    for block in module.blocks:
        v = jnp.repeat(
            block.heads(h)[2], module.config.num_heads // module.config.kv_heads, axis=-2
        )
        h = block.finish(h, jnp.einsum("xy,yhr->xhr", context, v))
        states.append(h)
    return states


@pytest.mark.parametrize("name", CONFIGS)
def test_mean_losses(name, x64, monkeypatch):
    """Against a sum over pairs; attention of a row is taken from `conditional_mean`."""
    monkeypatch.setattr(twin_losses, "_ENTRIES", {"neox": V * V, "llama": 1, "gpt2": 3 * V}[name])
    data, config = corpus(), CONFIGS[name]
    statistics = aj.context_statistics(data)
    prepared = aj.prepare_twin(statistics)
    moments = aj.effective_statistics(data, depth=1)
    context = np.array(moments.conditional_mean[0])
    context[-1, -1] = 1  # never an input
    P = np.zeros((V, V))
    np.add.at(P, (data.tokens[:, :-1][data.mask], data.tokens[:, 1:][data.mask]), 1)
    P /= P.sum()
    params, decoder = weights(config), Decoder(config)
    independent = np.outer(P.sum(axis=1), P.sum(axis=0))
    for order, E, share in ((0, context, independent), (1, np.eye(V), P), (2, context, P)):
        logits = apply(
            decoder,
            params,
            lambda m, E=E: m.unembed(mean_states(m, E, statistics.positions)[-1]),
        )
        expected = -np.sum(share * log_softmax(np.asarray(logits), axis=1))
        loss = jax.jit(partial(aj.twin_loss, decoder, order=order))
        assert float(loss(params, prepared)) == pytest.approx(expected, rel=1e-10)


def drawn_loss(decoder, params, statistics, draws, tokens, order):
    """The loss of drawn rows, one at a time; of order 4 and 5 by the model's causal attention."""
    config = decoder.config
    context = aj.mean_contexts(statistics).toarray()
    context[-1, -1] = 1

    def loss(module):
        zero, every = jnp.zeros(T, jnp.int32), jnp.arange(T)
        place = module.embed(zero, every) - module.embed(zero, zero)
        place -= (statistics.positions / statistics.positions.sum() @ place)[None]

        def advance_last(block, h, rows, x, t, ids):
            """The last rows up to x after a layer, in which other tokens have the states h."""
            ids, n = jnp.append(ids[:t], x), len(rows)
            states = (h[ids] + place[: t + 1]).at[t + 1 - n :].set(rows)
            q, k, v = block.heads(states)
            q, k = (rotate(config, each, jnp.arange(t + 1)) for each in (q, k))
            return block.finish(rows, causal(config, q, k, v)[t + 1 - n :])

        def advance(block, h, row, x, t, ids):
            """The row after a layer, in which tokens have the states h."""
            ids = jnp.append(ids[:t], x)
            if order == 3:
                v = block.heads(h[ids])[2].mean(axis=0)
                v = jnp.repeat(v, config.num_heads // config.kv_heads, axis=-2)
            else:
                q, k, v = block.heads((h[ids] + place[: t + 1]).at[-1].set(row))
                q, k = (rotate(config, each, jnp.arange(t + 1)) for each in (q, k))
                v = causal(config, q, k, v)[-1]
            return block.finish(row, v)

        states = mean_states(module, context, statistics.positions)[:-1]
        if order == 5:
            h, states = states[0], [states[0]]
            for block in module.blocks[:-1]:
                after = dict(enumerate(h))
                for x, t, ids in zip(tokens.x.tolist(), tokens.t, tokens.context, strict=True):
                    after[x] = advance(block, h, h[x] + place[t], x, t, ids) - place[t]
                h = jnp.stack([after[x] for x in range(V)])
                states.append(h)
        total = 0
        for x, y, t, ids in zip(*draws, strict=True):
            if order > 5:
                n = min(t, NEAR[order]) + 1
                row = (states[0][jnp.append(ids[:t], x)] + place[: t + 1])[t + 1 - n :]
                for block, h in zip(module.blocks, states, strict=True):
                    row = advance_last(block, h, row, x, t, ids)
                total += nll(module.unembed(row[-1]), y)
                continue
            row = states[0][x] + place[t]
            for block, h in zip(module.blocks, states, strict=True):
                row = advance(block, h, row, x, t, ids)
            total += nll(module.unembed(row), y)
        return total / len(draws.t)

    return apply(decoder, params, loss)


@pytest.mark.parametrize(
    ("name", "order"),
    [("neox", 2), ("llama", 3), ("neox", 4), ("gpt2", 4), ("llama", 5), ("gpt2", 5), ("gpt2", 6)],
)
def test_drawn_losses(name, order, x64):
    config = CONFIGS[name]
    statistics = aj.context_statistics(corpus())
    prepared = aj.prepare_twin(statistics, backoff=1.0)
    params, decoder, key = weights(config), Decoder(config), jax.random.key(1)
    loss = jax.jit(partial(aj.twin_loss, decoder, order=order, rows=5))
    found = loss(params, prepared, key)
    draws = draw_rows(prepared, key, order, 5)
    if order == 2:
        context = prepared.context
        logits = apply(
            decoder,
            params,
            lambda m: m.unembed(mean_states(m, context, statistics.positions)[-1]),
        )
        expected = np.mean([nll(logits[x], y) for x, y in zip(draws.x, draws.y, strict=True)])
    else:
        assert draws.context.shape == (5, draws.t[-1])
        assert 0 in draws.t
        tokens = draw_tokens(prepared, jax.random.fold_in(key, 5))
        assert sorted(tokens.x.tolist()) == list(range(V))
        expected = drawn_loss(decoder, params, statistics, draws, tokens, order)
    assert float(found) == pytest.approx(float(expected), rel=1e-10)


def test_drawn_losses_have_the_mean_loss_as_mean(x64):
    """Within 5 standard errors, which are small beside what another order would give."""
    prepared = aj.prepare_twin(aj.context_statistics(corpus()))
    params, decoder = weights(CONFIGS["neox"]), Decoder(CONFIGS["neox"])
    loss = jax.jit(
        lambda key, order: aj.twin_loss(decoder, params, prepared, key, order=order, rows=20_000),
        static_argnums=1,
    )
    mean = [float(aj.twin_loss(decoder, params, prepared, order=order)) for order in range(3)]
    for order in range(3):
        drawn = jnp.stack([loss(jax.random.key(i), order) for i in range(40)])
        error = float(jnp.std(drawn)) / 40**0.5
        assert abs(float(jnp.mean(drawn)) - mean[order]) < 5 * error
        assert all(abs(mean[order] - mean[o]) > 10 * error for o in range(3) if o != order)


def test_distributions_of_draws(x64):
    """Inputs, targets and context tokens, against the definition, with a back-off of k = 3."""
    data, k = corpus(), 3.0
    full = aj.context_statistics(data)
    statistics = aj.context_statistics(data, max_entries=150)
    assert 0 < np.sum(np.diff(statistics.pair.indptr) > 0) < full.bigram.nnz
    prepared = aj.prepare_twin(statistics, backoff=k)
    rows = 200_000
    draws = draw_rows(prepared, jax.random.key(0), 4, rows)
    shares = np.bincount(draws.t, minlength=T) / rows
    np.testing.assert_allclose(shares, statistics.positions / statistics.positions.sum(), atol=1e-5)
    x, y, context = (np.asarray(a) for a in (draws.x, draws.y, draws.context))
    counts = full.bigram.toarray()
    frequency = np.bincount(x * V + y, minlength=V * V) / rows
    error = np.sqrt(counts.ravel() / counts.sum() / rows)
    assert np.all(np.abs(frequency - counts.ravel() / counts.sum()) <= 5 * error)
    of_token = aj.mean_contexts(full).toarray()
    pairs = statistics.pair.toarray()
    some = np.argsort(-full.bigram.data)[[0, 3, 10, -1]]
    for i in some:
        a, b = np.asarray(prepared.inputs)[i], np.asarray(prepared.targets)[i]
        n = counts[a, b]
        expected = of_token[a].copy()
        if pairs[i].sum():
            expected = (n * pairs[i] / pairs[i].sum() + k * of_token[a]) / (n + k)
        expected[a] /= 2
        expected /= expected.sum()
        drawn = context[(x == a) & (y == b)].ravel()
        found = np.bincount(drawn, minlength=V) / drawn.size
        error = np.sqrt(expected / drawn.size)
        assert np.all(np.abs(found - expected) <= 5 * error)
    assert not pairs[some[-1]].any()


def test_draws_in_order(x64):
    """The two tokens before x, given x and y, have the frequencies of four tokens in a row."""
    data = corpus()
    statistics = aj.context_statistics(data)
    draws = draw_rows(aj.prepare_twin(statistics), jax.random.key(0), 6, 100_000)
    x, y, context = (np.asarray(a) for a in (draws.x, draws.y, draws.context))
    some, far = np.flatnonzero(draws.t >= 2), np.flatnonzero(draws.t >= 4)
    four = np.stack(
        [context[some, draws.t[some] - 2], context[some, draws.t[some] - 1], x[some], y[some]]
    )
    drawn = np.bincount(np.ravel_multi_index(four, (V,) * 4), minlength=V**4)
    inputs, targets = statistics.bigram.nonzero()
    rows, before = statistics.before.nonzero()
    known = np.ravel_multi_index(
        (inputs[before], targets[before], inputs[rows], targets[rows]), (V,) * 4
    )
    counts = statistics.before.data
    share = statistics.bigram.data[rows] * counts / statistics.before.sum(axis=1)[rows]
    expected = some.size * share / statistics.bigram.sum()
    assert np.all(np.abs(drawn[known] - expected) <= 5 * np.sqrt(expected) + 5)
    # Where none is known, tokens are drawn without order.
    assert abs(drawn[known].sum() - expected.sum()) < 5 * np.sqrt(expected.sum())
    assert expected.sum() > 0.7 * some.size
    # Two more, given the two after them.
    more = draw_rows(aj.prepare_twin(statistics), jax.random.key(1), 7, 100_000)
    index = np.full((V, V), -1)
    index[inputs, targets] = np.arange(inputs.size)
    last = np.flatnonzero(more.t >= 4)
    back = [np.asarray(more.context)[last, more.t[last] - d] for d in (4, 3, 2, 1)]
    here = index[np.asarray(more.x)[last], np.asarray(more.y)[last]]
    sums = statistics.before.sum(axis=1)
    near = np.where(sums[here] > 0, index[back[2], back[3]], -1)
    both = (near >= 0) & (sums[near] > 0)
    found = np.zeros(statistics.before.shape)
    np.add.at(found, (near[both], index[back[0], back[1]][both]), 1)
    given = statistics.before.toarray() / np.maximum(sums, 1)[:, None]
    expected = found.sum(axis=1)[:, None] * given
    assert np.all(np.abs(found - expected) <= 5 * np.sqrt(expected) + 5)
    assert found[given == 0].sum() == 0
    assert both.mean() > 0.4
    # Without order far fewer of them are four tokens in a row.
    other = np.stack([context[far, 0], context[far, 1], x[far], y[far]])
    assert np.isin(np.ravel_multi_index(other, (V,) * 4), known).mean() < 0.5


def test_a_text_without_four_tokens_in_a_row():
    """Order 6 then draws what order 4 draws."""
    statistics = aj.context_statistics(random_tokens(0, 9, 2, V), V)
    assert statistics.before.nnz == 0
    prepared = aj.prepare_twin(statistics)
    one, other = (draw_rows(prepared, jax.random.key(0), order, 8) for order in (4, 6))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_order_6_learns_a_language_of_three_tokens(promote):
    """Where a token is determined by the two before it, in order, it predicts the text better than
    without order; neither has read it."""
    rng = np.random.default_rng(0)
    V, T = 5, 8
    tokens = rng.integers(0, V, (400, T + 1))
    for t in range(2, T + 1):
        certain = (tokens[:, t - 2] + 2 * tokens[:, t - 1]) % V
        tokens[:, t] = np.where(rng.random(400) < 0.9, certain, tokens[:, t])
    tokens = tokens.astype(np.int32)
    model = DecoderModel("small neox", neox(V, T, 1, 16, 2))
    weights = {}
    experiment.compare_twins(
        model,
        tokens,
        vocab_size=V,
        optimizer=optax.adam(1e-2),
        steps=[150],
        batch_size=16,
        num_runs=2,
        twins=[twins.StatisticsTwin(order, 16 * T) for order in (4, 6)],
        observe=lambda step, states: weights.update({step: states}),
    )
    assert list(weights) == [0, 150]
    loss = jax.jit(jax.vmap(model.loss, (0, None, None)))
    mask = np.ones((400, T), bool)
    of = {name: float(loss(each, tokens, mask)[0]) for name, each in weights[150].items()}
    chance = float(loss(weights[0]["runs"], tokens, mask)[0])
    assert of["runs"] < of["twin-6"] + 0.05 < of["twin-4"] - 0.2 < chance


def test_sparse_context(x64, monkeypatch):
    """The K largest of each row, the rest by one distribution; its error; and its product."""
    monkeypatch.setattr(_sparse_contexts, "_ROWS_ENTRIES", 3 * V)  # several blocks
    statistics = aj.context_statistics(corpus())
    exact = np.asarray(aj.prepare_twin(statistics).context)
    f = statistics.bigram.toarray().sum(axis=1) / statistics.bigram.sum()
    v = np.random.default_rng(0).normal(size=(V, 4))
    for K in (1, 3, V):
        sparse = aj.prepare_twin(statistics, entries=K).context
        left = exact.copy()
        expected = np.zeros((V, V))
        for x in range(V):
            for j in np.argsort(-exact[x], kind="stable")[:K]:
                expected[x, j], left[x, j] = exact[x, j], 0
        tail = f @ left
        if tail.sum():
            expected += np.outer(left.sum(axis=1), tail / tail.sum())
        np.testing.assert_allclose(expected.sum(axis=1), 1)
        found = _sparse_contexts.attend_on_average(sparse, jnp.asarray(v))
        np.testing.assert_allclose(found, expected @ v, atol=1e-12)
        error = f @ np.abs(expected - exact).sum(axis=1) / 2
        assert float(sparse.error) == pytest.approx(error, abs=1e-12)
        assert (error < 1e-12) == (K == V)


@pytest.mark.parametrize(
    ("name", "order"), [("neox", 2), ("llama", 3), ("gpt2", 4), ("llama", 5), ("gpt2", 6)]
)
def test_large_vocabularies_have_the_same_gradient(name, order, x64, monkeypatch):
    """With all entries in sparse form, rows in blocks, and each layer computed twice."""
    statistics = aj.context_statistics(corpus())
    params, decoder = weights(CONFIGS[name]), Decoder(CONFIGS[name])

    def gradient(rematerialize, **options):
        prepared = aj.prepare_twin(statistics, **options)
        loss = lambda params: aj.twin_loss(  # noqa: E731
            decoder,
            params,
            prepared,
            jax.random.key(0),
            order=order,
            rows=9,
            rematerialize=rematerialize,
        )
        return jax.jit(jax.grad(loss))(params)

    expected = gradient(False)
    monkeypatch.setattr(twin_losses, "_ENTRIES", 100)
    found = gradient(True, entries=V)
    # GPT-2's attention does not depend on biases of keys: rounding is all that they get.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-14), found, expected)


@pytest.mark.optimized
def test_layers_that_are_computed_twice_are_not_kept():
    """What a compiled gradient needs grows by the states before a layer, not by all that is in it.
    XLA merges computations of the same numbers, unless they stand in different loops."""
    V, T = 512, 8
    prepared = aj.prepare_twin(aj.context_statistics(random_tokens(0, 4, T, V), V))

    def needed(layers, rematerialize):
        model = DecoderModel("neox", neox(V, T, layers, 32, 2))
        shapes = model.shapes(Sizes(V, T, layers))
        options = {"order": 2, "rows": 8, "rematerialize": rematerialize}
        loss = partial(aj.twin_loss, model.decoder(shapes), **options)
        lowered = jax.jit(jax.grad(loss)).lower(shapes, prepared, jax.random.key(0))
        return planned_memory(lowered).temp_size_in_bytes

    twice, once = (needed(4, each) - needed(2, each) for each in (True, False))
    assert 2 * V * 32 * 4 <= twice < once / 4


def test_rows_shuffled():
    tokens = random_tokens(3, 50, T, 40)
    statistics = aj.context_statistics(tokens, 40)
    row = np.asarray(aj.prepare_twin(statistics, shuffle_seed=0).row)
    assert sorted(row) == list(range(40))
    assert not np.any(row == np.arange(40))
    rank = np.argsort(np.argsort(-statistics.bigram.sum(axis=1), kind="stable"))
    np.testing.assert_array_equal(rank[row] // 16, rank // 16)
    plain = np.asarray(aj.prepare_twin(statistics).row)
    np.testing.assert_array_equal(plain, np.arange(40))


def descend(loss, start, eta, steps):
    @jax.jit
    def step(params):
        return jax.tree.map(lambda w, g: w - eta * g, params, jax.grad(loss)(params))

    params = start
    for _ in range(steps):
        params = step(params)
    return params


def test_attention_only_twin_gives_leading_terms(x64):
    """W_O and V_l at lowest order: errors relative to the leading terms fall as eta does."""
    data = corpus()
    prepared = aj.prepare_twin(aj.context_statistics(data))
    stats = aj.corpus_statistics(data)
    start = aj.init_params(jax.random.key(0), vocab_size=V, seq_len=T, num_layers=L)
    context, steps = np.asarray(prepared.context), 5
    Phi = np.asarray(stats.bigram).T @ context
    errors = []
    for eta in (1e-3, 5e-4, 2.5e-4):
        found = descend(
            lambda p: aj.attention_only_twin_loss(p, prepared, order=2), start, eta, steps
        )
        leading = aj.leading_weights(stats, num_layers=L, learning_rate=eta, steps=steps)
        value = steps * (steps - 1) / 2 * eta**2 * Phi.T @ np.asarray(stats.bigram).T
        errors.append(
            [
                np.linalg.norm(found.output - leading.output) / np.linalg.norm(leading.output),
                np.linalg.norm(found.value - value[None]) / np.linalg.norm(value) / L**0.5,
            ]
        )
        np.testing.assert_array_equal(found.query_key, 0)
    errors = np.array(errors)
    np.testing.assert_allclose(errors[:-1] / errors[1:], 2, rtol=0.05)
    assert errors.max() < 5e-3
    one = descend(lambda p: aj.attention_only_twin_loss(p, prepared, order=2), start, 1.0, 1)
    np.testing.assert_allclose(one.output, stats.bigram, atol=1e-14)


def test_its_context_is_the_leading_one_for_a_markov_chain(x64):
    """All paths of a chain, so that targets are independent of contexts given the input: then Phi_2
    is Phi, and the twin has the leading terms of W_O and V_l. In other texts it is not."""
    followers, paths = np.array([[1, 2], [1, 0], [0, 3], [3, 1]]), [[0], [2]]
    for _ in range(4):
        paths = [[*path, y] for path in paths for y in followers[path[-1]]]
    for data, same in ((token_data(np.array(paths, np.int32), 4), True), (corpus(), False)):
        stats = aj.corpus_statistics(data)
        prepared = aj.prepare_twin(aj.context_statistics(data))
        Phi = np.asarray(stats.bigram).T @ np.asarray(prepared.context)
        assert np.allclose(Phi, stats.context, rtol=0, atol=1e-12) == same
        assert np.abs(Phi).max() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": 8}, "order must be at most 7"),
        ({"order": 3}, "for a mean loss"),
        ({"order": 2, "rows": 4}, "given together"),
        ({"order": 2, "rows": 0, "key": 1}, "rows must be at least 1"),
    ],
)
def test_errors(arguments, message):
    prepared = aj.prepare_twin(aj.context_statistics(corpus()))
    if "key" in arguments:
        arguments = arguments | {"key": jax.random.key(0)}
    config = CONFIGS["neox"]
    with pytest.raises(aj.InputError, match=message):
        aj.twin_loss(Decoder(config), weights(config), prepared, **arguments)


def recipe():
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, weight_decay=0.1))


def test_comparison(x64, promote, tmp_path):
    """Against runs trained one by one, and cosines of their changes."""
    data, config, batch_size = corpus(), CONFIGS["neox"], 4
    model, R = DecoderModel("neox", config), 3
    chosen = [
        twins.StatisticsTwin(0, rows=batch_size * T),
        twins.StatisticsTwin(2, rows=None),
        twins.StatisticsTwin(4, rows=batch_size * T),
    ]
    found = experiment.compare_twins(
        model,
        data,
        optimizer=recipe(),
        steps=[2, 3],
        batch_size=batch_size,
        num_runs=R,
        twins=chosen,
        seed=5,
    )
    assert found.twin.values.tolist() == ["run", "twin-0", "twin-2-mean", "twin-4"]
    assert found.attrs["corpus_sha256"] == data.sha256
    assert_described(found)
    assert_described(aj.twin_shares(found))
    key_start, key_runs, key_twins = jax.random.split(jax.random.key(5), 3)
    start = jax.jit(lambda key: model.init(key, Sizes(V, T, L), 1.0))(key_start)
    prepared, decoder = aj.prepare_twin(aj.context_statistics(data)), Decoder(config)

    def train(loss, keys):
        """For every key, the weights after 2 and after 3 updates."""

        @jax.jit
        def advance(params, state, key, step):
            updates, state = recipe().update(jax.grad(loss)(params, key, step), state, params)
            return optax.apply_updates(params, updates), state

        found = []
        for key in keys:
            params, state, at = start, recipe().init(start), []
            for step in range(3):
                params, state = advance(params, state, key, step)
                at.append({n: np.asarray(w) for n, w in model.weights(params).items()})
            found.append(at[1:])
        return found

    def real(params, key, step):
        rows = aj.batch_indices(key, step, len(data.tokens), batch_size)
        return model.loss(params, *(jnp.asarray(a)[rows] for a in (data.tokens, data.mask)))

    def of_twin(twin):
        return lambda params, key, step: aj.twin_loss(
            decoder,
            params,
            prepared,
            jax.random.fold_in(key, step) if twin.rows else None,
            order=twin.order,
            rows=twin.rows,
        )

    first = {n: np.asarray(w) for n, w in model.weights(start).items()}
    runs, trained = train(real, jax.random.split(key_runs, R)), []
    for i, twin in enumerate(chosen):
        trained += train(of_twin(twin), [jax.random.fold_in(key_twins, i)])
    for i, step in enumerate((2, 3)):
        for name, at in first.items():
            changes = [each[i][name] - at for each in runs + trained]
            for layers in ("all", "1"):
                parts = [c.ravel() if layers == "all" else c[0].ravel() for c in changes]
                if layers == "1" and len(at) != L:
                    assert found.cosine.sel(weight=name, layers="1").isnull().all()
                    continue
                for h in range(R):
                    mean = sum(parts[r] for r in range(R) if r != h) / (R - 1)
                    for k, a in enumerate([parts[h], *parts[R:]]):
                        cell = found.isel(twin=k).sel(
                            held_out=h, weight=name, layers=layers, step=step
                        )
                        cosine = a @ mean / np.linalg.norm(a) / np.linalg.norm(mean)
                        assert float(cell.cosine) == pytest.approx(cosine, abs=1e-8)
                        ratio = np.linalg.norm(a) / np.linalg.norm(parts[h])
                        assert float(cell.norm_ratio) == pytest.approx(ratio, rel=1e-8)
                        unit = parts[R] / np.linalg.norm(parts[R])
                        a, m = a - a @ unit * unit, mean - mean @ unit * unit
                        if np.linalg.norm(a) < 1e-6 * np.linalg.norm(parts[R]):
                            assert np.isnan(float(cell.partial_cosine))
                            continue
                        partial = a @ m / np.linalg.norm(a) / np.linalg.norm(m)
                        assert float(cell.partial_cosine) == pytest.approx(partial, abs=1e-6)
    assert np.isfinite(found.cosine.sel(layers="all")).all()
    figure = figures.plot_twins(found)
    panel = figure.axes[0]
    assert panel.get_title() == "cosine, step 2"
    drawn = {line.get_label(): line.get_ydata() for line in panel.lines}
    for twin in ("twin-0", "twin-2-mean", "twin-4"):
        expected = found.cosine.sel(twin=twin, layers="all", step=2).mean("held_out")
        np.testing.assert_allclose(drawn[twin], expected)
    heights = [bar.get_height() for bar in panel.patches]
    expected = found.cosine.sel(twin="run", layers="all", step=2).mean("held_out")
    np.testing.assert_allclose(heights, expected)
    aj.save(found, tmp_path / "twins.nc")
    xr.testing.assert_identical(aj.load(tmp_path / "twins.nc").drop_attrs(), found.drop_attrs())


def test_shares():
    """Against projections of vectors by least squares, and with what is known of their parts."""
    rng = np.random.default_rng(0)
    common, twin_0, extra = rng.normal(size=(3, 50_000))
    runs = [2 * twin_0 + common + extra + rng.normal(size=50_000) for _ in range(4)]
    twins_of = {"twin-0": twin_0, "twin-2": common + twin_0, "twin-2-shuffled": extra}
    changes = np.stack([*runs, *twins_of.values()])
    names = [*(f"run {i}" for i in range(4)), *twins_of]
    products = (changes @ changes.T)[None, None, ..., None]
    dims = ("weight", "layers", "change", "other_change", "step")
    coords = {"weight": ["value"], "layers": ["all"], "step": [5]}
    coords |= {"change": names, "other_change": names}
    found = aj.twin_shares(xr.Dataset({"products": (dims, products)}, coords))
    share = dict(zip(found["part"].values.tolist(), found["share"].values.ravel(), strict=True))
    assert list(share) == ["twin-0", "twin-2", "rest", "chance"]
    mean, expected = np.mean(runs, axis=0), []
    for basis in ([twin_0], [twin_0, twins_of["twin-2"]]):
        fit = np.transpose(basis) @ np.linalg.lstsq(np.transpose(basis), mean, rcond=None)[0]
        expected.append(fit @ fit / (mean @ mean))
    assert share["twin-0"] == pytest.approx(expected[0])
    assert share["twin-0"] + share["twin-2"] == pytest.approx(expected[1])
    # |m|^2 is 4 + 1 + 1 + 1/4 in units of 50,000, of which 1/4 is chance and 1 is in no twin.
    assert share["chance"] == pytest.approx(0.25 / 6.25, abs=0.01)
    assert share["rest"] == pytest.approx(1 / 6.25, abs=0.02)
    assert sum(share.values()) == pytest.approx(1)
    figure = aj.plot_shares(found)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(heights, list(share.values()))
    with pytest.raises(aj.InputError, match="drawn twins"):
        aj.twin_shares(
            xr.Dataset({"products": (dims, products)}, coords).isel(
                change=slice(4), other_change=slice(4)
            )
        )


def test_another_text(promote):
    """The run on it is compared, and twins have its statistics, which are given or computed."""
    data, model = corpus(masked=False), DecoderModel("neox", ONE_LAYER)
    halves = [token_data(half, V) for half in np.array_split(data.tokens, 2)]
    some = {"optimizer": recipe(), "steps": [2], "batch_size": 4, "num_runs": 2}
    chosen = [twins.StatisticsTwin(2, rows=None)]
    same = {"twins": chosen, **some}
    across = experiment.compare_twins(model, halves[0], other=halves[1], **same)
    assert across.twin.values.tolist() == ["run", "other run", "twin-2-mean"]
    given = experiment.compare_twins(
        model, halves[0], statistics=aj.context_statistics(halves[1]), **same
    )
    within = experiment.compare_twins(model, halves[0], **same)
    twin = [each.cosine.sel(twin="twin-2-mean", layers="all") for each in (across, given, within)]
    np.testing.assert_allclose(twin[0], twin[1], rtol=1e-5)
    assert abs(twin[0] - twin[2]).max() > 1e-3
    # A run on other text has less in common with the others than a run on the same text.
    unembedding = across.cosine.sel(weight="unembedding", layers="all", step=2).mean("held_out")
    assert unembedding.sel(twin="other run") < unembedding.sel(twin="run")


def test_errors_of_the_comparison():
    model = DecoderModel("neox", CONFIGS["neox"])
    some = {"optimizer": recipe(), "steps": [1], "batch_size": 4}
    for arguments, message in (
        ({"twins": [twins.StatisticsTwin(1)] * 2}, "different names"),
        ({"batch_size": 31}, "at most 30 sequences"),
        ({"num_runs": 1}, "num_runs must be at least 2"),
        ({"steps": []}, "steps must not be empty"),
        ({"other": corpus().tokens[:, 1:]}, "other must have at least 4 sequences of 6 positions"),
    ):
        with pytest.raises(aj.InputError, match=message):
            experiment.compare_twins(model, corpus(), **some | arguments)


def test_names_are_those_of_the_registry():
    names = [f"twin-{order}" for order in range(8)] + [f"twin-{order}-mean" for order in range(3)]
    assert [aj.get_theory(name).name for name in names] == names
    assert twins.StatisticsTwin(2, shuffle_seed=0).name == "twin-2-shuffled"
    for arguments in ((8,), (3, None), (2, 0)):
        with pytest.raises(aj.InputError):
            twins.StatisticsTwin(*arguments)


def test_a_sweep_compares_the_twin(x64, promote):
    """Of the paper's model, for a Markov chain, whose Phi the twin has: as the leading terms."""
    followers, paths = np.array([[1, 2], [1, 0], [0, 3], [3, 1]]), [[0], [2]]
    for _ in range(4):
        paths = [[*path, y] for path in paths for y in followers[path[-1]]]
    data = token_data(np.array(paths, np.int32), 4)
    settings = {"learning_rates": [1e-3], "steps": 4, "num_layers": 2}
    found = aj.sweep(data, theories=["twin-2-mean", "leading"], **settings)
    value = found.relative_error.sel(weight="value", quantity="weights", step=4)
    assert float(value.sel(theory="twin-2-mean").max()) < 5e-3
    assert float(value.sel(theory="leading").max()) < 5e-3
    output = found.relative_error.sel(weight="output", quantity="weights", step=4).isel(layer=-1)
    # The twin has more than the lowest order: without attention's changes, W_O is exact.
    assert output.sel(theory="twin-2-mean").item() < output.sel(theory="leading").item() / 100
    with pytest.raises(aj.InputError, match="of models of class DecoderModel"):
        aj.sweep(data, theories=["twin-2"], **settings)


def test_a_sweep_of_a_decoder(promote):
    """Twins start where the run does, and are compared by changes, beside another run."""
    data = corpus(masked=False)
    model = DecoderModel("small neox", ONE_LAYER)
    settings = {"learning_rates": [1e-3, 1e-2], "steps": 2, "num_layers": 1, "optimizer": "adamw"}
    found = aj.sweep(
        data,
        model=model,
        theories=["twin-2", "another-run"],
        seeds=[3],
        batch_size=4,
        **settings,
    )
    cosine = found.cosine.sel(weight="unembedding").isel(layer=-1, seed=0, init_scale=0)
    np.testing.assert_allclose(cosine.sel(quantity="weights", step=0), 1, atol=1e-6)
    assert np.all(np.isnan(cosine.sel(quantity="changes", step=0)))
    of_other = cosine.sel(quantity="changes", step=2, theory="another-run")
    assert np.all((of_other > 0.1) & (of_other < 0.95))  # the batches are others
    assert aj.summary(found)[0]["unembedding"] == cosine.sel(
        quantity="changes", step=2, theory="twin-2", learning_rate=1e-3
    )
    assert figures.plot_cosines(found).get_suptitle().startswith("Changes of weights against")

    # With the full batch there is no other run, and changes are those of training by hand.
    found = aj.sweep(data, model=model, theories=["another-run", "twin-2-mean"], **settings)
    of_other = found.cosine.sel(theory="another-run", quantity="changes", step=2)
    np.testing.assert_allclose(of_other.values[np.isfinite(of_other)], 1, atol=1e-5)
    config = aj.RunConfig(2, 1, (), model=model, optimizer="adamw")
    start = model.init(run_keys(0)[0], config.sizes(data.vocab_size, data.seq_len), 1.0)
    optimizer = optax.adamw(1e-2)
    twin = twins.StatisticsTwin(2, rows=None)
    prepared = twin.prepare(model, None, Batch(data.tokens, data.mask, data.vocab_size))
    ends = []
    for gradient in (
        lambda p: model.loss_and_gradient(p, data.tokens, data.mask)[1],
        lambda p: twin.gradient(model, p, prepared, None),
    ):
        params, state = start, optimizer.init(start)
        for _ in range(2):
            updates, state = optimizer.update(gradient(params), state, params)
            params = optax.apply_updates(params, updates)
        ends.append(np.ravel(params["unembedding"] - start["unembedding"]))
    expected = ends[0] @ ends[1] / np.linalg.norm(ends[0]) / np.linalg.norm(ends[1])
    at = {"theory": "twin-2-mean", "quantity": "changes", "weight": "unembedding", "step": 2}
    value = found.cosine.sel(learning_rate=1e-2, **at).isel(layer=-1).item()
    assert value == pytest.approx(expected, abs=1e-5)

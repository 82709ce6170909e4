"""Losses of statistics twins, and the states of their rows (`assocjax.theories.twins`)."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, PRNGKeyArray

from assocjax.arguments import check_integer, check_is
from assocjax.errors import InputError
from assocjax.models.decoder import Block, Decoder, attend, rotate
from assocjax.models.params import Params
from assocjax.precision import matmul
from assocjax.theories._sparse_contexts import attend_on_average
from assocjax.theories._twin_draws import NEAR, Draws, draw_rows, draw_tokens
from assocjax.theories.twin_statistics import TwinStatistics

ORDERS = (0, 1, 2, 3, 4, 5, 6, 7)
MEAN_ORDERS = (0, 1, 2)
"""Orders that have a mean loss."""

_ENTRIES = 1 << 25  # of the logits, or of the keys and values, of a block of rows
_GROUPS = 4  # of rows with contexts of similar lengths


def twin_loss(
    decoder: Decoder,
    params: Any,
    statistics: TwinStatistics,
    key: PRNGKeyArray | None = None,
    *,
    order: int,
    rows: int | None = None,
    rematerialize: bool = False,
) -> Float[Array, ""]:
    """The loss of a decoder's twin, in nats; differentiate it with respect to `params`.

    Args:
      decoder: the network.
      params: its weights.
      statistics: from `prepare_twin`.
      key: from which pairs and contexts are drawn; for drawn pairs only.
      order: 0 to 7, see `assocjax.theories.twins`; static.
      rows: number of drawn pairs, as many as a batch has positions; static. None is the mean over
        all pairs, of orders 0 to 2.
      rematerialize: whether the gradient computes each layer a second time, from the states of the
        rows before it, which are all that is kept: less memory for a third more time; static.

    Raises:
      InputError, InputTypeError: `order` or `rows` is out of range; there is no mean loss of this
        order; one of `key` and `rows` is given without the other; or `statistics` are others.

    Cost: the layers of V rows, and V^2 d multiply-adds in each for fixed attention, or d for each
      entry of a sparse context. Logits of V rows for a mean loss, of n rows otherwise; from order
      3 also the layers of n rows, and n T d gathers in each, order 5 (n + V) T d; orders 6 and 7
      the layers of 3 n and of 5 n rows. Independent of the text's length. Memory: the activations
      of V rows and of these in all layers, or in one layer if `rematerialize`, and their states for
      each layer. Logits, and the keys and values that drawn rows read, are made by blocks of rows.
    """
    check_is("statistics", statistics, TwinStatistics)
    order = check_integer("order", order, minimum=0, maximum=max(ORDERS))
    if (key is None) != (rows is None):
        raise InputError("key and rows must be given together, or neither")

    def unembed(h) -> Any:
        return decoder.apply({"params": params}, h, method=Decoder.unembed)

    draws, tokens = None, None
    if key is None or rows is None:
        check_mean(order)
    else:
        draws = draw_rows(statistics, key, order, check_integer("rows", rows, minimum=1))
        of_tokens = jax.random.fold_in(key, rows)
        tokens = draw_tokens(statistics, of_tokens) if order == 5 else None
    h = last_states(decoder, params, statistics, draws, tokens, order, rematerialize=rematerialize)
    if draws is None:
        return _mean_nll(unembed, h, statistics, order)

    def nll(rows):
        h, y = rows
        logits = unembed(h)
        target = jnp.take_along_axis(logits, y[:, None], axis=-1)[:, 0]
        return jax.nn.logsumexp(logits, axis=-1) - target

    return jnp.mean(_in_blocks(nll, (h, draws.y), _ENTRIES // statistics.row.size))


def last_states(
    decoder: Decoder,
    params: Any,
    statistics: TwinStatistics,
    draws: Draws | None,
    tokens: Draws | None,
    order: int,
    *,
    rematerialize: bool,
) -> Float[Array, "n d"]:
    """The states of drawn rows after the last layer, or without draws those of all tokens."""

    def states(module):
        if draws is not None and order not in MEAN_ORDERS:
            return _drawn_rows(module, statistics, draws, tokens, order, rematerialize)
        h = _mean_rows(module, statistics, order, rematerialize)
        return h if draws is None else h[draws.x]

    found: Any = decoder.apply({"params": params}, method=states)
    return found


def attention_only_twin_loss(
    params: Params, statistics: TwinStatistics, *, order: int
) -> Float[Array, ""]:
    """The mean loss of the twin of the paper's attention-only model, of order 0, 1 or 2.

        h_0 = 1;  h_l = h_{l-1} + E h_{l-1} V_l;  logits = h_L W_O        E[x] = E[A_0 X | x]

    The attention matrices get no gradient. From a zero start, s steps of descent with step size eta
    give at lowest order W_O = s eta B and V_l = C(s,2) eta^2 Phi_2^T B^T, where Phi_2 = B^T E is
    what Phi would be if the context of a token did not depend on what follows. The leading terms
    have Phi itself, which is of third order.

    Args:
      params: weights; only `value` and `output` are used.
      statistics: from `prepare_twin`.
      order: see `assocjax.theories.twins`.

    Raises:
      InputError, InputTypeError: `order` is out of range, or has no mean loss; or `params` or
        `statistics` are others.

    Cost: (2 L + 1) V^3 multiply-adds.
    """
    check_is("params", params, Params)
    check_is("statistics", statistics, TwinStatistics)
    order = check_integer("order", order, minimum=0)
    check_mean(order)
    h = jnp.eye(params.output.shape[0], dtype=params.output.dtype)
    for value in params.value:
        read = matmul(h, value)
        h += read if order == 1 else attend_on_average(statistics.context, read)
    return _mean_nll(lambda h: matmul(h, params.output), h, statistics, order)


def check_mean(order: int) -> None:
    if order not in MEAN_ORDERS:
        raise InputError(f"order must be one of {MEAN_ORDERS} for a mean loss; got {order}")


def _mean_nll(
    unembed: Callable[[Array], Array],
    h: Float[Array, "V d"],
    statistics: TwinStatistics,
    order: int,
) -> Float[Array, ""]:
    """The negative log-likelihoods of all pairs after the rows h, weighed by their frequencies."""
    V, p, y = len(h), statistics.frequency.astype(h.dtype), statistics.targets
    x = statistics.row[statistics.inputs]

    def shares(rows):
        """Of the pairs of these rows, in order, with every target."""
        if order == 0:
            f, g = (jnp.zeros(V, p.dtype).at[of].add(p) for of in (x, y))
            return f[rows][:, None] * g[None]
        first, stop = rows[0], rows[0] + len(rows)
        place = jnp.where((first <= x) & (x < stop), x - first, len(rows))
        return jnp.zeros((len(rows), V), p.dtype).at[place, y].add(p, mode="drop")

    def nll(block):
        states, rows = block
        logits, share = unembed(states), shares(rows)
        log_sums = jax.nn.logsumexp(logits, axis=-1)
        return jnp.sum(share, axis=-1) * log_sums - jnp.sum(share * logits, axis=-1)

    return jnp.sum(_in_blocks(nll, (h, jnp.arange(V, dtype=x.dtype)), _ENTRIES // V))


def _start(
    decoder: Decoder, statistics: TwinStatistics
) -> tuple[Float[Array, "V d"], Float[Array, "T d"]]:
    """h_0 of every token at a mean position, and of each position less its mean."""
    V, T = decoder.config.vocab_size, len(statistics.positions)
    window = decoder.config.window
    if window is not None and window < T:
        raise InputError(
            f"model: twins have no sliding window; that of the model, {window}, is below T = {T}"
        )
    h = decoder.embed(jnp.arange(V), jnp.zeros(V, jnp.int32))
    if not decoder.config.learned_positions:
        return h, jnp.zeros((T, h.shape[1]), h.dtype)
    shift = decoder.embed(jnp.zeros(T, jnp.int32), jnp.arange(T)) - h[:1]
    counts = jnp.asarray(statistics.positions, h.dtype)
    mean = matmul(counts[None] / jnp.sum(counts), shift)
    return h + mean, shift - mean


def _mean_rows(
    decoder: Decoder, statistics: TwinStatistics, order: int, rematerialize: bool
) -> Float[Array, "V d"]:
    """The last states of the rows of orders 0 to 2."""

    def layer(block, h):
        return block.finish(h, _fixed_attention(decoder, statistics, block.values(h), order))

    h, _ = _start(decoder, statistics)
    return decoder.through_layers(layer, h, rematerialize=rematerialize)


def _fixed_attention(
    decoder: Decoder, statistics: TwinStatistics, v: Float[Array, "V G r"], order: int
) -> Float[Array, "V H r"]:
    if order != 1:
        v = attend_on_average(statistics.context, v.reshape(len(v), -1)).reshape(v.shape)
    return _to_heads(decoder, v)


def _to_heads(decoder: Decoder, v: Float[Array, "n G r"]) -> Float[Array, "n H r"]:
    config = decoder.config
    return jnp.repeat(v, config.num_heads // config.kv_heads, axis=-2)


def _drawn_rows(
    decoder: Decoder,
    statistics: TwinStatistics,
    draws: Draws,
    tokens: Draws | None,
    order: int,
    rematerialize: bool,
) -> Float[Array, "n d"]:
    """The last states of drawn rows.

    h are the states that they read, of the rows of order 2 or, in order 5, of the rows `tokens`. A
    row has states of its own for x, and for the tokens before it that stand in order, from x
    backwards: [n,S,d].
    """
    h, shift = _start(decoder, statistics)

    def advance(block, h, k, v, row, draws):
        """The rows after a layer, in which tokens have the states h, keys k and values v."""
        mixed = _read(decoder, block, h, k, v, shift, row, draws, order)
        return block.finish(row, mixed)

    def layer(block, states):
        h, row = states
        _, k, v = block.heads(h)
        row = advance(block, h, k, v, row, draws)
        if tokens is None:
            return block.finish(h, _fixed_attention(decoder, statistics, v, 2)), row
        at = shift[tokens.t]
        of_tokens = advance(block, h, k, v, (h[tokens.x] + at)[:, None], tokens)[:, 0]
        return jnp.zeros_like(h).at[tokens.x].set(of_tokens - at), row

    # Places below 0 are none. The row of x is first, because XLA's programs for CPUs abort where
    # the last of many rows is taken (jaxlib 0.10).
    places = np.maximum(draws.t[:, None] - np.arange(NEAR.get(order, 0) + 1), 0)
    in_order = jnp.take_along_axis(draws.context, places[:, 1:], axis=1)
    ids = jnp.concatenate([draws.x[:, None], in_order], axis=1)
    states = h, h[ids] + shift[places]
    return decoder.through_layers(layer, states, rematerialize=rematerialize)[1][:, 0]


def _read(
    decoder: Decoder,
    block: Block,
    h: Float[Array, "V d"],
    k: Float[Array, "V G r"],
    v: Float[Array, "V G r"],
    shift: Float[Array, "T d"],
    row: Float[Array, "n S d"],
    draws: Draws,
    order: int,
) -> Float[Array, "n S H r"]:
    """What rows read from the tokens of their contexts, and from themselves."""
    config = decoder.config
    # A loop over blocks of rows cannot take a bound module.
    free, weights = block.unbind()
    key_value = jnp.concatenate([k, v], axis=-1)
    places, S = np.arange(draws.context.shape[1]), row.shape[1]

    def of_order_3(rows):
        x, t, ids, *_ = rows
        values = _take(v, jnp.concatenate([ids, x[:, None]], axis=1))
        before = jnp.arange(ids.shape[1], dtype=t.dtype)[None] < t[:, None]
        valid = jnp.pad(before, ((0, 0), (0, 1)), constant_values=True)
        share = valid.astype(v.dtype) / (t + 1).astype(v.dtype)[:, None]
        return _to_heads(decoder, jnp.sum(share[..., None, None] * values, axis=1))[:, None]

    def of_order_4(rows):
        _, t, ids, q_own, k_own, v_own = rows
        length = ids.shape[1]
        at = t[:, None] - jnp.arange(S, dtype=t.dtype)[None]
        if config.learned_positions and length:
            moved = _take(h, ids) + shift[None, :length]
            found: Any = free.apply(weights, moved, method=Block.heads)
            _, k_read, v_read = found
        else:
            k_read, v_read = jnp.split(_take(key_value, ids), 2, axis=-1)
        k_read = rotate(config, k_read, jnp.asarray(places[:length]))
        q_own, k_own = (rotate(config, each, at) for each in (q_own, k_own))
        keys = jnp.concatenate([k_read, k_own], axis=1)
        values = jnp.concatenate([v_read, v_own], axis=1)
        before = jnp.arange(length, dtype=t.dtype)[None] <= t[:, None] - S
        before = jnp.broadcast_to(before[:, None], (len(t), S, length))
        own = jnp.tri(S, dtype=bool).T[None] & (at >= 0)[:, None] | jnp.eye(S, dtype=bool)[None]
        return attend(config, q_own, keys, values, jnp.concatenate([before, own], axis=-1))

    every = draws.x, jnp.asarray(draws.t, jnp.int32), draws.context
    every += () if order == 3 else block.heads(row)
    # Positions ascend, so that the first groups of rows have short contexts.
    n = len(draws.t)
    edges = np.linspace(0, n, min(_GROUPS, n) + 1).astype(int).tolist()
    mixed = []
    for first, stop in itertools.pairwise(edges):
        length = max(0, int(draws.t[stop - 1]) - S + 1)
        x, t, ids, *own = (each[first:stop] for each in every)
        entries = (length + S) * 2 * k[0].size
        of_group = x, t, ids[:, :length], *own
        function = of_order_3 if order == 3 else of_order_4
        mixed.append(_in_blocks(function, of_group, _ENTRIES // entries))
    return jnp.concatenate(mixed)


def _take(values: Float[Array, "V ..."], ids: Int32[Array, "n t"]) -> Float[Array, "n t ..."]:
    """values[ids], as a gather of rows of a matrix: XLA's transpose of any other is slow."""
    return values.reshape(len(values), -1)[ids.ravel()].reshape(*ids.shape, *values.shape[1:])


def _in_blocks(function: Callable[[Any], Array], rows: Any, size: int) -> Array:
    """`function` of rows, by blocks of at most `size` rows if these are fewer than all. A gradient
    computes each block a second time, so that the activations of one block are kept at most."""
    n = len(jax.tree.leaves(rows)[0])
    blocks = -(-n // max(size, 1))
    if blocks == 1:
        return function(rows)
    size = -(-n // blocks)

    def divided(array):
        padding = [(0, blocks * size - n), *[(0, 0)] * (array.ndim - 1)]
        return jnp.pad(array, padding).reshape(blocks, size, *array.shape[1:])

    found = jax.lax.map(jax.checkpoint(function, prevent_cse=False), jax.tree.map(divided, rows))
    return found.reshape(blocks * size, *found.shape[2:])[:n]

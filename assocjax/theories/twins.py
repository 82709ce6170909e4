"""Statistics twins: a network trained on statistics of a text, which never reads the text.

A twin is the same network with the same start and the same recipe as a real run. Its rows stand for
occurrences of tokens, not for positions of a text. The loss of a pair (x, y) is the negative
log-likelihood of y after the row of x, and the twins differ in what else their rows know:

    order 0   x and y are drawn independently of each other; otherwise as order 2 (a control)
    order 1   pairs have the frequencies of bigrams; a row attends only to itself
    order 2   attention is fixed: row x of the matrix E[A_0 X | x], the mean of uniform attention
              over all occurrences of x, of the values of all V rows
    order 3   for a drawn pair (x, y), t tokens are drawn from E[A_0 X | x, y], where the rows of a
              step have positions t with the frequencies of the text; attention is uniform over
              them and x
    order 4   the row attends to the keys of these tokens at the positions 0..t-1, and to itself at
              t, by the model's own softmax and positions

    order 5   as order 4, but the states of the drawn tokens are those of V other rows, one for each
              token, which attend to drawn tokens themselves

In orders 3 and 4 the states of the drawn tokens are those of the rows of order 2. Half of the
weight of x in its own context is left out of the draws, since x itself stands at position t.

A mean loss (orders 0 to 2) weighs all pairs by their frequencies. Otherwise pairs are drawn, as
many as a batch has positions, which gives gradients the noise of a batch: AdamW's steps depend on
it. No step reads the text: its cost does not depend on the text's length.
"""

import dataclasses
import itertools
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Int32, PRNGKeyArray
from scipy.sparse import csr_array, vstack

from assocjax.arguments import check_integer, check_is
from assocjax.checks import check_number
from assocjax.errors import InputError
from assocjax.models.decoder import Decoder, DecoderModel, attend, rotate
from assocjax.models.paper import AttentionOnly
from assocjax.models.params import Params
from assocjax.precision import matmul
from assocjax.statistics.contexts import (
    MAX_ENTRIES,
    ContextStatistics,
    context_statistics,
    mean_contexts,
    normalized,
)
from assocjax.statistics.drawing import AliasTables, alias_tables, draw
from assocjax.theories.registry import register_theory
from assocjax.theories.theory import Theory

ORDERS = (0, 1, 2, 3, 4, 5)
MEAN_ORDERS = (0, 1, 2)
"""Orders that have a mean loss."""

ROWS = 2048
"""Drawn pairs of a step by default: 32 sequences of 64 positions."""

_ENTRIES = 1 << 24  # values that one block of a product with a sparse context reads
_GROUPS = 4  # of rows with contexts of similar lengths
_BIN = 16  # tokens whose followers may be exchanged: neighbours by frequency


@struct.dataclass
class SparseContext:
    """E[A_0 X | x] with only the K largest entries of each row; the rest of all rows is alike.

    Row x is the weights at `columns`, and `rest[x]` times the distribution `tail`, which is the
    mean of what is left out. `error` is the mean over positions of the total variation distance,
    half of the sum of absolute differences, between this row and the exact one.
    """

    columns: Int32[Array, "V K"]
    weights: Float[Array, "V K"]
    rest: Float[Array, " V"]
    tail: Float[Array, " V"]
    error: Float[Array, ""]


@struct.dataclass
class TwinStatistics:
    """What the losses of twins are computed from; P pairs (x, y), all distinct.

    Attributes:
      inputs, targets: x and y of every pair, [P].
      frequency: share of the positions of every pair, [P].
      row: the token whose row stands for input x, [V]: x, unless rows are shuffled.
      context: E[A_0 X | x], [V,V] or sparse; a token that is never an input attends to itself.
      pairs: a table of one row, to draw pairs.
      contexts: tables of P + V rows, to draw tokens of the context of a pair, or of a token.
      backoff: probability of drawing from the row of the token instead of the pair's, [P].
      positions: number of occurrences of each position t in the text, T integers, static.
    """

    inputs: Int32[Array, " P"]
    targets: Int32[Array, " P"]
    frequency: Float[Array, " P"]
    row: Int32[Array, " V"]
    context: Float[Array, "V V"] | SparseContext
    pairs: AliasTables
    contexts: AliasTables
    backoff: Float[Array, " P"]
    positions: tuple[int, ...] = struct.field(pytree_node=False)


class _Draws(NamedTuple):
    """n drawn rows: input, target, position (static, ascending) and tokens of the context."""

    x: Int32[Array, " n"]
    y: Int32[Array, " n"]
    t: Int[np.ndarray, " n"]
    context: Int32[Array, "n T-1"]


def prepare_twin(
    statistics: ContextStatistics,
    *,
    backoff: float = 0.0,
    shuffle_seed: int | None = None,
    entries: int | None = None,
) -> TwinStatistics:
    """Brings statistics of a text into the form that `twin_loss` needs.

    Args:
      statistics: from `context_statistics`.
      backoff: k; tokens of the context of a pair with n positions are drawn from the mixture

            n / (n + k) E[A_0 X | x, y]  +  k / (n + k) E[A_0 X | x]

        and from E[A_0 X | x] alone where the row of the pair is empty.
      shuffle_seed: a control that can fail: each token gets the followers of another one of similar
        frequency. Tokens are sorted by frequency, and permuted at random among 16 neighbours, so
        that none keeps its own. None shuffles nothing.
      entries: K, to make `context` a `SparseContext`, for a large vocabulary. None is dense.

    Returns:
      `TwinStatistics`, whose floating arrays have JAX's default dtype.

    Raises:
      InputError, InputTypeError: `statistics` is not `ContextStatistics` or has no positions, or
        `backoff`, `shuffle_seed` or `entries` is out of range.

    Cost: time proportional to the entries of `statistics.pair` and to V^2. Memory of the result: 12
      bytes for each entry, and V^2 numbers, or 2 K V if sparse.
    """
    check_is("statistics", statistics, ContextStatistics)
    backoff = check_number("backoff", backoff, minimum=0.0)
    bigram = statistics.bigram
    V, n = bigram.indptr.size - 1, bigram.data
    if not n.size:
        raise InputError("statistics must have at least one position; got none")
    inputs = np.repeat(np.arange(V), np.diff(bigram.indptr))
    inputs_of = bigram.sum(axis=1)
    unseen = (inputs_of == 0).astype(float)
    itself = csr_array((unseen, np.arange(V), np.arange(V + 1)), shape=(V, V))
    mean = csr_array(mean_contexts(statistics) + itself)

    pair, token = normalized(statistics.pair), normalized(statistics.token)
    of_pair = _without_half_of_itself(pair, inputs)
    of_token = _without_half_of_itself(token, np.arange(V))
    # Mixing before half of x is left out, as the definition says, mixes the rest by its mass.
    known = (np.diff(pair.indptr) > 0) & (n > 0)
    share = np.divide(n, n + backoff, out=np.zeros(n.size), where=known)
    mass, rest = share * of_pair.sum(axis=1), (1 - share) * of_token.sum(axis=1)[inputs]

    dtype = jnp.result_type(float)
    return TwinStatistics(
        inputs=jnp.asarray(inputs, jnp.int32),
        targets=jnp.asarray(bigram.indices, jnp.int32),
        frequency=jnp.asarray(n / n.sum(), dtype),
        row=jnp.asarray(_rows(inputs_of, shuffle_seed), jnp.int32),
        context=(
            jnp.asarray(mean.toarray(), dtype)
            if entries is None
            else _sparse(mean, inputs_of / n.sum(), check_integer("entries", entries, minimum=1))
        ),
        pairs=alias_tables(csr_array((n, np.arange(n.size), [0, n.size]), shape=(1, n.size))),
        contexts=alias_tables(csr_array(vstack([of_pair, of_token], format="csr"))),
        backoff=jnp.asarray(rest / (mass + rest), dtype),
        positions=tuple(statistics.positions.tolist()),
    )


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
      order: 0 to 5, see the module's docstring; static.
      rows: number of drawn pairs, as many as a batch has positions; static. None is the mean over
        all pairs, of orders 0 to 2.
      rematerialize: whether the gradient computes each layer a second time instead of keeping its
        activations: a third more time for less memory on accelerators; static. XLA's compiler for
        CPUs undoes it: there the activations of all layers are kept.

    Raises:
      InputError, InputTypeError: `order` or `rows` is out of range; there is no mean loss of this
        order; or one of `key` and `rows` is given without the other.

    Cost: the layers of V rows, and V^2 d multiply-adds in each for fixed attention. Logits of V
      rows for a mean loss, of n rows otherwise; orders 3 to 5 also need the layers of n rows, and
      n T d gathers in each, order 5 (n + V) T d. Independent of the text's length.
    """
    order = check_integer("order", order, minimum=0, maximum=max(ORDERS))
    if (key is None) != (rows is None):
        raise InputError("key and rows must be given together, or neither")
    draws, tokens = None, None
    if key is None or rows is None:
        _check_mean(order)
    else:
        draws = _draw(statistics, key, order, check_integer("rows", rows, minimum=1))
        if order == 5:
            tokens = _draw_tokens(statistics, jax.random.fold_in(key, rows))

    def loss(module):
        if draws is None:
            return _mean_nll(
                module.unembed(_mean_rows(module, statistics, order, rematerialize)),
                statistics,
                order,
            )
        logits = module.unembed(
            _last_states(module, statistics, draws, tokens, order, rematerialize)
        )
        target = jnp.take_along_axis(logits, draws.y[:, None], axis=-1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - target)

    found: Any = decoder.apply({"params": params}, method=loss)
    return found


class TwinRows(NamedTuple):
    """What n rows of a twin predict, and for which occurrences they stand.

    Attributes:
      inputs: x, [n].
      share: of each of A tokens in the context of the row, [n,A].
      probabilities: of each of B tokens as the target, [n,B].
      weight: of the row in means, [n].
    """

    inputs: Int32[Array, " n"]
    share: Float[Array, "n A"]
    probabilities: Float[Array, "n B"]
    weight: Float[Array, " n"]


def twin_rows(
    decoder: Decoder,
    params: Any,
    statistics: TwinStatistics,
    key: PRNGKeyArray,
    contexts: Int32[Array, " A"],
    targets: Int32[Array, " B"],
    *,
    order: int,
    rows: int,
) -> TwinRows:
    """What the rows of a twin predict: those of all tokens, or in orders 3 to 5 drawn ones.

    Args:
      decoder, params, statistics, order: as in `twin_loss`.
      key: from which rows are drawn.
      contexts: tokens whose shares are returned.
      targets: tokens whose probabilities are returned.
      rows: number of drawn rows.

    Cost: as `twin_loss`, without its gradient.
    """
    order = check_integer("order", order, minimum=0, maximum=max(ORDERS))
    V = statistics.row.size
    if order in MEAN_ORDERS:
        draws, tokens = None, None
        inputs = jnp.arange(V, dtype=jnp.int32)
        share = _attend_on_average(
            statistics.context,
            jax.nn.one_hot(contexts, V, axis=0, dtype=statistics.frequency.dtype),
        )
        f = statistics.frequency
        weight = jnp.zeros(V, f.dtype).at[statistics.inputs].add(f)
    else:
        draws = _draw(statistics, key, order, rows)
        tokens = _draw_tokens(statistics, jax.random.fold_in(key, rows)) if order == 5 else None
        inputs, weight = draws.x, jnp.full(rows, 1 / rows, statistics.frequency.dtype)
        ids = jnp.concatenate([draws.context, inputs[:, None]], axis=1)
        t = draws.t[:, None]
        places = np.arange(draws.context.shape[1])[None]
        shares = np.concatenate([places < t, np.ones_like(t, bool)], axis=1) / (t + 1)
        whole = jnp.zeros((rows, V), weight.dtype)
        whole = whole.at[np.arange(rows)[:, None], ids].add(jnp.asarray(shares, weight.dtype))
        share = whole[:, contexts]

    def predict(module):
        h = _last_states(module, statistics, draws, tokens, order, False)
        logits = module.unembed(h)
        return jnp.exp(logits[:, targets] - jax.nn.logsumexp(logits, axis=-1)[:, None])

    found: Any = decoder.apply({"params": params}, method=predict)
    return TwinRows(inputs, share, found, weight)


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
      order: see the module's docstring.

    Raises:
      InputError, InputTypeError: `order` is out of range, or has no mean loss.

    Cost: (2 L + 1) V^3 multiply-adds.
    """
    check_is("params", params, Params)
    order = check_integer("order", order, minimum=0)
    _check_mean(order)
    h = jnp.eye(params.output.shape[0], dtype=params.output.dtype)
    for value in params.value:
        read = matmul(h, value)
        h += read if order == 1 else _attend_on_average(statistics.context, read)
    return _mean_nll(matmul(h, params.output), statistics, order)


def _check_mean(order: int) -> None:
    if order not in MEAN_ORDERS:
        raise InputError(f"order must be one of {MEAN_ORDERS} for a mean loss; got {order}")


def _without_half_of_itself(contexts: csr_array, tokens: np.ndarray) -> csr_array:
    """Contexts [R,V] of tokens [R] without half of the token's own weight."""
    own = contexts.indices == np.repeat(tokens, np.diff(contexts.indptr))
    data = np.where(own, contexts.data / 2, contexts.data)
    return csr_array((data, contexts.indices, contexts.indptr), shape=contexts.shape)


def _rows(counts: np.ndarray, seed: int | None) -> np.ndarray:
    """The token whose row stands for each token."""
    row = np.arange(counts.size)
    if seed is None:
        return row
    rng = np.random.default_rng(check_integer("shuffle_seed", seed, minimum=0))
    ranked = np.argsort(-counts, kind="stable")
    for bin in np.split(ranked, range(_BIN, ranked.size, _BIN)):
        cycle = rng.permutation(bin)
        row[cycle] = np.roll(cycle, 1)
    return row


def _draw(statistics: TwinStatistics, key: PRNGKeyArray, order: int, rows: int) -> _Draws:
    """Rows of pairs."""
    keys = jax.random.split(key, 4)
    one = jnp.zeros(rows, jnp.int32)
    pair = draw(statistics.pairs, keys[0], one)
    x, y = statistics.inputs[pair], statistics.targets[pair]
    if order == 0:
        x = statistics.inputs[draw(statistics.pairs, keys[1], one)]
    t = _positions(statistics, rows)
    context = jnp.zeros((rows, 0), jnp.int32)
    if order >= 3:
        shape = (rows, int(t[-1]))
        uniform = jax.random.uniform(keys[2], shape, statistics.backoff.dtype)
        from_token = uniform < statistics.backoff[pair][:, None]
        of_token = statistics.inputs.size + x
        of_row = jnp.where(from_token, of_token[:, None], pair[:, None])
        context = draw(statistics.contexts, keys[3], of_row)
    return _Draws(statistics.row[x], y, t, context)


def _draw_tokens(statistics: TwinStatistics, key: PRNGKeyArray) -> _Draws:
    """Rows of all tokens in random order, without targets. A token that is never an input has an
    empty row of contexts, and is in no context."""
    of_order, of_context = jax.random.split(key)
    V = statistics.row.size
    x = jax.random.permutation(of_order, V)
    t = _positions(statistics, V)
    of_row = jnp.broadcast_to((statistics.inputs.size + x)[:, None], (V, int(t[-1])))
    return _Draws(x, x, t, draw(statistics.contexts, of_context, of_row))


def _positions(statistics: TwinStatistics, rows: int) -> Int[np.ndarray, " n"]:
    """Positions of rows: they divide the rows as they divide the text, which a batch does too."""
    shares = np.cumsum(statistics.positions) / np.sum(statistics.positions)
    return np.searchsorted(shares, (np.arange(rows) + 0.5) / rows)


def _mean_nll(
    logits: Float[Array, "V V"], statistics: TwinStatistics, order: int
) -> Float[Array, ""]:
    """The negative log-likelihoods of all pairs, weighed by their frequencies."""
    log_sums = jax.nn.logsumexp(logits, axis=-1)
    p, y = statistics.frequency.astype(logits.dtype), statistics.targets
    x = statistics.row[statistics.inputs]
    if order == 0:
        f, g = (jnp.zeros_like(log_sums).at[of].add(p) for of in (x, y))
        return jnp.sum(f * (log_sums - matmul(logits, g)))
    return jnp.sum(p * (log_sums[x] - logits[x, y]))


def _start(
    decoder: Decoder, statistics: TwinStatistics
) -> tuple[Float[Array, "V d"], Float[Array, "T d"]]:
    """h_0 of every token at a mean position, and of each position less its mean."""
    V, T = decoder.config.vocab_size, len(statistics.positions)
    h = decoder.embed(jnp.arange(V), jnp.zeros(V, jnp.int32))
    if not decoder.config.learned_positions:
        return h, jnp.zeros((T, h.shape[1]), h.dtype)
    shift = decoder.embed(jnp.zeros(T, jnp.int32), jnp.arange(T)) - h[:1]
    counts = jnp.asarray(statistics.positions, h.dtype)
    mean = matmul(counts[None] / jnp.sum(counts), shift)
    return h + mean, shift - mean


def _sparse(context: csr_array, frequency: np.ndarray, entries: int) -> SparseContext:
    """The `entries` largest of each row of `context`."""
    V, dtype = context.indptr.size - 1, jnp.result_type(float)
    row = np.repeat(np.arange(V), np.diff(context.indptr))
    order = np.lexsort((np.negative(context.data), row))
    rank = (
        np.arange(row.size) - np.asarray(context.indptr)[row]
    )  # in each row, of what `order` sorts
    top = order[rank < entries]
    columns, weights = np.zeros((V, entries), np.int32), np.zeros((V, entries))
    place = row[top], rank[rank < entries]
    columns[place], weights[place] = context.indices[top], context.data[top]
    left_out = context.copy()
    left_out.data[top] = 0
    rest = np.asarray(left_out.sum(axis=1))
    tail = np.asarray(frequency @ left_out)
    tail = tail / tail.sum() if tail.any() else np.full(V, 1 / V)
    error, size = 0.0, max(1, _ENTRIES // V)
    for first in range(0, V, size):
        rows = slice(first, first + size)
        difference = np.asarray(left_out[rows].toarray()) - rest[rows, None] * tail
        error += frequency[rows] @ np.abs(difference).sum(axis=1) / 2
    arrays = (jnp.asarray(each, dtype) for each in (weights, rest, tail, error))
    return SparseContext(jnp.asarray(columns), *arrays)


def _attend_on_average(
    context: Float[Array, "V V"] | SparseContext, v: Float[Array, "V d"]
) -> Float[Array, "V d"]:
    """The product of E[A_0 X | x] with values."""
    if not isinstance(context, SparseContext):
        return matmul(context, v)

    @jax.checkpoint
    def of_row(row):
        columns, weights = row
        return matmul(weights[None], v[columns])[0]

    size = max(1, _ENTRIES // (context.columns.shape[1] * v.shape[1]))
    top = jax.lax.map(of_row, (context.columns, context.weights), batch_size=size)
    return top + context.rest[:, None] * matmul(context.tail[None], v)


def _fixed_attention(
    decoder: Decoder, statistics: TwinStatistics, v: Float[Array, "V G r"], order: int
) -> Float[Array, "V H r"]:
    if order != 1:
        v = _attend_on_average(statistics.context, v.reshape(len(v), -1)).reshape(v.shape)
    return _to_heads(decoder, v)


def _to_heads(decoder: Decoder, v: Float[Array, "n G r"]) -> Float[Array, "n H r"]:
    config = decoder.config
    return jnp.repeat(v, config.num_heads // config.kv_heads, axis=-2)


def _mean_rows(
    decoder: Decoder, statistics: TwinStatistics, order: int, rematerialize: bool
) -> Float[Array, "V d"]:
    """The last states of the rows of orders 0 to 2."""

    def layer(block, h):
        return block.finish(h, _fixed_attention(decoder, statistics, block.heads(h)[2], order))

    h, _ = _start(decoder, statistics)
    for block in decoder.blocks:
        h = (nn.remat(layer) if rematerialize else layer)(block, h)
    return h


def _drawn_rows(
    decoder: Decoder,
    statistics: TwinStatistics,
    draws: _Draws,
    tokens: _Draws | None,
    order: int,
    rematerialize: bool,
) -> Float[Array, "n d"]:
    """The last states of drawn rows.

    h are the states that they read, of the rows of order 2 or, in order 5, of the rows `tokens`.
    """
    config = decoder.config
    h, shift = _start(decoder, statistics)
    row = h[draws.x] + shift[draws.t]

    def read(block, h, k, v, row, draws, first, stop):
        """What the rows from `first` to `stop` read from the tokens of their contexts."""
        own, at = draws.x[first:stop], draws.t[first:stop]
        length = int(at[-1])
        ids, places = draws.context[first:stop, :length], np.arange(length)
        # The row itself is one key more, behind those of its context.
        valid = np.pad(places < at[:, None], ((0, 0), (0, 1)), constant_values=True)
        if order == 3:
            values = _take(v, jnp.concatenate([ids, own[:, None]], axis=1))
            share = jnp.asarray(valid / (at + 1)[:, None], v.dtype)
            return _to_heads(decoder, jnp.sum(share[..., None, None] * values, axis=1))
        if config.learned_positions and length:
            _, k_read, v_read = block.heads(_take(h, ids) + shift[None, :length])
        else:
            k_read, v_read = jnp.split(_take(jnp.concatenate([k, v], axis=-1), ids), 2, axis=-1)
        q_own, k_own, v_own = block.heads(row[first:stop])
        q_own, k_own = (rotate(config, each, jnp.asarray(at)) for each in (q_own, k_own))
        keys = jnp.concatenate([rotate(config, k_read, jnp.asarray(places)), k_own[:, None]], 1)
        values = jnp.concatenate([v_read, v_own[:, None]], axis=1)
        return attend(config, q_own, keys, values, jnp.asarray(valid))

    def advance(block, h, k, v, row, draws):
        # Positions ascend, so that the first groups of rows have short contexts.
        n = len(draws.t)
        edges = np.linspace(0, n, min(_GROUPS, n) + 1).astype(int).tolist()
        mixed = [read(block, h, k, v, row, draws, *group) for group in itertools.pairwise(edges)]
        return block.finish(row, jnp.concatenate(mixed))

    def layer(block, h, row):
        _, k, v = block.heads(h)
        row = advance(block, h, k, v, row, draws)
        if tokens is None:
            return block.finish(h, _fixed_attention(decoder, statistics, v, 2)), row
        at = shift[tokens.t]
        of_tokens = advance(block, h, k, v, h[tokens.x] + at, tokens)
        return jnp.zeros_like(h).at[tokens.x].set(of_tokens - at), row

    for block in decoder.blocks:
        h, row = (nn.remat(layer) if rematerialize else layer)(block, h, row)
    return row


def _last_states(
    decoder: Decoder,
    statistics: TwinStatistics,
    draws: _Draws | None,
    tokens: _Draws | None,
    order: int,
    rematerialize: bool,
) -> Float[Array, "n d"]:
    """The last states of drawn rows, or without draws those of all tokens."""
    if draws is not None and order not in MEAN_ORDERS:
        return _drawn_rows(decoder, statistics, draws, tokens, order, rematerialize)
    h = _mean_rows(decoder, statistics, order, rematerialize)
    return h if draws is None else h[draws.x]


def _take(values: Float[Array, "V ..."], ids: Int32[Array, "n t"]) -> Float[Array, "n t ..."]:
    """values[ids], as a gather of rows of a matrix: XLA's transpose of any other is slow."""
    return values.reshape(len(values), -1)[ids.ravel()].reshape(*ids.shape, *values.shape[1:])


@dataclasses.dataclass(frozen=True)
class StatisticsTwin(Theory):
    """A statistics twin as a theory: it starts where the run does and is trained as the run is.

    Its name is "twin-ORDER", with "-mean" for a mean loss and "-shuffled" for shuffled rows.

    Attributes:
      order: see the module's docstring. The paper's model has mean losses only.
      rows: drawn pairs of a step, as many as a batch has positions; None is the mean loss.
      shuffle_seed, backoff, entries: as in `prepare_twin`.
      rematerialize: as in `twin_loss`.

    Raises:
      InputError, InputTypeError: `order` or `rows` is out of range, or there is no mean loss of
        this order.
    """

    order: int
    rows: int | None = ROWS
    shuffle_seed: int | None = None
    backoff: float = 0.0
    entries: int | None = None
    rematerialize: bool = False

    from_start = True
    of_batches = False

    def __post_init__(self):
        check_integer("order", self.order, minimum=0, maximum=max(ORDERS))
        if self.rows is None:
            _check_mean(self.order)
        else:
            check_integer("rows", self.rows, minimum=1)

    @property
    def name(self) -> str:  # type: ignore[override]
        mean = "-mean" if self.rows is None else ""
        return f"twin-{self.order}{mean}{'' if self.shuffle_seed is None else '-shuffled'}"

    def check(self, model, optimizer):
        known = (DecoderModel,) if self.rows else (DecoderModel, AttentionOnly)
        if not isinstance(model, known):
            names = " or ".join(each.__name__ for each in known)
            raise InputError(f"theory {self.name!r} is of models of class {names}; got {model!r}")

    def prepare(self, model, sizes, batch):
        return self.prepare_from(context_statistics(batch.tokens, batch.vocab_size, batch.mask))

    def prepare_from(self, statistics: ContextStatistics) -> TwinStatistics:
        """As `prepare`, from statistics of a text."""
        options = {"backoff": self.backoff, "shuffle_seed": self.shuffle_seed}
        return prepare_twin(statistics, entries=self.entries, **options)

    def gradient(self, model, params, prepared, batch):
        if isinstance(model, AttentionOnly):
            loss = partial(attention_only_twin_loss, order=self.order)
            return jax.grad(loss)(params, prepared)
        decoder = model.decoder(params)  # type: ignore[attr-defined]
        options = {"order": self.order, "rows": self.rows, "rematerialize": self.rematerialize}
        loss = partial(twin_loss, decoder, **options)
        key = None if self.rows is None else batch.key
        return jax.grad(lambda params: loss(params, prepared, key))(params)

    def prepared_bytes(self, model, sizes, num_sequences):
        itemsize = jnp.dtype(jnp.result_type(float)).itemsize
        entries = min(num_sequences * sizes.seq_len * (sizes.seq_len + 1) // 2, MAX_ENTRIES)
        kept = sizes.vocab_size * (self.entries or sizes.vocab_size) * itemsize + 12 * entries
        return kept, 2 * kept + 24 * entries


for _order in ORDERS:
    register_theory(StatisticsTwin(_order))
    if _order in MEAN_ORDERS:
        register_theory(StatisticsTwin(_order, rows=None))

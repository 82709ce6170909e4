"""Drawn rows of statistics twins: pairs, positions and tokens of contexts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32, PRNGKeyArray

from assocjax.statistics.drawing import draw
from assocjax.theories.twin_statistics import TwinStatistics

NEAR = {6: 2, 7: 4}
"""By order: how many of the tokens before x are drawn in order, an even number."""


class Draws(NamedTuple):
    """n drawn rows: input, target, position (static, ascending) and tokens of the context."""

    x: Int32[Array, " n"]
    y: Int32[Array, " n"]
    t: Int[np.ndarray, " n"]
    context: Int32[Array, "n T-1"]


def draw_rows(statistics: TwinStatistics, key: PRNGKeyArray, order: int, rows: int) -> Draws:
    """Rows of as many drawn pairs, for a loss of this order."""
    keys = jax.random.split(key, 5)
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
        context = _in_order(statistics, keys[4], context, pair, t, NEAR.get(order, 0))
    return Draws(statistics.row[x], y, t, context)


def draw_tokens(statistics: TwinStatistics, key: PRNGKeyArray) -> Draws:
    """Rows of all tokens in random order, without targets. A token that is never an input has an
    empty row of contexts, and is in no context."""
    of_order, of_context = jax.random.split(key)
    V = statistics.row.size
    x = jax.random.permutation(of_order, V)
    t = _positions(statistics, V)
    of_row = jnp.broadcast_to((statistics.inputs.size + x)[:, None], (V, int(t[-1])))
    return Draws(x, x, t, draw(statistics.contexts, of_context, of_row))


def _in_order(
    statistics: TwinStatistics,
    key: PRNGKeyArray,
    context: Int32[Array, "n S"],
    pair: Int32[Array, " n"],
    t: Int[np.ndarray, " n"],
    near: int,
) -> Int32[Array, "n S"]:
    """The context with its last `near` tokens before position t in order, where they are known.

    Two at a time are drawn from `before`, given the two after them.
    """
    if not statistics.before.own.size:
        return context
    row = np.arange(t.size)
    known = jnp.ones(t.size, bool)
    for distance in range(0, near, 2):
        known &= statistics.before.size[pair] > 0
        pair = draw(statistics.before, jax.random.fold_in(key, distance), pair)
        for place, tokens in (
            (t - distance - 1, statistics.targets),
            (t - distance - 2, statistics.inputs),
        ):
            drawn = jnp.where(known, tokens[pair], context[row, np.maximum(place, 0)])
            outside = np.where(place < 0, context.shape[1], place)
            context = context.at[row, outside].set(drawn, mode="drop")
    return context


def _positions(statistics: TwinStatistics, rows: int) -> Int[np.ndarray, " n"]:
    """Positions of rows: they divide the rows as they divide the text, which a batch does too."""
    shares = np.cumsum(statistics.positions) / np.sum(statistics.positions)
    return np.searchsorted(shares, (np.arange(rows) + 0.5) / rows)

"""What weights say of each token, beside what the theory says: top lists, overlap and cosines.

A theory's matrices and the weights that learn them are read by the same functions:

    matrix               theory          weights       row i ranks                    r, s
    bigram               B               W_O           followers of token i           p_x, p_y
    interchangeability   B^T B           W_O^T W_O     tokens used like token i       p_y, p_y
    value                Phi^T B^T       V_l           tokens whose followers i       c,   p_x
                                                       announces
    composed             Phi^T Sigma     V_l W_O       outputs that i predicts        c,   p_y
    query_key            Q               W_l           keys for query i               p_x, c

column j ranks the tokens whose rows rank j. r and s are the frequencies of the tokens of rows and
columns: p_x as an input, p_y as a target, c in contexts (`Statistics`). No weight by itself learns
Phi; its trace are the rows of V_l and the columns of V_l W_O.

Frequent tokens lead in most rows. Three scorings of a matrix M, all of them functions of a weight
and of the three frequencies alone, so that they can be had of a model whose text is not at hand:

    raw            M
    independence   M - r (1^T M) - (M 1) s^T + (1^T M 1) r s^T
    corrected      (N[i,j] - mean_i N[i,j]) / sd_i N[i,j],    N = M, but M[i,j] / r[i] of query_key

`independence` takes away what the sums of rows and columns would give if tokens occurred
independently: of B it leaves p(x,y) - p(x) p(y). `corrected` asks how a row stands out among all
rows, in standard deviations of its column. Rows of W_l are first divided by their frequency, since
W_l is trained on a query only where it occurs. A column reads M^T in the same way. Compositions are
of scored factors (B^T B and V_l W_O as products of scored W_O and V_l, and of them the first scaled
to cosines under `corrected`), of which columns are plain columns.

`frequency_corrected` is another correction: it needs the text, and no weight can be given it.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from assocjax.linalg import matmul
from assocjax.params import Params
from assocjax.statistics import Statistics

MATRICES = {
    "bigram": "W_O",
    "interchangeability": "W_O^T W_O",
    "value": "V_l",
    "composed": "V_l W_O",
    "query_key": "W_l",
}
"""Matrices of the theory, and the weights that learn them; one without an l has no layers."""

LAYERED = ("value", "composed", "query_key")
SCORINGS = ("raw", "independence", "corrected")
SIDES = ("row", "column")


class Frequencies(NamedTuple):
    """Shares of a token among inputs (p_x), targets (p_y) and uniform contexts (c): [V] each."""

    input: Float[Array, " V"]
    target: Float[Array, " V"]
    context: Float[Array, " V"]

    @classmethod
    def of(cls, statistics: Statistics) -> "Frequencies":
        return cls(
            statistics.input_frequency, statistics.target_frequency, statistics.context_frequency
        )


class TopLists(NamedTuple):
    """The k best tokens of every token, best first, without itself; ties go to the lower id.

    A token whose entries are all alike ranks nothing: its scores are NaN and its ids mean nothing.
    """

    ids: Int[Array, "... V k"]
    scores: Float[Array, "... V k"]


class Reading(NamedTuple):
    """Of every token: its list by the weights, and how that agrees with the theory's.

    overlap  |list of the weights, and of the theory| / k         of which k / (V - 1) is chance
    cosine   of the token's whole row (column) and the theory's

    Both are NaN where either side ranks nothing.
    """

    lists: TopLists
    overlap: Float[Array, "... V"]
    cosine: Float[Array, "... V"]


def theory_weights(statistics: Statistics) -> Params:
    """B, Phi^T B^T and Q in the places of the weights that learn them, one layer."""
    return Params(
        query_key=statistics.query_key[None],
        position=statistics.position[None],
        value=statistics.value[None],
        output=statistics.bigram,
    )


@partial(jax.jit, static_argnames=("scoring", "k"))
def theory_lists(
    theory: Params, frequencies: Frequencies, *, scoring: str, k: int
) -> dict[str, TopLists]:
    """Lists of the theory: a leaf is [2 (row, column), V, k], of symmetric matrices [V, k].

    Args:
      theory: of `theory_weights`.
      scoring: one of `SCORINGS`.
      k: length of the lists, at most V - 1.
    """
    scored = _flat(theory.output, frequencies, scoring)
    scored |= _layer(theory.query_key[0], theory.value[0], theory.output, frequencies, scoring)
    return {name: jax.vmap(partial(_top, k=k))(sides) for name, sides in scored.items()} | {
        "interchangeability": _top(scored["interchangeability"][0], k=k)
    }


@partial(jax.jit, static_argnames=("scoring", "k"))
def read_weights(
    weights: Params,
    theory: Params,
    lists: dict[str, TopLists],
    frequencies: Frequencies,
    *,
    scoring: str,
    k: int,
) -> dict[str, Reading]:
    """Lists of some weights, and their agreement with the theory's.

    Args:
      weights: L layers.
      theory: of `theory_weights`.
      lists: its `theory_lists` with this scoring and k. They are given, so that tokens that are
        alike in the text, whose order is a matter of rounding, stand in one order at every step.
      scoring, k: as in `theory_lists`.

    Returns:
      A `Reading` for each of `MATRICES`, whose leaves begin with L if it is among `LAYERED`, and
      go on with 2 (row, column), but for `interchangeability`, which is symmetric.

    Cost: 2 (L + 2) products [V,V] by [V,V], and 6 L + 3 rankings of [V,V]. Memory: one layer's.
    """
    flat = partial(_flat, frequencies=frequencies, scoring=scoring)
    agree = partial(_agree, k=k)
    by_theory, by_weights = flat(theory.output), flat(weights.output)
    readings = {
        "bigram": jax.vmap(agree)(by_theory["bigram"], lists["bigram"], by_weights["bigram"]),
        "interchangeability": agree(
            by_theory["interchangeability"][0],
            lists["interchangeability"],
            by_weights["interchangeability"][0],
        ),
    }
    one_layer = partial(_layer, frequencies=frequencies, scoring=scoring)
    layered_theory = one_layer(theory.query_key[0], theory.value[0], theory.output)

    def read_layer(layer):
        query_key, value = layer
        scored = one_layer(query_key, value, weights.output)
        return {
            name: jax.vmap(agree)(layered_theory[name], lists[name], scored[name])
            for name in scored
        }

    return readings | lax.map(read_layer, (weights.query_key, weights.value))


@partial(jax.jit, static_argnames=("scoring", "k"))
def context_lists(
    context: Float[Array, "V V"], frequencies: Frequencies, *, scoring: str, k: int
) -> TopLists:
    """Lists of the basis function Phi, [2 (row, column), V, k], which no single weight learns."""
    scored = _both_sides(context, frequencies.target, frequencies.context, scoring)
    return jax.vmap(partial(_top, k=k))(scored)


def _flat(output, frequencies: Frequencies, scoring: str) -> dict[str, Array]:
    """Scored matrices without a layer, as rows and as columns: [2, V, V]."""
    bigram = _both_sides(output, frequencies.input, frequencies.target, scoring)
    factor = bigram[0]
    if scoring == "corrected":
        norms = jnp.sqrt(jnp.sum(factor * factor, axis=0, keepdims=True))
        factor = factor / jnp.where(norms > 0, norms, 1)
    return {"bigram": bigram, "interchangeability": matmul(factor.T, factor)[None]}


def _layer(query_key, value, output, frequencies: Frequencies, scoring: str) -> dict[str, Array]:
    """Scored matrices of a layer, as rows and as columns: [2, V, V]."""
    p_x, p_y, c = frequencies
    value = _both_sides(value, c, p_x, scoring)
    composed = matmul(value[0], _score(output, p_x, p_y, scoring))
    return {
        "value": value,
        "composed": jnp.stack([composed, composed.T]),
        "query_key": _both_sides(query_key, p_x, c, scoring, per_occurrence=True),
    }


def _both_sides(matrix, rows, columns, scoring: str, per_occurrence: bool = False):
    return jnp.stack(
        [
            _score(matrix, rows, columns, scoring, per_occurrence),
            _score(matrix.T, columns, rows, scoring, per_occurrence),
        ]
    )


def _score(matrix, rows, columns, scoring: str, per_occurrence: bool = False):
    # Entries may be near 1e-12, whose squares vanish in float32.
    largest = jnp.max(jnp.abs(matrix))
    largest = jnp.where(largest > 0, largest, 1)
    unit = matrix / largest
    if scoring == "raw":
        return matrix
    if scoring == "independence":
        by_column, by_row = jnp.sum(unit, axis=0), jnp.sum(unit, axis=1)
        expected = jnp.outer(rows, by_column) + jnp.outer(by_row, columns)
        beyond = unit - expected + jnp.sum(unit) * jnp.outer(rows, columns)
        # What rounding leaves of nothing ranks nothing.
        return jnp.where(jnp.abs(beyond) > 4 * jnp.finfo(beyond.dtype).eps, largest * beyond, 0)
    if per_occurrence:
        occurs = rows[:, None] > 0
        unit = jnp.where(occurs, unit / jnp.where(occurs, rows[:, None], 1), 0)
    centred = unit - jnp.mean(unit, axis=0, keepdims=True)
    sd = jnp.sqrt(jnp.mean(centred * centred, axis=0, keepdims=True))
    return jnp.where(sd > 0, centred / jnp.where(sd > 0, sd, 1), 0)


def _top(matrix: Float[Array, "V V"], k: int) -> TopLists:
    others = _without_own(matrix, -jnp.inf)
    scores, ids = lax.top_k(others, k)
    return TopLists(ids, jnp.where(_ranks(matrix)[:, None], scores, jnp.nan))


def _ranks(matrix: Float[Array, "V V"]) -> Bool[Array, " V"]:
    """Whether the entries of a row, but for its own, are not all alike."""
    high, low = _without_own(matrix, -jnp.inf), _without_own(matrix, jnp.inf)
    return jnp.max(high, axis=1) > jnp.min(low, axis=1)


def _without_own(matrix, value):
    own = jnp.eye(matrix.shape[0], dtype=bool)
    return jnp.where(own, jnp.asarray(value, matrix.dtype), matrix)


def _agree(
    theory: Float[Array, "V V"], expected: TopLists, weights: Float[Array, "V V"], k: int
) -> Reading:
    lists = _top(weights, k)
    common = lists.ids[:, :, None] == expected.ids[:, None, :]
    overlap = jnp.mean(jnp.any(common, axis=2).astype(theory.dtype), axis=1)
    theory, weights = _rows_of_unit_size(theory), _rows_of_unit_size(weights)
    squares = jnp.sum(theory * theory, axis=1) * jnp.sum(weights * weights, axis=1)
    cosine = jnp.sum(theory * weights, axis=1) / jnp.sqrt(jnp.where(squares > 0, squares, 1))
    defined = jnp.isfinite(expected.scores[:, 0]) & jnp.isfinite(lists.scores[:, 0])
    return Reading(lists, jnp.where(defined, overlap, jnp.nan), jnp.where(defined, cosine, jnp.nan))


def _rows_of_unit_size(matrix):
    largest = jnp.max(jnp.abs(matrix), axis=1, keepdims=True)
    return matrix / jnp.where(largest > 0, largest, 1)

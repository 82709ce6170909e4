"""Associations of each token in the weights and in the theory: top lists, overlaps and cosines.

The same functions read a theory's matrices and the weights that learn them:

    matrix               theory          weights       row i ranks                    r, s
    bigram               B               W_O           followers of token i           p_x, p_y
    interchangeability   B^T B           W_O^T W_O     tokens used like token i       p_y, p_y
    value                Phi^T B^T       V_l           tokens whose followers i       c,   p_x
                                                       announces
    composed             Phi^T Sigma     V_l W_O       outputs that i predicts        c,   p_y
    query_key            Q               W_l           keys for query i               p_x, c

Column j ranks the tokens whose rows rank j. r and s are the frequencies of the tokens of rows and
columns: p_x as an input, p_y as a target, c in contexts (`Statistics`). No single weight learns
Phi; it shows in the rows of V_l and the columns of V_l W_O.

Frequent tokens have the largest entries in most rows. So a matrix M is scored in three ways, all
functions of a weight and the three frequencies only, so that they apply to a model without its
text:

    z-score        (N[i,j] - mean_i N[i,j]) / sd_i N[i,j],    N = M, but M[i,j] / r[i] of query_key
    independence   M - r (1^T M) - (M 1) s^T + (1^T M 1) r s^T
    raw            M

`z-score` measures how far a row is above the mean of all rows, in standard deviations of the
column. Rows of W_l are first divided by their frequency, since W_l is trained on a query only where
it occurs. `independence` subtracts the entries that the sums of rows and columns would give if
tokens occurred independently: for B it leaves p(x,y) - p(x) p(y). Columns are scored as rows of
M^T. Compositions are products of scored factors: B^T B and V_l W_O are products of scored W_O and
V_l, and under `z-score` the first is scaled to cosines; their columns are not scored again.

A list holds associations only, tokens

* whose score is positive,
* which occur with the token in the text, as `statistics.occurrences` defines it for each matrix,
* and, except in the products `interchangeability` and `composed`, whose unscored entry is positive
  too: of bigram and context it suffices that the entry is above independence.

The second holds for lists of weights too, and is needed: among tokens that never follow one another
a rare one has a high z-score, because other rows are further below chance. The third leaves out
those that do occur together, but less than by chance. `<unk>`, which stands for many different
tokens, is in no list and has none.

"Corrected" is the name of another scoring, of the statistics: `frequency_corrected`, Pearson
residuals of B and Phi, from which the compositions are formed. Those cannot be computed from a
weight such as V_l, whose factors are not known. Neither can one compute z-scores of compositions of
a vocabulary so large that the matrices are not dense.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from assocjax.arguments import UNKNOWN
from assocjax.models.params import Params
from assocjax.precision import matmul
from assocjax.statistics.dense import Statistics

MATRICES = {
    "bigram": "W_O",
    "interchangeability": "W_O^T W_O",
    "value": "V_l",
    "composed": "V_l W_O",
    "query_key": "W_l",
}
"""Matrices of the theory, and the weights that learn them; l marks those of each layer."""

LAYERED = ("value", "composed", "query_key")
SCORINGS = ("z-score", "independence", "raw")
SIDES = ("row", "column")


class Frequencies(NamedTuple):
    """Frequencies of tokens among inputs (p_x), targets (p_y), uniform contexts (c): [V] each."""

    input: Float[Array, " V"]
    target: Float[Array, " V"]
    context: Float[Array, " V"]

    @classmethod
    def of(cls, statistics: Statistics) -> "Frequencies":
        return cls(
            statistics.input_frequency, statistics.target_frequency, statistics.context_frequency
        )


class TopLists(NamedTuple):
    """Up to k associations of every token, best first, without the token itself; equal scores are
    in the order of ids.

    If there are fewer than k, the remaining scores are NaN and their ids are meaningless. If all
    entries of a token are equal, its list is empty.
    """

    ids: Int[Array, "... V k"]
    scores: Float[Array, "... V k"]


class Reading(NamedTuple):
    """For every token: its list according to the weights, and its agreement with the theory's.

    overlap  |intersection of the lists of weights and theory| / |list of the theory|
    cosine   of the token's whole row (column) with the theory's

    By chance the overlap is |list of the weights| / (number of pairs of the token that a list may
    hold), which is large where few pairs occur. It is 0 if only the list of the weights is empty,
    and NaN if the theory's list is empty. Overlap and cosine are NaN if all entries of the token
    are equal in the weights or in the theory.
    """

    lists: TopLists
    overlap: Float[Array, "... V"]
    cosine: Float[Array, "... V"]


Support = dict[str, Bool[Array, "V V"]]
"""For each of `MATRICES` and "context", the pairs that a list may hold; columns are transposed."""


def support_of(counts: dict[str, Int[np.ndarray, "V V"]], vocabulary: Sequence[str]) -> Support:
    """The pairs that occur in a text, without those of the token `<unk>`.

    Args:
      counts: numbers of occurrences by matrix (`Occurrences.rows`).
      vocabulary: token of each row.
    """
    known = np.array([token != UNKNOWN for token in vocabulary])
    known = np.outer(known, known)
    return {name: jnp.asarray((of > 0) & known) for name, of in counts.items()}


def count_listed(
    counts: Int[np.ndarray, "V V"],
    ids: Int[np.ndarray, "... V k"],
    scores: Float[np.ndarray, "... V k"],
    *,
    sided: bool = True,
) -> Int[np.ndarray, "... V k"]:
    """Numbers of occurrences of the pairs in lists, 0 where a list has ended.

    Args:
      counts: of the matrix, `Occurrences.rows`.
      ids, scores: of the lists; if `sided`, an axis 2 (row, column) precedes that of tokens.
    """
    tokens = np.arange(len(counts))[:, None]
    if sided:
        by_row, by_column = np.moveaxis(ids, -3, 0)
        found = np.stack([counts[tokens, by_row], counts[by_column, tokens]], axis=-3)
    else:
        found = counts[tokens, ids]
    return np.where(np.isfinite(scores), found, 0)


def theory_weights(statistics: Statistics) -> Params:
    """B, Phi^T B^T and Q as the weights that learn them, with one layer."""
    return Params(
        query_key=statistics.query_key[None],
        position=statistics.position[None],
        value=statistics.value[None],
        output=statistics.bigram,
    )


@partial(jax.jit, static_argnames=("scoring", "k"))
def theory_lists(
    theory: Params, frequencies: Frequencies, support: Support, *, scoring: str, k: int
) -> dict[str, TopLists]:
    """Lists of the theory: leaves [2 (row, column), V, k], for symmetric matrices [V, k].

    Args:
      theory: from `theory_weights`.
      support: the pairs that occur, from `support_of`.
      scoring: one of `SCORINGS`.
      k: length of the lists, at most V - 1.
    """
    of_text = {"frequencies": frequencies, "support": support, "scoring": scoring}
    scored = _flat(theory.output, **of_text)
    scored |= _layer(theory.query_key[0], theory.value[0], theory.output, **of_text)
    lists = {name: jax.vmap(partial(_top, k=k))(sides) for name, sides in scored.items()}
    symmetric = lists["interchangeability"]
    return lists | {"interchangeability": TopLists(symmetric.ids[0], symmetric.scores[0])}


@partial(jax.jit, static_argnames=("scoring", "k"))
def read_weights(
    weights: Params,
    theory: Params,
    lists: dict[str, TopLists],
    frequencies: Frequencies,
    support: Support,
    *,
    scoring: str,
    k: int,
) -> dict[str, Reading]:
    """Lists of the weights, and their agreement with the theory's lists.

    Args:
      weights: weights of L layers.
      theory: from `theory_weights`.
      lists: `theory_lists` of `theory` with the same scoring and k. They are an argument so that
        tokens with equal scores, whose order depends on rounding, have the same order at every
        step.
      support, scoring, k: as in `theory_lists`.

    Returns:
      A `Reading` for each of `MATRICES`. Its leaves have a leading axis L for those in `LAYERED`,
      and then an axis 2 (row, column), except for `interchangeability`, which is symmetric.

    Cost: 3 (L + 2) products [V,V] by [V,V], and 6 L + 3 rankings of [V,V]. Memory: that of one
    layer.
    """
    of_text = {"frequencies": frequencies, "support": support, "scoring": scoring}
    flat = partial(_flat, **of_text)
    agree = partial(_agree, k=k)
    by_theory, by_weights = flat(theory.output), flat(weights.output)
    readings = {
        "bigram": jax.vmap(agree)(by_theory["bigram"], lists["bigram"], by_weights["bigram"]),
        "interchangeability": agree(
            _first(by_theory["interchangeability"]),
            lists["interchangeability"],
            _first(by_weights["interchangeability"]),
        ),
    }
    one_layer = partial(_layer, **of_text)
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
    context: Float[Array, "V V"],
    frequencies: Frequencies,
    support: Support,
    *,
    scoring: str,
    k: int,
) -> TopLists:
    """Lists of the basis function Phi, [2 (row, column), V, k], which no single weight learns."""
    return jax.vmap(partial(_top, k=k))(_context(context, frequencies, support, scoring))


@partial(jax.jit, static_argnames="scoring")
def theory_scores(
    statistics: Statistics, support: Support, *, scoring: str
) -> dict[str, Float[Array, "V V"]]:
    """Scores of all pairs in the theory's matrices and Phi, by row; 0 of those that no list may
    hold."""
    theory, frequencies = theory_weights(statistics), Frequencies.of(statistics)
    of_text = {"frequencies": frequencies, "support": support, "scoring": scoring}
    scored = _flat(theory.output, **of_text)
    scored |= _layer(theory.query_key[0], theory.value[0], theory.output, **of_text)
    scored["context"] = _context(statistics.context, **of_text)
    return {name: jnp.where(of.listed[0], of.scores[0], 0) for name, of in scored.items()}


class _Scored(NamedTuple):
    """Scores of a matrix, and which of its entries may be listed, for rows, columns or both."""

    scores: Float[Array, "... V V"]
    listed: Bool[Array, "... V V"]


def _first(sides: _Scored) -> _Scored:
    return _Scored(sides.scores[0], sides.listed[0])


def _context(context, frequencies: Frequencies, support: Support, scoring: str) -> _Scored:
    p_y, c = frequencies.target, frequencies.context
    listed = support["context"] & _above_chance(context, p_y, c)
    return _both_sides(context, p_y, c, scoring, listed)


def _flat(output, frequencies: Frequencies, support: Support, scoring: str) -> dict[str, _Scored]:
    """Scored matrices without a layer, as rows and as columns: [2, V, V]."""
    p_x, p_y, _ = frequencies
    listed = support["bigram"] & _above_chance(output, p_x, p_y)
    bigram = _both_sides(output, p_x, p_y, scoring, listed)
    factor = bigram.scores[0]
    if scoring == "z-score":
        norms = jnp.sqrt(jnp.sum(factor * factor, axis=0, keepdims=True))
        factor = factor / jnp.where(norms > 0, norms, 1)
    alike = _Scored(matmul(factor.T, factor)[None], support["interchangeability"][None])
    return {"bigram": bigram, "interchangeability": alike}


def _layer(
    query_key, value, output, frequencies: Frequencies, support: Support, scoring: str
) -> dict[str, _Scored]:
    """Scored matrices of a layer, as rows and as columns: [2, V, V]."""
    p_x, p_y, c = frequencies
    values = _both_sides(value, c, p_x, scoring, support["value"] & (value > 0))
    composed = matmul(values.scores[0], _score(output, p_x, p_y, scoring))
    listed = support["composed"]
    keys = support["query_key"] & (query_key > 0)
    return {
        "value": values,
        "composed": _Scored(jnp.stack([composed, composed.T]), jnp.stack([listed, listed.T])),
        "query_key": _both_sides(query_key, p_x, c, scoring, keys, per_occurrence=True),
    }


def _above_chance(matrix, rows, columns) -> Bool[Array, "V V"]:
    """Whether an entry of B or Phi, or of a weight that learns it, is above 1/V or independence."""
    return (matrix > 0) | (_score(matrix, rows, columns, "independence") > 0)


def _both_sides(matrix, rows, columns, scoring: str, listed, per_occurrence=False) -> _Scored:
    scores = jnp.stack(
        [
            _score(matrix, rows, columns, scoring, per_occurrence),
            _score(matrix.T, columns, rows, scoring, per_occurrence),
        ]
    )
    return _Scored(scores, jnp.stack([listed, listed.T]))


def _score(matrix, rows, columns, scoring: str, per_occurrence: bool = False):
    # Entries may be near 1e-12, whose squares underflow in float32.
    largest = jnp.max(jnp.abs(matrix))
    largest = jnp.where(largest > 0, largest, 1)
    unit = matrix / largest
    if scoring == "raw":
        return matrix
    if scoring == "independence":
        by_column, by_row = jnp.sum(unit, axis=0), jnp.sum(unit, axis=1)
        expected = jnp.outer(rows, by_column) + jnp.outer(by_row, columns)
        beyond = unit - expected + jnp.sum(unit) * jnp.outer(rows, columns)
        # Entries that are zero up to rounding are set to zero, so that they are not ranked.
        return jnp.where(jnp.abs(beyond) > 4 * jnp.finfo(beyond.dtype).eps, largest * beyond, 0)
    if per_occurrence:
        occurs = rows[:, None] > 0
        unit = jnp.where(occurs, unit / jnp.where(occurs, rows[:, None], 1), 0)
    centred = unit - jnp.mean(unit, axis=0, keepdims=True)
    sd = jnp.sqrt(jnp.mean(centred * centred, axis=0, keepdims=True))
    return jnp.where(sd > 0, centred / jnp.where(sd > 0, sd, 1), 0)


def _top(matrix: _Scored, k: int) -> TopLists:
    scores, listed = matrix
    listed = listed & (scores > 0) & _ranks(scores)[:, None]
    best, ids = lax.top_k(_without_own(jnp.where(listed, scores, -jnp.inf), -jnp.inf), k)
    return TopLists(jnp.where(best > 0, ids, 0), jnp.where(best > 0, best, jnp.nan))


def _ranks(matrix: Float[Array, "V V"]) -> Bool[Array, " V"]:
    """Whether the entries of a row, except the token's own, are not all equal."""
    high, low = _without_own(matrix, -jnp.inf), _without_own(matrix, jnp.inf)
    return jnp.max(high, axis=1) > jnp.min(low, axis=1)


def _without_own(matrix, value):
    own = jnp.eye(matrix.shape[0], dtype=bool)
    return jnp.where(own, jnp.asarray(value, matrix.dtype), matrix)


def _agree(theory: _Scored, expected: TopLists, weights: _Scored, k: int) -> Reading:
    lists = _top(weights, k)
    here, there = jnp.isfinite(lists.scores), jnp.isfinite(expected.scores)
    same = lists.ids[:, :, None] == expected.ids[:, None, :]
    common = jnp.sum(same & here[:, :, None] & there[:, None, :], axis=(1, 2))
    size = jnp.sum(there, axis=1)
    ranked = _ranks(theory.scores) & _ranks(weights.scores)
    dtype = weights.scores.dtype
    overlap = common.astype(dtype) / jnp.maximum(size, 1).astype(dtype)
    overlap = jnp.where(ranked & (size > 0), overlap, jnp.nan)
    x, y = _rows_of_unit_size(theory.scores), _rows_of_unit_size(weights.scores)
    squares = jnp.sum(x * x, axis=1) * jnp.sum(y * y, axis=1)
    cosine = jnp.sum(x * y, axis=1) / jnp.sqrt(jnp.where(squares > 0, squares, 1))
    return Reading(lists, overlap, jnp.where(ranked, cosine, jnp.nan))


def _rows_of_unit_size(matrix):
    largest = jnp.max(jnp.abs(matrix), axis=1, keepdims=True)
    return matrix / jnp.where(largest > 0, largest, 1)

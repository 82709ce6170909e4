"""How much of a similarity is due to one direction, one token or one feature.

With A and M centred as in `assocjax.llm.similarity`, and a and m the means of their rows over
tokens, A = 1 a^T + A_c and M = 1 m^T + M_c, so that

    A^T M = n a m^T + A_c^T M_c
    ||A^T M||^2 = n^2 |a|^2 |m|^2  +  2 n a^T A_c^T M_c m  +  ||A_c^T M_c||^2
                  mean                mixed                    rest

If a token i (its row in A and M) or a feature f (a column of A or M) is left out, the rest is
centred again. That subtracts a multiple of the product of the centred rows, or columns:

    A^T M -> A^T M - c a_i m_i^T         c = n / (n-1) if "token" is centred, else 1
    A A^T -> A A^T - c a_f a_f^T         c = d / (d-1) if "feature" is centred, else 1

so that all scores without one token or feature follow from A^T M and sums over its rows.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from assocjax.arguments import check_choice
from assocjax.errors import InputError
from assocjax.llm.similarity import (
    CENTERINGS,
    Centred,
    FactoredMatrix,
    Matrix,
    centre,
    check_matrices,
    inner_product_norm,
    num_tokens,
    ratio,
    scale_rows,
    score,
)
from assocjax.precision import matmul


class MeanShare(NamedTuple):
    """Shares of ||A^T M||^2, which sum to 1: see the module's docstring.

    mean   the common mean direction; 0 if tokens are centred
    mixed  the cross term; may be negative
    rest   the differences between tokens
    """

    mean: Float[Array, ""]
    mixed: Float[Array, ""]
    rest: Float[Array, ""]


class LargestDrop(NamedTuple):
    """The largest drop of a score when one item is left out, and the index of the item; negative if
    the score always rises."""

    drop: Float[Array, ""]
    which: Int32[Array, ""]


class Dominating(NamedTuple):
    """The token, feature and column on which a score depends most.

    token    its row is left out of A and M
    feature  a dimension of the model; its column is left out of A
    theory   a column left out of M, whose rows keep their previous scale
    """

    token: LargestDrop
    feature: LargestDrop
    theory: LargestDrop


def common_mean_share(A: Matrix, M: Matrix, centering: str = "feature") -> MeanShare:
    """How much of a score is due to the direction that all tokens share.

    Args, raises: as `covariance_similarity`. NaN if the score is 0 or undefined.

    Cost: n d m multiply-adds.
    """
    A, M = check_matrices(A, M)
    check_choice("centering", centering, CENTERINGS)
    return _common_mean_share(A, M, centering)


def dominating(A: Matrix, M: Matrix, centering: str = "feature") -> Dominating:
    """The single token, dimension or column on which a score depends most, and how much.

    All candidates are scored by the identities of the module's docstring. Then two scores are
    computed again directly from the remaining entries: the score without the best candidate, and
    that without the item which holds most of the norm of A or M, since there the identities may
    give only rounding errors.

    Args: as `covariance_similarity`, with at least 3 tokens, and 2 columns in A and M.

    Raises:
      InputError, InputTypeError: as `covariance_similarity`, or fewer tokens or columns.

    Cost: n (d + m)^2 multiply-adds. Under `vmap` as `covariance_similarity`.
    """
    A, M = check_matrices(A, M)
    check_choice("centering", centering, CENTERINGS)
    if num_tokens(A) < 3:
        raise InputError(f"A and M must have at least 3 tokens; got {num_tokens(A)}")
    for name, matrix in (("A", A), ("M", M)):
        if _num_features(matrix) < 2:
            raise InputError(f"{name} must have at least 2 columns; got {_num_features(matrix)}")
    return _dominating(A, M, centering)


@partial(jax.jit, static_argnames="centering")
def _common_mean_share(A, M, centering: str) -> MeanShare:
    A, M = centre(A, centering), centre(scale_rows(M), centering)
    n = A.rows.shape[0]
    a, m = jnp.mean(A.rows, axis=0), jnp.mean(M.rows, axis=0)
    within = matmul((A.rows - a[None]).T, M.rows - m[None])
    mean = n**2 * jnp.sum(a**2) * jnp.sum(m**2)
    mixed = 2 * n * jnp.dot(a, matmul(within, m))
    rest = jnp.sum(within**2)
    total = mean + mixed + rest
    return MeanShare(*(ratio(part, total) for part in (mean, mixed, rest)))


@partial(jax.jit, static_argnames="centering")
def _dominating(A, M, centering: str) -> Dominating:
    M = scale_rows(M)
    a, m = centre(A, centering), centre(M, centering)
    n = num_tokens(A)
    shared = matmul(a.rows.T, m.rows)
    whole = score(a, m)

    c = n / (n - 1) if centering != "feature" else 1.0
    numerator = _without(
        jnp.sum(shared**2),
        jnp.sum(matmul(a.rows, shared) * m.rows, axis=1),
        jnp.sum(a.rows**2, axis=1) * jnp.sum(m.rows**2, axis=1),
        c,
    )
    left = [
        _without(
            inner_product_norm(side.rows) ** 2,
            _row_squares(side.rows),
            jnp.sum(side.rows**2, axis=1) ** 2,
            c,
        )
        for side in (a, m)
    ]

    def less_token(i):
        return score(centre(_less_token(A, i), centering), centre(_less_token(M, i), centering))

    def less_feature(f):
        return score(centre(_less_feature(A, f), centering), m)

    def less_column(f):
        return score(a, centre(_less_feature(M, f), centering))

    return Dominating(
        _largest_drop(whole, less_token, _candidates(numerator, left)),
        _largest_drop(whole, less_feature, _candidate_features(a, shared, centering)),
        _largest_drop(whole, less_column, _candidate_features(m, shared.T, centering)),
    )


def _largest_drop(whole, score_without: Callable, candidates) -> LargestDrop:
    scores = lax.map(score_without, candidates)
    best = jnp.argmin(jnp.where(jnp.isnan(scores), jnp.inf, scores))
    return LargestDrop(whole - scores[best], candidates[best])


def _candidate_features(side: Centred, shared, centering: str) -> Int32[Array, " candidates"]:
    """Features without which a score may be smallest; shared [k, other] is rows^T other."""
    inner = matmul(side.rows.T, side.rows)  # features by features, in the basis of rows
    own, mixed = jnp.sum(inner**2, axis=1), jnp.sum(shared**2, axis=1)
    squares = jnp.diagonal(inner)
    count = own.size
    if side.features is not None:
        basis = side.features
        own = jnp.sum(matmul(basis, inner) ** 2, axis=1)
        mixed = jnp.sum(matmul(basis, shared) ** 2, axis=1)
        squares = jnp.sum(matmul(basis, inner) * basis, axis=1)
        count = basis.shape[0]
    c = count / (count - 1) if centering != "token" else 1.0
    left = _without(jnp.sum(inner**2), own, squares**2, c)
    return _candidates(jnp.sum(shared**2) - c * mixed, [left])


def _candidates(numerator, left) -> Int32[Array, " candidates"]:
    """Where numerator / sqrt(prod(left)) is smallest, and where `left` may be rounding only.

    Args:
      numerator: numerator of the score without each item.
      left: squared norms of the matrices without each item. No two items can hold nearly all of
        the norm of a matrix.
    """
    scores = numerator
    for squares in left:
        known = squares > jnp.sqrt(jnp.finfo(squares.dtype).eps) * jnp.max(squares)
        scores = jnp.where(known, scores * lax.rsqrt(jnp.where(known, squares, 1)), jnp.inf)
    found = [jnp.argmin(scores), *(jnp.argmin(squares) for squares in left)]
    return jnp.stack(found).astype(jnp.int32)


def _without(total, mixed, square, c: float):
    """|x - c y|^2 of |x|^2, <x, y> and |y|^2."""
    return total - 2 * c * mixed + c**2 * square


def _row_squares(rows):
    """Sums over j of (rows rows^T)_ij^2."""
    n, k = rows.shape
    if k > n:
        return jnp.sum(matmul(rows, rows.T) ** 2, axis=1)
    return jnp.sum(matmul(rows, matmul(rows.T, rows)) * rows, axis=1)


def _num_features(matrix: Matrix) -> int:
    return matrix.right.shape[0] if isinstance(matrix, FactoredMatrix) else matrix.shape[1]


def _less_token(matrix: Matrix, i) -> Matrix:
    if isinstance(matrix, FactoredMatrix):
        return matrix._replace(left=_delete(jnp.asarray(matrix.left), i, 0))
    return _delete(matrix, i, 0)


def _less_feature(matrix: Matrix, f) -> Matrix:
    if isinstance(matrix, FactoredMatrix):
        return matrix._replace(right=_delete(jnp.asarray(matrix.right), f, 0))
    return _delete(matrix, f, 1)


def _delete(array: Array, index, axis: int) -> Array:
    kept = jnp.arange(array.shape[axis] - 1, dtype=jnp.int32)
    return jnp.take(array, kept + (kept >= index).astype(jnp.int32), axis=axis)

"""Covariance similarity of a model's vectors of tokens and a theory's rows of the same tokens.

Token i has a row in A [n,d], its vector in a model (features are dimensions), and a row in M [n,m],
its row in a matrix of the theory (features are tokens). The two are compared by their matrices of
inner products between tokens [n,n]:

    similarity(A, M) = <A A^T, M M^T> / (||A A^T|| ||M M^T||)
                     = ||A^T M||^2 / (||A^T A|| ||M^T M||)            Frobenius norms, in [0, 1]

The similarity is invariant under rotations of the features and under scalar factors. First:

1. Rows of M, not of A, are scaled to unit norm; rows of zeros are unchanged. The norm is that of
   the row before centring.
2. A and M are centred, according to `centering`:
   "feature"  subtracts the mean of each row over its features (the paper's form)
   "token"    subtracts the mean of each column over tokens (linear CKA, Kornblith et al. 2019)
   "both"     subtracts both, in either order: they commute

A direction that all tokens share survives "feature", and can account for the whole score; it does
not survive the others. So a score is to be interpreted only with its null (`assocjax.llm.nulls`).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from assocjax.arguments import check_choice
from assocjax.checks import as_array
from assocjax.errors import InputError, InputTypeError
from assocjax.precision import matmul
from assocjax.storage.display import summarized

CENTERINGS = ("feature", "token", "both")
"""Names of the means that can be subtracted before the comparison."""


@summarized
class FactoredMatrix(NamedTuple):
    """left @ right.T, a matrix [n,m] that is never formed if its rank r is below m.

    Rows belong to tokens, columns to features; left is [n,r] and right [m,r].
    """

    left: Float[Array, "n r"]
    right: Float[Array, "m r"]


Matrix = Any  # Float[ArrayLike, "n m"] or FactoredMatrix: jaxtyping has no union of pytrees


class Centred(NamedTuple):
    """A centred matrix, rows @ features.T, features orthonormal, and ||rows|| = 1.

    Inner products between tokens are those of `rows` [n,k]. `features` [m,k] is None for the
    identity. `rows` is zero if centring leaves only rounding errors.
    """

    rows: Float[Array, "n k"]
    features: Float[Array, "m k"] | None


def covariance_similarity(A: Matrix, M: Matrix, centering: str = "feature") -> Float[Array, ""]:
    """Similarity of two sets of vectors of the same tokens: see the module's docstring.

    Args:
      A: [n,d], or a `FactoredMatrix`; float32 or float64.
      M: [n,m], or a `FactoredMatrix`; its rows are scaled to unit norm.
      centering: "feature", "token" or "both", static.

    Returns:
      A scalar in [0, 1], in the wider dtype of the two. NaN if A or M is zero after centring.

    Raises:
      InputError: A and M have different numbers of tokens, or fewer than 2; unknown centering.
      InputTypeError: entries are not float32 or float64.

    Cost: n d m + n d min(n,d) + n m min(n,m) multiply-adds, the last once for all layers under
      `vmap(..., in_axes=(0, None))`. A factored [n,m] of rank r < m costs as much as [n,r], plus a
      QR of right, m r^2. Works under `jit`, `vmap` and `grad` (for a factored matrix if `right`,
      centred, has full rank).
    Source: paper, section 5.3, for "feature"; Kornblith et al. 2019 for "token".
    """
    A, M = check_matrices(A, M)
    check_choice("centering", centering, CENTERINGS)
    return _covariance_similarity(A, M, centering)


def check_matrices(A: Matrix, M: Matrix) -> tuple[Matrix, Matrix]:
    """Both as JAX arrays, or factors, of the same dtype.

    Raises:
      InputError, InputTypeError: as `covariance_similarity`.
    """
    A, M = _check_matrix("A", A), _check_matrix("M", M)
    n, other = num_tokens(A), num_tokens(M)
    if n != other:
        raise InputError(f"M must have a row for each of the {n} tokens of A; got {other}")
    if n < 2:
        raise InputError(f"A and M must have at least 2 tokens; got {n}")
    dtype = np.result_type(*(leaf.dtype for leaf in jax.tree.leaves((A, M))))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), (A, M))


def num_tokens(matrix: Matrix) -> int:
    return jax.tree.leaves(matrix)[0].shape[0]


def scale_rows(M: Matrix) -> Matrix:
    """Rows scaled to unit norm, except rows of zeros. A factored matrix stays factored."""
    if not isinstance(M, FactoredMatrix):
        return M * _inverse_norms(M)
    # Inner products between rows are the same with the triangular factor of `right`.
    left, right = M.left * _inverse_largest(M.left), M.right * _inverse_largest(M.right)
    coordinates = matmul(left, jnp.linalg.qr(right, mode="r").T)
    return FactoredMatrix(left * _inverse_norms(coordinates), right)


def centre(matrix: Matrix, centering: str) -> Centred:
    """Centres a matrix and scales all of it to norm 1."""
    matrix = jax.tree.map(lambda leaf: leaf * _inverse_largest(leaf), matrix)
    if isinstance(matrix, FactoredMatrix) and matrix.right.shape[0] <= matrix.right.shape[1]:
        matrix = matmul(matrix.left, matrix.right.T)  # type: ignore[union-attr]
    if not isinstance(matrix, FactoredMatrix):
        before, rows, features = jnp.sum(matrix**2), matrix, None
        if centering != "token":
            rows = rows - jnp.mean(rows, axis=1, keepdims=True)
    else:
        left, right = jnp.asarray(matrix.left), jnp.asarray(matrix.right)
        before = jnp.sum(matmul(left.T, left) * matmul(right.T, right))
        if centering != "token":
            right = right - jnp.mean(right, axis=0, keepdims=True)
        features, triangle = jnp.linalg.qr(right)
        rows = matmul(left, triangle.T)
    if centering != "feature":
        rows = rows - jnp.mean(rows, axis=0, keepdims=True)
    squares = jnp.sum(rows**2)
    # Equal numbers minus their mean leave rounding errors, which would be similar to other ones.
    rounding = lax.stop_gradient((8 * jnp.finfo(rows.dtype).eps) ** 2 * before)
    defined = squares > rounding
    rows = jnp.where(defined, rows, 0) * lax.rsqrt(jnp.where(defined, squares, 1))
    return Centred(rows, features)


def inner_product_norm(rows: Float[Array, "n k"]) -> Float[Array, ""]:
    """||A A^T|| = ||A^T A||, by the smaller of the two."""
    n, k = rows.shape
    return jnp.linalg.norm(matmul(rows.T, rows) if k <= n else matmul(rows, rows.T))


def score(A: Centred, M: Centred) -> Float[Array, ""]:
    """Similarity of matrices that are already centred and scaled."""
    # Sums of squares instead of norms, whose derivative at 0 is undefined.
    shared = jnp.sum(matmul(A.rows.T, M.rows) ** 2)
    return ratio(shared, inner_product_norm(A.rows) * inner_product_norm(M.rows))


def token_shares(A: Centred, M: Centred) -> Float[Array, " n"]:
    """The share of each token in the similarity, which they sum to.

    share_i = sum_j (A A^T)_ij (M M^T)_ij / (||A A^T|| ||M M^T||)
    """
    shared = jnp.sum(matmul(A.rows, matmul(A.rows.T, M.rows)) * M.rows, axis=1)
    return ratio(shared, inner_product_norm(A.rows) * inner_product_norm(M.rows))


def ratio(numerator: Array, denominator: Array) -> Array:
    """The ratio; NaN where the denominator is zero, without NaN in derivatives elsewhere."""
    defined = denominator > 0
    return jnp.where(defined, numerator / jnp.where(defined, denominator, 1), jnp.nan)


@partial(jax.jit, static_argnames="centering")
def _covariance_similarity(A, M, centering: str):
    return score(centre(A, centering), centre(scale_rows(M), centering))


def _check_matrix(name: str, matrix: Matrix) -> Matrix:
    def array(part: str, value: Any) -> Array:
        value = as_array(part, value)
        if value.dtype not in (jnp.float32, jnp.float64):
            raise InputTypeError(f"{part} must be float32 or float64; got dtype {value.dtype}")
        return jnp.asarray(value)

    if isinstance(matrix, FactoredMatrix):
        matrix = FactoredMatrix(*(array(f"{name}.{p}", v) for p, v in matrix._asdict().items()))
        parts = {f"{name}.left": matrix.left, f"{name}.right": matrix.right}
    else:
        matrix = array(name, matrix)
        parts = {name: matrix}
    for part, value in parts.items():
        if value.ndim != 2 or 0 in value.shape:
            raise InputError(f"{part} must have shape [n, features]; got {value.shape}")
    ranks = {value.shape[1] for value in parts.values()}
    if isinstance(matrix, FactoredMatrix) and len(ranks) > 1:
        raise InputError(f"{name}.left and {name}.right must have one rank; got {sorted(ranks)}")
    return matrix


def _inverse_largest(array: Array) -> Array:
    """A factor without effect on scores, so that squares of small entries do not underflow."""
    largest = lax.stop_gradient(jnp.max(jnp.abs(array)))
    return 1 / jnp.where(largest > 0, largest, 1)


def _inverse_norms(rows: Float[Array, "n k"]) -> Float[Array, "n 1"]:
    largest = lax.stop_gradient(jnp.max(jnp.abs(rows), axis=1, keepdims=True))
    unit = 1 / jnp.where(largest > 0, largest, 1)
    squares = jnp.sum((rows * unit) ** 2, axis=1, keepdims=True)
    return jnp.where(largest > 0, unit * lax.rsqrt(jnp.where(largest > 0, squares, 1)), 0)

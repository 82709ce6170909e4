"""How alike a model's vectors of tokens and a theory's rows of tokens are: covariance similarity.

Token i has a row in A [n,d], what a model makes of it (features are dimensions), and a row in
M [n,m], what the theory says of it (features are tokens). Both are compared by which tokens they
put side by side, that is by their matrices of inner products between tokens [n,n]:

    similarity(A, M) = <A A^T, M M^T> / (||A A^T|| ||M M^T||)
                     = ||A^T M||^2 / (||A^T A|| ||M^T M||)            Frobenius norms, in [0, 1]

It depends neither on a rotation of the features nor on a factor. Rows of M are scaled and both
sides centred first, in this order:

1. Rows of M, not of A, are scaled to unit norm; a row of zeros stays. The norm is that of the row
   as it is, before any centring.
2. `centering` of both sides:
   "feature"  minus the mean of each row over its features (the paper's form)
   "token"    minus the mean of each column over tokens (linear CKA, Kornblith et al. 2019)
   "both"     minus both, in either order: they commute

A direction that all tokens share survives "feature", and can be the whole score; it does not
survive the others. So no score means much without its null (`assocjax.llm.nulls`).
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

CENTERINGS = ("feature", "token", "both")
"""What can be subtracted before comparing."""


class FactoredMatrix(NamedTuple):
    """left @ right.T, a matrix [n,m] that is never formed where its rank r is below m.

    Rows belong to tokens, columns to features; so left is [n,r] and right [m,r].
    """

    left: Float[Array, "n r"]
    right: Float[Array, "m r"]


Matrix = Any  # Float[ArrayLike, "n m"] or FactoredMatrix: jaxtyping has no union of pytrees


class Centred(NamedTuple):
    """A centred matrix, rows @ features.T, features orthonormal, and ||rows|| = 1.

    Inner products between tokens are those of `rows` [n,k] alone. `features` [m,k] is None for the
    identity. `rows` is zero where nothing is left of a matrix but rounding.
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
      A scalar in [0, 1], in the wider dtype of the two. NaN where a side is zero after centring.

    Raises:
      InputError: different numbers of tokens, fewer than 2, or an unknown centering.
      InputTypeError: entries that are not float32 or float64.

    Cost: n d m + n d min(n,d) + n m min(n,m) multiply-adds, the last once for all layers under
      `vmap(..., in_axes=(0, None))`. A factored [n,m] of rank r < m counts as [n,r], and a QR of
      right, m r^2. Works under `jit`, `vmap` and `grad` (of a factored matrix where `right`,
      centred, has full rank).
    Source: paper, section 5.3, for "feature"; Kornblith et al. 2019 for "token".
    """
    A, M = check_matrices(A, M)
    check_choice("centering", centering, CENTERINGS)
    return _covariance_similarity(A, M, centering)


def check_matrices(A: Matrix, M: Matrix) -> tuple[Matrix, Matrix]:
    """Both as JAX arrays, or factors, of one dtype.

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
    """Rows scaled to unit norm; those of zeros stay. A factored matrix stays factored."""
    if not isinstance(M, FactoredMatrix):
        return M * _inverse_norms(M)
    # The triangular factor stands for `right` in every inner product between rows.
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
    # What is left of equal numbers minus their mean is rounding, and similar to other rounding.
    rounding = lax.stop_gradient((8 * jnp.finfo(rows.dtype).eps) ** 2 * before)
    defined = squares > rounding
    rows = jnp.where(defined, rows, 0) * lax.rsqrt(jnp.where(defined, squares, 1))
    return Centred(rows, features)


def inner_product_norm(rows: Float[Array, "n k"]) -> Float[Array, ""]:
    """||A A^T|| = ||A^T A||, by the smaller of the two."""
    n, k = rows.shape
    return jnp.linalg.norm(matmul(rows.T, rows) if k <= n else matmul(rows, rows.T))


def score(A: Centred, M: Centred) -> Float[Array, ""]:
    """Similarity of what is centred and scaled already."""
    # The derivative of a norm at 0 is undefined: sums of squares are smooth there.
    shared = jnp.sum(matmul(A.rows.T, M.rows) ** 2)
    return ratio(shared, inner_product_norm(A.rows) * inner_product_norm(M.rows))


def ratio(numerator: Array, denominator: Array) -> Array:
    """NaN where the denominator is zero, without NaN in derivatives elsewhere."""
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
    """A factor that no score depends on, so that squares of small entries do not vanish."""
    largest = lax.stop_gradient(jnp.max(jnp.abs(array)))
    return 1 / jnp.where(largest > 0, largest, 1)


def _inverse_norms(rows: Float[Array, "n k"]) -> Float[Array, "n 1"]:
    largest = lax.stop_gradient(jnp.max(jnp.abs(rows), axis=1, keepdims=True))
    unit = 1 / jnp.where(largest > 0, largest, 1)
    squares = jnp.sum((rows * unit) ** 2, axis=1, keepdims=True)
    return jnp.where(largest > 0, unit * lax.rsqrt(jnp.where(largest > 0, squares, 1)), 0)

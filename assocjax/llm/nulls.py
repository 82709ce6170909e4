"""The null distribution of a similarity: tokens are given the theory's rows of other tokens.

A shuffle p permutes the rows of M. Columns need no permutation, since inner products between tokens
do not depend on the order of features. Centring and norms are unchanged. With K = M M^T and
G = A A^T, both centred, only

    ||A^T M_p||^2 = sum_ij G_ij K_p(i)p(j)

changes: a gather and an inner product for each shuffle, instead of the matrix product A^T M_p.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int32

from assocjax.arguments import LARGEST_DRAWS, NUM_SHUFFLES, check_choice, check_integer
from assocjax.checks import as_array, is_traced
from assocjax.errors import InputError, InputTypeError
from assocjax.llm.similarity import (
    CENTERINGS,
    Matrix,
    centre,
    check_matrices,
    num_tokens,
    ratio,
    scale_rows,
)
from assocjax.precision import matmul

_BLOCK_ENTRIES = 1 << 22  # entries of K gathered at once, for all shuffles


class Null(NamedTuple):
    """A similarity and its permutation null.

    similarity  of the true pairing
    mean, sd    over shuffles; sd with n - 1 in its denominator
    z           (similarity - mean) / sd; NaN where sd is 0
    p           (1 + number of shuffles that reach the similarity) / (1 + number of shuffles)
    """

    similarity: Float[Array, ""]
    mean: Float[Array, ""]
    sd: Float[Array, ""]
    z: Float[Array, ""]
    p: Float[Array, ""]


def permutation_null(
    A: Matrix,
    M: Matrix,
    *,
    num_shuffles: int = NUM_SHUFFLES,
    seed: int = 0,
    centering: str = "feature",
    bins: Int32[ArrayLike, " n"] | None = None,
) -> Null:
    """Compares a similarity with those of shuffled tokens.

    Args:
      A, M, centering: as in `covariance_similarity`.
      num_shuffles: at least 2; the smallest possible p is 1 / (1 + num_shuffles). Static.
      seed: seed of the shuffles; the same seed gives the same shuffles for any A and M of n tokens.
      bins: the bin of each token; tokens are shuffled only within their bin, so that effects which
        depend on the bin alone (see `frequency_bins`) are part of the null.

    Returns:
      `Null`, scalars. A shuffle within rounding (32 eps) of the similarity counts as reaching it.

    Raises:
      InputError, InputTypeError: as `covariance_similarity`; num_shuffles is below 2; bins are not
        one integer for each token, or every token is alone in its bin.

    Cost: n^2 (d + m + num_shuffles) multiply-adds and n^2 num_shuffles gathers. Memory: n^2 +
      num_shuffles n numbers and about 2^22 more. Under `vmap` over layers, in_axes=(0, None), the
      layers share the permuted matrices, and a layer and shuffle costs n^2 multiply-adds.
    Source: this package; Good, Permutation Tests (2000), for p.
    """
    A, M = check_matrices(A, M)
    check_choice("centering", centering, CENTERINGS)
    num_shuffles = check_integer("num_shuffles", num_shuffles, minimum=2, maximum=LARGEST_DRAWS)
    if not is_traced(seed):
        seed = check_integer("seed", seed, minimum=0)
    n = num_tokens(A)
    bins = jnp.zeros(n, jnp.int32) if bins is None else _check_bins(bins, n)
    return _permutation_null(A, M, seed, bins, num_shuffles, centering)


def frequency_bins(counts: ArrayLike, num_bins: int) -> Int32[np.ndarray, " n"]:
    """Divides tokens by the rank of their count into bins of equal size, up to one.

    Args:
      counts: number of occurrences of each token [n]; among equal counts the first ranks lower.
      num_bins: from 1 to n / 2.

    Returns:
      int32 [n], 0 for the rarest.

    Raises:
      InputError: counts are not a vector, or a bin has fewer than two tokens.
    """
    num_bins = check_integer("num_bins", num_bins, minimum=1)
    counts = np.asarray(as_array("counts", counts))
    if counts.ndim != 1:
        raise InputError(f"counts must have shape [n]; got {counts.shape}")
    if 2 * num_bins > counts.size:
        raise InputError(
            f"num_bins must leave two tokens in a bin, at most {counts.size // 2} for "
            f"{counts.size} tokens; got {num_bins}"
        )
    rank = np.empty(counts.size, np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(counts.size)
    return (rank * num_bins // counts.size).astype(np.int32)


def _check_bins(bins, n: int) -> Int32[Array, " n"]:
    array = as_array("bins", bins)
    shape = array.shape
    if shape != (n,):
        raise InputError(f"bins must have one entry for each of {n} tokens; got shape {shape}")
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise InputTypeError(f"bins must be integers; got dtype {array.dtype}")
    if not is_traced(array) and np.unique(np.asarray(array)).size == n:
        raise InputError("bins must hold two tokens somewhere; every token is alone in its bin")
    return jnp.asarray(array, jnp.int32)


@partial(jax.jit, static_argnames=("num_shuffles", "centering"))
def _permutation_null(A, M, seed, bins, num_shuffles: int, centering: str) -> Null:
    rows = centre(A, centering).rows
    theory = centre(scale_rows(M), centering).rows
    K = matmul(theory, theory.T)
    shuffles = _shuffles(seed, bins, num_shuffles)
    inner, squares = _relabelled(rows, K, shuffles)
    scores = ratio(inner, jnp.sqrt(squares) * jnp.linalg.norm(K))
    similarity, null = scores[0], scores[1:]
    mean, sd = jnp.mean(null), jnp.std(null, ddof=1)
    rounding = 32 * jnp.finfo(null.dtype).eps
    reached = jnp.sum(null >= similarity - rounding * similarity).astype(null.dtype)
    p = jnp.where(jnp.isnan(similarity), jnp.nan, (1 + reached) / (1 + num_shuffles))
    return Null(similarity, mean, sd, ratio(similarity - mean, sd), p)


def _shuffles(seed, bins: Int32[Array, " n"], num_shuffles: int) -> Int32[Array, "S+1 n"]:
    """The identity, and random permutations of the tokens within their bins."""
    n = bins.size
    tokens = jnp.arange(n, dtype=jnp.int32)
    places = jnp.argsort(bins, stable=True)

    def shuffle(bits):
        shuffled = lax.sort((bins, bits, tokens), num_keys=2)[2]
        return jnp.zeros_like(tokens).at[places].set(shuffled)

    bits = jax.random.bits(jax.random.key(seed), (num_shuffles, n))
    return jnp.concatenate([tokens[None], jax.vmap(shuffle)(bits)])


def _relabelled(
    rows: Float[Array, "n k"], K: Float[Array, "n n"], shuffles: Int32[Array, "S n"]
) -> tuple[Float[Array, " S"], Float[Array, ""]]:
    """sum_ij G_ij K[p_i, p_j] of every shuffle p, and ||G||^2, of G = rows rows^T."""
    S, n = shuffles.shape
    size = max(1, min(n, _BLOCK_ENTRIES // (S * n)))
    blocks = -(-n // size)
    index = jnp.arange(blocks * size, dtype=jnp.int32).reshape(blocks, size)

    def add_block(total, i):
        inside = (i < n)[:, None]
        i = jnp.minimum(i, n - 1)
        G = matmul(jnp.where(inside, rows[i], 0), rows.T)
        here = shuffles[:, i, None], shuffles[:, None, :]
        part = K.at[here].get(mode="promise_in_bounds")
        inner, squares = total
        inner = inner + matmul(part.reshape(S, -1), G.reshape(-1))
        return (inner, squares + jnp.sum(G**2)), None

    zeros = jnp.zeros(S, rows.dtype), jnp.zeros((), rows.dtype)
    return lax.scan(add_block, zeros, index)[0]

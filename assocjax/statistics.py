"""The three basis functions of a corpus and what they compose to.

With x = tokens[:, :-1], y = tokens[:, 1:], one-hots X and Y, residual R = Y - 1/V and uniform
causal attention A_0 (row t holds 1/(t+1) at positions 0..t):

    B     = (1/M) sum_n X^T R          bigram               what follows a token
    Phi   = (1/M) sum_n R^T A_0 X      context              what stands before a token
    Sigma = B^T B                      interchangeability   which tokens follow the same tokens
    G     = Phi^T Sigma                composed             how well one token predicts another
    Q, Delta = `attention_correlation` of G                 which keys a query should attend to

Nothing here builds a one-hot array. B is N T scatter-adds, Phi is N T^2 / 2 scatter-adds, Q is
N T^2 / 2 gathers and as many scatter-adds. Sequences pass in blocks whose working set stays in
cache. Sums stay exact for large corpora in two ways. Counts are 32-bit integers, exact up to
2^31 positions. Weighted sums are added up over chunks of about 2 V^2 pairs, and the chunks into a
pair of floats (value and rounding error, by Knuth's two-sum), so that the rounding error of a sum
is that of one chunk, whatever the size of the corpus.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int32

from assocjax.checks import check_tokens
from assocjax.errors import InputError

# Full float32 products on every device: by default GPUs and TPUs round the factors to fewer bits,
# which is more than the differences that this package measures.
matmul = partial(jnp.matmul, precision=lax.Precision.HIGHEST)

_BLOCK_PAIRS = 1 << 17  # (query, key) pairs a block: some megabytes of indices and weights
_CHUNK_PAIRS = 1 << 20  # at least so many pairs between two-sums, which cost V^2
_LARGEST_VOCAB = 46_340  # V^2 must fit a 32-bit index


@struct.dataclass
class Statistics:
    """What the theory needs to know of a corpus: see the module's docstring for the definitions.

    All matrices are [V,V]. `*_frequency` are the marginals that the matrices were centred from:
    the share of valid positions whose input (or target) is token i, and the mean attention weight
    that token j receives under uniform attention; each sums to 1. `num_positions` is M.
    """

    bigram: Float[Array, "V V"]
    context: Float[Array, "V V"]
    interchangeability: Float[Array, "V V"]
    value: Float[Array, "V V"]
    composed: Float[Array, "V V"]
    query_key: Float[Array, "V V"]
    position: Float[Array, " T"]
    input_frequency: Float[Array, " V"]
    target_frequency: Float[Array, " V"]
    context_frequency: Float[Array, " V"]
    num_positions: Int32[Array, ""]


def corpus_statistics(
    tokens: ArrayLike, vocab_size: int, mask: ArrayLike | None = None
) -> Statistics:
    """Computes the basis functions of a corpus and their compositions.

    A masked position is neither a query nor a key nor a target, so that padding, on either side,
    counts in nothing.

    Args:
      tokens: integer array [N, T+1]; inputs are `tokens[:, :-1]`, targets `tokens[:, 1:]`.
      vocab_size: V, static.
      mask: boolean array [N, T], False where the input or the target is padding.

    Returns:
      `Statistics` in JAX's default floating dtype.

    Raises:
      InputError: wrong shapes, token ids outside [0, V), no valid position, or V > 46,340.
      InputTypeError: tokens that are not integers or a mask that is not boolean.

    Cost: time N T^2 + 3 V^3, memory about 12 V^2 floats; works under `jit`, `vmap` and `grad`.
    Source: paper, section 4 (basis functions) and Theorem 4.1.
    """
    tokens, mask = check_tokens(tokens, mask, vocab_size)
    if vocab_size > _LARGEST_VOCAB:
        raise InputError(f"vocab_size must be at most {_LARGEST_VOCAB}; got {vocab_size}")
    return _corpus_statistics(tokens, vocab_size, mask)


def attention_correlation(
    tokens: ArrayLike, matrix: Float[Array, "V V"], mask: ArrayLike | None = None
) -> tuple[Float[Array, "V V"], Float[Array, " T"]]:
    """Correlates what a key says about the target with where it stands: (Q[Gamma], Delta[Gamma]).

        m[t,k] = Gamma[x_k, y_t] - mean_j Gamma[x_k, j]
        D[t,k] = (m[t,k] - mean_{k'<=t} m[t,k']) / (t+1)        for k <= t
        Q = (1/M) sum_n X^T D_n X         Delta[d] = (1/M) sum_n sum_t D_n[t,t-d]

    It is minus the gradient of the loss with respect to (W_l, P_l) at uniform attention and
    uniform predictions, where Gamma = V_l W_O. It is linear in Gamma.

    Args:
      tokens: integer array [N, T+1].
      matrix: Gamma, floating array [V,V].
      mask: boolean array [N, T] or None.

    Returns:
      Q [V,V] (rows are query tokens) and Delta [T], in the dtype of `matrix`.

    Raises:
      InputError, InputTypeError: as `corpus_statistics`, or `matrix` is not square.

    Cost: N T^2 / 2 gathers and scatter-adds. Source: paper, Lemma D.8 at the zero start.
    """
    if jnp.ndim(matrix) != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"matrix must have shape [V, V]; got {jnp.shape(matrix)}")
    tokens, mask = check_tokens(tokens, mask, matrix.shape[0])
    return _attention_correlation(tokens, matrix, mask)


@partial(jax.jit, static_argnames="vocab_size")
def _corpus_statistics(tokens, vocab_size: int, mask) -> Statistics:
    V, T = vocab_size, mask.shape[1]
    q, k = _causal_pairs(T)
    dtype = jnp.result_type(float)

    def add_block(sums, block):
        bigram, context, inputs, targets = sums
        x, y, valid = block  # [T, block]
        one = valid.astype(jnp.int32)
        weight = jnp.where(valid[q] & valid[k], 1 / _num_keys(valid, dtype)[q], 0)
        return (
            bigram.at[x * V + y].add(one),
            context.at[y[q] * V + x[k]].add(weight),
            inputs.at[x].add(one),
            targets.at[y].add(one),
        )

    counts = partial(jnp.zeros, dtype=jnp.int32)
    zeros = (counts(V * V), jnp.zeros(V * V, dtype), counts(V), counts(V))
    bigram, context, inputs, targets = _sum_blocks(add_block, zeros, V, tokens, mask)
    num_positions = jnp.sum(inputs)
    M = num_positions.astype(dtype)

    joint = bigram.reshape(V, V).astype(dtype) / M
    context = context.reshape(V, V) / M
    B = joint - jnp.mean(joint, axis=1, keepdims=True)
    Phi = context - jnp.mean(context, axis=0, keepdims=True)
    value = matmul(Phi.T, B.T)
    composed = matmul(value, B)
    query_key, position = _attention_correlation(tokens, composed, mask)
    return Statistics(
        bigram=B,
        context=Phi,
        interchangeability=matmul(B.T, B),
        value=value,
        composed=composed,
        query_key=query_key,
        position=position,
        input_frequency=inputs.astype(dtype) / M,
        target_frequency=targets.astype(dtype) / M,
        context_frequency=jnp.sum(context, axis=0),
        num_positions=num_positions,
    )


@jax.jit
def _attention_correlation(tokens, matrix, mask):
    V, T = matrix.shape[0], mask.shape[1]
    q, k = _causal_pairs(T)
    centred = (matrix - jnp.mean(matrix, axis=1, keepdims=True)).reshape(-1)

    def add_block(sums, block):
        query_key, lags = sums
        x, y, valid = block  # [T, block]
        num_keys = _num_keys(valid, matrix.dtype)
        pair = valid[q] & valid[k]
        m = jnp.where(pair, centred[x[k] * V + y[q]], 0)
        mean = jax.ops.segment_sum(m, q, T, indices_are_sorted=True) / num_keys
        D = jnp.where(pair, m - mean[q], 0) / num_keys[q]
        return query_key.at[x[q] * V + x[k]].add(D), lags + jnp.sum(D, axis=1)

    zeros = jnp.zeros(V * V, matrix.dtype), jnp.zeros(len(q), matrix.dtype)
    query_key, lags = _sum_blocks(add_block, zeros, V, tokens, mask)
    M = jnp.sum(mask).astype(matrix.dtype)
    position = jax.ops.segment_sum(lags, q - k, T)
    return query_key.reshape(V, V) / M, position / M


def _causal_pairs(T: int) -> tuple[np.ndarray, np.ndarray]:
    """The T (T+1) / 2 pairs (query position, key position <= it), ordered by query."""
    q, k = np.tril_indices(T)
    return q.astype(np.int32), k.astype(np.int32)


def _num_keys(valid: Bool[Array, "T block"], dtype) -> Float[Array, "T block"]:
    """Valid keys at or before each position; 1 where there are none, so that it can divide."""
    return jnp.maximum(jnp.cumsum(valid, axis=0), 1).astype(dtype)


def _sum_blocks(add_block: Callable, zeros: Any, vocab_size: int, tokens, mask) -> Any:
    """Adds up `add_block` over all sequences: blocks in place, chunks of blocks by two-sums."""
    N, T = mask.shape
    pairs = T * (T + 1) // 2
    block = max(1, min(N, _BLOCK_PAIRS // pairs))
    blocks = -(-N // block)
    chunk = max(1, min(blocks, max(2 * vocab_size**2, _CHUNK_PAIRS) // (block * pairs)))
    chunks = -(-blocks // chunk)
    padding = chunks * chunk * block - N

    def blocked(a):  # [N, T] -> [chunks, chunk, T, block]; padding sequences are masked
        a = jnp.pad(a, ((0, padding), (0, 0)))
        return a.reshape(chunks, chunk, block, T).swapaxes(2, 3)

    sequences = jax.tree.map(blocked, (tokens[:, :-1], tokens[:, 1:], mask))

    def sum_chunk(sequences):
        return lax.scan(lambda sums, b: (add_block(sums, b), None), zeros, sequences)[0]

    if chunks == 1:
        return sum_chunk(jax.tree.map(lambda a: a[0], sequences))

    def add_chunk(carry, sequences):
        sums = jax.tree.map(_two_sum, *carry, sum_chunk(sequences))
        return jax.tree.transpose(jax.tree.structure(zeros), jax.tree.structure((0, 0)), sums), None

    (total, error), _ = lax.scan(add_chunk, (zeros, zeros), sequences)
    return jax.tree.map(jnp.add, total, error)


def _two_sum(total, error, x):
    """Adds x to the unevaluated sum total + error, in twice the working precision."""
    new = total + x
    shift = new - total
    error = error + ((total - (new - shift)) + (x - shift))  # what `new` has rounded off
    normal = new + error
    return normal, error - (normal - new)

"""The three basis functions of a corpus and their compositions.

With x = tokens[:, :-1], y = tokens[:, 1:], one-hots X and Y, residual R = Y - 1/V and uniform
causal attention A_0 (row t holds 1/(t+1) at positions 0..t):

    B     = (1/M) sum_n X^T R          bigram               which tokens follow a token
    Phi   = (1/M) sum_n R^T A_0 X      context              which tokens precede a token
    Sigma = B^T B                      interchangeability   which tokens follow the same tokens
    B B^T                              substitutability     which are followed by the same tokens
    G     = Phi^T Sigma                composed             how well one token predicts another
    Q, Delta = `attention_correlation` of G                 which keys a query should attend to

Nothing here builds a one-hot array. B takes N T additions, Phi N T^2 / 2, and Q N T^2 / 2 reads and
as many additions. If the corpus is in host memory, they are computed in float64 by
`assocjax.statistics.loops`; under a transformation or on a GPU, in JAX's default dtype by
`assocjax.statistics.scatter`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, ArrayLike, Float, Int32

from assocjax.checks import Sequences, as_array, check_corpus, check_tokens
from assocjax.errors import InputError, InputTypeError
from assocjax.precision import matmul
from assocjax.statistics import loops, scatter
from assocjax.storage.display import summarized


@summarized
@struct.dataclass
class Statistics:
    """The statistics of a corpus that the leading terms need, defined in the module's docstring.

    `substitutability` is that of a model with an embedding (`theories.leading_factored`).

    All matrices are [V,V]. The marginals `input_frequency` and `target_frequency` are the shares of
    valid positions whose input or target is token i, and `context_frequency` is the mean attention
    weight that token i receives under uniform attention; each sums to 1. `num_positions` is M.
    """

    bigram: Float[Array, "V V"]
    context: Float[Array, "V V"]
    interchangeability: Float[Array, "V V"]
    substitutability: Float[Array, "V V"]
    value: Float[Array, "V V"]
    composed: Float[Array, "V V"]
    query_key: Float[Array, "V V"]
    position: Float[Array, " T"]
    input_frequency: Float[Array, " V"]
    target_frequency: Float[Array, " V"]
    context_frequency: Float[Array, " V"]
    num_positions: Int32[Array, ""]


def corpus_statistics(
    data: Sequences | ArrayLike, vocab_size: int | None = None, mask: ArrayLike | None = None
) -> Statistics:
    """Computes the basis functions of a corpus and their compositions.

    A masked position is neither a query nor a key nor a target, so padding, left or right, has no
    effect.

    Args:
      data: `TokenData`, a `TokenFile`, which is read completely, or an integer array [N, T+1] with
        inputs `tokens[:, :-1]` and targets `tokens[:, 1:]`.
      vocab_size: V, static; for an array only.
      mask: boolean array [N, T], False where the input or the target is padding; for an array only.

    Returns:
      `Statistics` in JAX's default floating dtype. B and Phi are summed in float64 and rounded
      once; under a transformation or on a GPU they are summed in the default dtype.

    Raises:
      InputError: wrong shapes, token ids outside [0, V), no valid position; no `vocab_size` for an
        array; or, for `TokenData` or a `TokenFile`, a mask or another `vocab_size` than its own.
      InputTypeError: tokens that are not integers or a mask that is not boolean.

    Examples:
      >>> statistics = corpus_statistics([[0, 1, 0]], vocab_size=2)  # 1 follows 0, and 0 follows 1
      >>> statistics.bigram.tolist()
      [[-0.25, 0.25], [0.25, -0.25]]

    Cost: time N T^2 + 4 V^3, memory about 13 V^2 float64 and 50 bytes per position. Loops are
    divided among threads. The very first call compiles them, which takes seconds; the first call of
    a later process loads them (`benchmarks/cold_start.py`). Works under `jit` and `vmap`.
    Source: paper, section 4 (basis functions) and Theorem 4.1.
    """
    tokens, mask, V = check_corpus(data, vocab_size, mask)
    dtype = jnp.result_type(float)
    if loops.on_host(tokens, mask):
        block = loops.lay_out(tokens, mask, V)
        counts: Any = loops.count_bigrams(block, V)
        inputs, targets = counts.sum(axis=1), counts.sum(axis=0)
        centred = counts - inputs[:, None] / V
        context: Any = loops.sum_contexts(block, block.first, 1 / block.num_keys, np.zeros((V, V)))
    else:
        counts = scatter.count_bigrams(tokens, mask, V)
        inputs, targets = (jnp.sum(counts, axis, dtype=counts.dtype) for axis in (1, 0))
        centred = scatter.centred_counts(counts, inputs, dtype)
        context = scatter.sum_contexts(tokens, mask, V)
    num_positions = inputs.sum(dtype=inputs.dtype)
    M = num_positions.astype(context.dtype)
    f, g, a = (each.astype(context.dtype) / M for each in (inputs, targets, context.sum(axis=0)))
    Phi = (context - context.mean(axis=0)[None]) / M
    basis = (jnp.asarray(each, dtype) for each in (centred / M, Phi, f, g, a))
    statistics = _compose(*basis, jnp.asarray(num_positions, jnp.int32))
    query_key, position = _correlate(tokens, statistics.composed, mask)
    return statistics.replace(query_key=query_key, position=position)


def attention_correlation(
    data: Sequences | ArrayLike, matrix: Float[ArrayLike, "V V"], mask: ArrayLike | None = None
) -> tuple[Float[Array, "V V"], Float[Array, " T"]]:
    """Sums how much attention to a key helps the prediction, by token pair (Q) and lag (Delta).

        m[t,k] = Gamma[x_k, y_t] - mean_j Gamma[x_k, j]
        D[t,k] = (m[t,k] - mean_{k'<=t} m[t,k']) / (t+1)        for k <= t
        Q = (1/M) sum_n X^T D_n X         Delta[d] = (1/M) sum_n sum_t D_n[t,t-d]

    (Q, Delta) is minus the gradient of the loss with respect to (W_l, P_l) at uniform attention and
    uniform predictions, where Gamma = V_l W_O. It is linear in Gamma.

    Args:
      data, mask: as in `corpus_statistics`.
      matrix: Gamma, floating array [V,V].

    Returns:
      Q [V,V] (rows are query tokens) and Delta [T], in the dtype of `matrix`.

    Raises:
      InputError, InputTypeError: as `corpus_statistics`, or `matrix` is not square or floating.

    Cost: N T^2 / 2 reads and as many additions. Differentiable with respect to the matrix.
    Source: paper, Lemma D.8 at the zero start.
    """
    matrix = as_array("matrix", matrix)
    shape = matrix.shape
    if len(shape) != 2 or shape[0] != shape[1]:
        raise InputError(f"matrix must have shape [V, V]; got {shape}")
    if not jnp.issubdtype(matrix.dtype, jnp.floating):
        raise InputTypeError(f"matrix must be floating; got dtype {matrix.dtype}")
    matrix = jnp.asarray(matrix)
    tokens, mask = check_tokens(data, mask, shape[0])
    return _correlate(tokens, matrix, mask)


@jax.jit
def _compose(B, Phi, inputs, targets, keys, num_positions) -> Statistics:
    """All statistics but `query_key` and `position`, which need a second pass over the corpus."""
    value = matmul(Phi.T, B.T)
    return Statistics(
        bigram=B,
        context=Phi,
        interchangeability=matmul(B.T, B),
        substitutability=matmul(B, B.T),
        value=value,
        composed=matmul(value, B),
        query_key=jnp.zeros((), B.dtype),
        position=jnp.zeros((), B.dtype),
        input_frequency=inputs,
        target_frequency=targets,
        context_frequency=keys,
        num_positions=num_positions,
    )


def _correlate(tokens, matrix, mask):
    if loops.on_host(tokens, mask, matrix):
        centred = np.asarray(matrix, np.float64)
        centred = centred - centred.mean(axis=1, keepdims=True)
        block = loops.lay_out(tokens, mask, len(centred))
        M: Any = block.x.size
        factor = 1 / np.maximum(np.arange(mask.shape[1] + 1), 1) ** 2
        query_key: Any = np.zeros_like(centred)
        position: Any = loops.sum_correlations(block, centred, factor, query_key)
        query_key = query_key.T
    else:
        by_target = (matrix - jnp.mean(matrix, axis=1, keepdims=True)).T
        M = jnp.sum(mask).astype(matrix.dtype)
        query_key, position = scatter.sum_correlations(tokens, mask, by_target)
    return jnp.asarray(query_key / M, matrix.dtype), jnp.asarray(position / M, matrix.dtype)

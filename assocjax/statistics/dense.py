"""The three basis functions of a corpus and what they compose to.

With x = tokens[:, :-1], y = tokens[:, 1:], one-hots X and Y, residual R = Y - 1/V and uniform
causal attention A_0 (row t holds 1/(t+1) at positions 0..t):

    B     = (1/M) sum_n X^T R          bigram               what follows a token
    Phi   = (1/M) sum_n R^T A_0 X      context              what stands before a token
    Sigma = B^T B                      interchangeability   which tokens follow the same tokens
    G     = Phi^T Sigma                composed             how well one token predicts another
    Q, Delta = `attention_correlation` of G                 which keys a query should attend to

Nothing here builds a one-hot array. B is N T scatter-adds, Phi is N T^2 / 2 scatter-adds, Q is
N T^2 / 2 gathers and as many scatter-adds, with the sums of `assocjax.statistics.sums`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int32

from assocjax.arguments import check_integer
from assocjax.checks import as_array
from assocjax.errors import InputError, InputTypeError
from assocjax.precision import matmul
from assocjax.statistics.sums import (
    add_at,
    centred_counts,
    check_corpus,
    count_keys,
    divide,
    fold,
    foldable,
    map_rows,
    over_devices,
    sum_blocks,
    to_words,
    zero_words,
)


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
      InputError: wrong shapes, token ids outside [0, V), no valid position, V > 46,340 or
        T > 8,192.
      InputTypeError: tokens that are not integers or a mask that is not boolean.

    Examples:
      >>> statistics = corpus_statistics([[0, 1, 0]], vocab_size=2)  # 1 follows 0, and 0 follows 1
      >>> statistics.bigram.tolist()
      [[-0.25, 0.25], [0.25, -0.25]]

    Cost: time N T^2 + 3 V^3, memory about 12 V^2 + 15 N T words. The sums of a large corpus are
    divided among the local devices, each with its own V^2. Works under `jit` and `vmap`.
    Source: paper, section 4 (basis functions) and Theorem 4.1.
    """
    vocab_size = check_integer("vocab_size", vocab_size, minimum=2)
    tokens, mask = check_corpus(tokens, mask, vocab_size)
    sums = over_devices(partial(_count, vocab_size), tokens, mask)
    basis = _compose(*sums)
    query_key, position = _correlate(tokens, basis.composed, mask)
    return basis.replace(query_key=query_key, position=position)


def attention_correlation(
    tokens: ArrayLike, matrix: Float[ArrayLike, "V V"], mask: ArrayLike | None = None
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
      InputError, InputTypeError: as `corpus_statistics`, or `matrix` is not square or floating.

    Cost: N T^2 / 2 gathers and scatter-adds. Source: paper, Lemma D.8 at the zero start.
    """
    matrix = as_array("matrix", matrix)
    shape = matrix.shape
    if len(shape) != 2 or shape[0] != shape[1]:
        raise InputError(f"matrix must have shape [V, V]; got {shape}")
    if not jnp.issubdtype(matrix.dtype, jnp.floating):
        raise InputTypeError(f"matrix must be floating; got dtype {matrix.dtype}")
    matrix = jnp.asarray(matrix)
    tokens, mask = check_corpus(tokens, mask, matrix.shape[0])
    return _correlate(tokens, matrix, mask)


@partial(jax.jit, static_argnums=0)
def _count(vocab_size: int, tokens, mask):
    """Sums over sequences: of (input, target), of attention weights, of inputs and of targets."""
    V = vocab_size
    tokens, mask = foldable(tokens, mask)
    dtype = jnp.result_type(float)
    division = divide(mask, V)

    def prepare(x, y, valid, dither):  # [T, block]
        weight = jnp.where(valid, 1 / count_keys(valid, dtype), 0)
        row, weight, dither, column, is_key = map(fold, (y * V, weight, dither, x, valid))
        queries = row.queries, weight.queries, dither.queries
        return x, y, valid.astype(jnp.int32), column.keys, is_key.keys, queries

    def add_block(sums, block):
        bigram, context, inputs, targets = sums
        x, y, one, column, is_key, queries = block

        def pairs(rows, queries):
            row, weight, dither = queries
            weight = jnp.where(rows.keys(*is_key), rows.queries(*weight), 0)
            words = to_words(weight, division.unit, rows.dither(dither))
            return rows.queries(*row) + rows.keys(*column), words

        return (
            bigram.at[x * V + y].add(one),
            add_at(context, *map_rows(pairs, queries)),
            inputs.at[x].add(one),
            targets.at[y].add(one),
        )

    counts = partial(jnp.zeros, dtype=jnp.int32)
    zeros = (counts(V * V), zero_words((V * V,), dtype), counts(V), counts(V))
    bigram, context, inputs, targets = sum_blocks(
        add_block, zeros, division, tokens, mask, prepare=prepare
    )
    return bigram.reshape(V, V), context.reshape(V, V), inputs, targets


@jax.jit
def _compose(bigram, context, inputs, targets) -> Statistics:
    """All that needs no further pass over the corpus; the rest is zero."""
    dtype = context.dtype
    num_positions = jnp.sum(inputs)
    M = num_positions.astype(dtype)
    B = centred_counts(bigram, inputs, dtype) / M
    context = context / M
    Phi = context - jnp.mean(context, axis=0, keepdims=True)
    value = matmul(Phi.T, B.T)
    return Statistics(
        bigram=B,
        context=Phi,
        interchangeability=matmul(B.T, B),
        value=value,
        composed=matmul(value, B),
        query_key=jnp.zeros((), dtype),
        position=jnp.zeros((), dtype),
        input_frequency=inputs.astype(dtype) / M,
        target_frequency=targets.astype(dtype) / M,
        context_frequency=jnp.sum(context, axis=0),
        num_positions=num_positions,
    )


def _correlate(tokens, matrix, mask):
    query_key, lags = over_devices(_sum_correlations, tokens, mask, matrix)
    M = jnp.sum(mask).astype(matrix.dtype)
    return query_key / M, lags / M


@jax.jit
def _sum_correlations(tokens, mask, matrix):
    V, length = matrix.shape[0], mask.shape[1]
    matrix, scale = _scaled(matrix - jnp.mean(matrix, axis=1, keepdims=True))
    tokens, mask = foldable(tokens, mask)
    T = mask.shape[1]
    division = divide(mask, V)
    by_target = matrix.T.reshape(-1)  # so that the keys of a query read in one row

    def prepare(x, y, valid, dither):  # [T, block]
        folded = map(fold, (x * V, y * V, valid, count_keys(valid, matrix.dtype), dither))
        return fold(x).keys, fold(valid).keys, tuple(a.queries for a in folded)

    def add_block(sums, block):
        query_key, lags = sums
        column, is_key, queries = block

        def pairs(rows, queries):
            row, target, is_query, num_keys, dither = queries
            place, pair = rows.keys(*column), rows.queries(*is_query) & rows.keys(*is_key)
            m = by_target.at[rows.queries(*target) + place].get(mode="promise_in_bounds")
            m = jnp.where(pair, m, 0)

            def centred(m):
                mean = map(jnp.divide, rows.sum_keys(m), num_keys)
                return jnp.where(pair, m - rows.queries(*mean), 0)

            # Twice: a mean is rounded alike at every position of a frequent token, which adds up.
            D = centred(centred(m)) / rows.queries(*num_keys)
            return rows.queries(*row) + place, to_words(D, division.unit, rows.dither(dither))

        index, words = map_rows(pairs, queries)
        lags = lags + jnp.sum(words, axis=1).reshape(lags.shape)
        return add_at(query_key, index, words), lags

    zeros = zero_words((V * V,), matrix.dtype), zero_words((T // 2, T + 1), matrix.dtype)
    query_key, lags = sum_blocks(add_block, zeros, division, tokens, mask, prepare=prepare)
    position = fold(jnp.arange(T)[:, None])
    lag = map_rows(
        lambda rows, queries: rows.queries(*queries) - rows.keys(*position.keys), position.queries
    )
    lags = jax.ops.segment_sum(lags.ravel(), lag.ravel(), T)[:length]
    return query_key.reshape(V, V) * scale, lags * scale


def _scaled(matrix):
    """The matrix over a power of 2, and that: D, of which |D[t]| sums to at most 1, are weights."""
    largest = 2 * lax.stop_gradient(jnp.max(jnp.abs(matrix)))
    scale = jnp.exp2(jnp.ceil(jnp.log2(jnp.where(largest > 0, largest, 1))))
    return matrix / scale, scale

"""Which documents an association comes from: the closed forms, taken apart into their summands.

Give document n the weight c_n. With M, the number of valid positions, kept as it is,

    B(c) = sum_n c_n B_n            Phi(c) = sum_n c_n Phi_n
    Q[a,b](c) = <K(c), G(c)>        K(c) = sum_n c_n K_n,  from sum_n D_n[t,k] at x_t = a, x_k = b

    K_n[i,j] = (1/M) sum_{t,k} [x_t = a, x_k = i, y_t = j] ([i = b] - A_0[t,:] [x = b]) / (t+1)

so that every entry E = matrix[a,b] of the theory is a homogeneous polynomial of the weights. Its
degree k is 1 for `bigram` and `context`, 2 for `interchangeability` and `value`, 3 for `composed`
and 4 for `query_key`. At c = 1 there are two answers to what document n is worth:

    share_n  = (1/k) dE/dc_n                   sum_n share_n = E, by Euler's theorem
    change_n = E(1) - E(1 - e_n)               what E loses without document n, exactly

For k = 1 they are the same number. For k > 1 they cannot be: a document is one of k factors of
every product that it enters, and without it the whole product is gone. There

    change_n = k share_n - remainder_n

and the remainder holds the products in which document n enters twice or more, of the order of
1/N of the first term. (For k = 2 the share is the Shapley value as well: what removing document n
changes, on average over all orders of removing all documents.)

The change is one exact integral of derivatives, not a difference of two nearly equal entries:

    change_n = int_0^1 <dE/dF (F - u F_n), F_n> du        F = (B, Phi, K)

Its integrand is a polynomial of u of degree at most three, for which two Gauss nodes are exact.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int

from assocjax.analysis.associations import check_counted
from assocjax.arguments import MATRICES, check_choice, check_integer, check_integers
from assocjax.checks import CorpusLike, as_array, is_traced
from assocjax.errors import InputError, InputTypeError
from assocjax.precision import matmul
from assocjax.statistics.dense import Statistics
from assocjax.statistics.sums import (
    causal_pairs,
    centred_counts,
    count_keys,
    divide,
    pair_dither,
    sum_blocks,
    to_words,
    two_sum,
    zero_words,
)

DEGREES: dict[str, int] = dict(zip(MATRICES, (1, 1, 2, 2, 3, 4), strict=True))
"""Matrices whose entries can be attributed, and their degree k in the documents' weights."""

_BLOCK_PAIRS = 1 << 18  # (query, key) pairs whose shares are held at once
_GAUSS_NODES = (0.5 - 12**-0.5, 0.5 + 12**-0.5)


class Attribution(NamedTuple):
    """An entry of a theory matrix and its parts, which sum to it.

    entry      the entry
    documents  share of each document
    positions  share of each position: of what its target has to do with the tokens up to it
    """

    entry: Float[Array, ""]
    documents: Float[Array, " D"]
    positions: Float[Array, "N T"]


class _Factors(NamedTuple):
    """What entries are polynomials of: B, Phi, and for `query_key` the matrix K of its tokens."""

    bigram: Float[Array, "V V"]
    context: Float[Array, "V V"]
    keys: Float[Array, "V V"]


def attribute(
    statistics: Statistics,
    data: CorpusLike,
    mask: ArrayLike | None = None,
    *,
    matrix: str,
    row: int,
    column: int,
    documents: ArrayLike | None = None,
) -> Attribution:
    """The share of every document, and of every position, in an entry of a theory matrix.

    Args:
      statistics: `corpus_statistics` of the corpus.
      data, mask: the same corpus, as of `corpus_statistics`.
      matrix: a name of `DEGREES`.
      row, column: token ids a and b; under `jit` they may be traced.
      documents: integer array [N], the document of each sequence, from 0 to D-1; by default each
        sequence is a document of its own.

    Returns:
      `Attribution`; `documents` and `positions` each sum to `entry`, which is that of `statistics`,
      up to rounding: about 1e-6 of the sum of absolute shares in float32, 1e-14 in float64. It does
      not grow with the corpus, whose sums are those of `statistics.sums` and two-sums; against
      float64 it was examined up to 10^6 positions.

    Raises:
      InputError, InputTypeError: an argument is out of range, or the corpus is not that of the
        statistics.

    Cost: N T^2 / 2 gathers of three [V,V] matrices and up to 4 V^3 multiply-adds; for `query_key`
    N T^2 / 2 scatter-adds more. No recompilation for another entry. Source: this package.
    """
    return Summands(statistics, data, mask, matrix, row, column).attribute(documents)


def pair_shares(
    statistics: Statistics,
    data: CorpusLike,
    mask: ArrayLike | None = None,
    *,
    matrix: str,
    row: int,
    column: int,
    sequences: ArrayLike,
) -> Float[Array, "n T T"]:
    """The shares of `attribute` by pairs of positions, of some sequences.

    Entry [i, t, k] is the share of what key x_k says of target y_t in sequence `sequences[i]`; the
    bigram of x_t and y_t is at k = t. The sum over k is the share of position t.

    Args:
      sequences: integer array [n]; all else as in `attribute`.

    Cost: n T^2 numbers are held; all else as in `attribute`.
    """
    return Summands(statistics, data, mask, matrix, row, column).pair_shares(sequences)


def leave_out(
    statistics: Statistics,
    data: CorpusLike,
    mask: ArrayLike | None = None,
    *,
    matrix: str,
    row: int,
    column: int,
    documents: ArrayLike | None = None,
    which: ArrayLike | None = None,
) -> Float[Array, " n"]:
    """What an entry loses without a document, exactly: change_n of the module's docstring.

    M is kept. The entry of the statistics counted anew without document n, which has M_n valid
    positions, is (M / (M - M_n))^k (entry - change_n).

    Args:
      which: integer array [n], the documents to leave out, one at a time; by default each of them.
      documents: as in `attribute`; concrete. All else as in `attribute`.

    Returns:
      [n]; for matrices of degree 1 the share of the document. Rounding is as in `attribute`, of a
      document of any size.

    Raises:
      InputError, InputTypeError: as `attribute`, or `which` names no document.

    Cost: for each document its own N_n T^2 / 2 scatter-adds and some V^2 operations, for
    `query_key` 12 V^3 or so: ask there for a few documents. Memory: some ten matrices [V,V].
    """
    return Summands(statistics, data, mask, matrix, row, column).leave_out(documents, which)


class Summands:
    """An entry, and what all of its parts are found from; arguments and methods are as above."""

    def __init__(self, statistics, data, mask, matrix, row, column):
        check_choice("matrix", matrix, DEGREES)
        tokens, mask = check_counted(statistics, data, mask)
        V = len(statistics.bigram)
        for name, value in (("row", row), ("column", column)):
            if not is_traced(value) and check_integer(name, value, minimum=0) >= V:
                raise InputError(
                    f"{name} must be below the size of the vocabulary, {V}; got {value}"
                )
        a, b = jnp.asarray(row, jnp.int32), jnp.asarray(column, jnp.int32)
        self.matrix, self.corpus = matrix, (statistics.num_positions, tokens, mask, a, b)
        B = statistics.bigram
        keys = jnp.zeros_like(B)
        if matrix == "query_key":
            keys = _corpus_keys(V, *self.corpus).astype(B.dtype)
        self.factors = _Factors(B, statistics.context, keys)
        self.entry, self.gradient = _entry_and_gradient(matrix, self.factors, a, b)

    def attribute(self, documents) -> Attribution:
        positions = _position_shares(DEGREES[self.matrix], self.gradient, *self.corpus)
        documents, D = check_documents(documents, len(positions))
        return Attribution(self.entry, _sum_documents(positions, documents, D), positions)

    def pair_shares(self, sequences) -> Float[Array, "n T T"]:
        M, tokens, mask, a, b = self.corpus
        last = len(tokens) - 1
        at = np.array(check_integers("sequences", sequences, minimum=0, maximum=last))
        of_some = M, tokens[at], mask[at], a, b
        shares = _pair_shares(DEGREES[self.matrix], self.gradient, *of_some)
        T = mask.shape[1]
        q, k = causal_pairs(T)
        return jnp.zeros((len(at), T, T), shares.dtype).at[:, q, k].set(shares)

    def leave_out(self, documents, which) -> Float[Array, " n"]:
        documents, D = check_documents(documents, len(self.corpus[1]))
        which = (
            np.arange(D)
            if which is None
            else np.array(check_integers("which", which, minimum=0, maximum=D - 1))
        )
        # Sequences of each document, filled up to as many as the largest of them has.
        order = np.argsort(documents, kind="stable")
        sizes = np.bincount(documents, minlength=D)
        starts = np.cumsum(sizes) - sizes
        nth = np.arange(max(1, sizes[which].max(initial=0)))
        present = nth < sizes[which][:, None]
        rows = order[np.where(present, starts[which][:, None] + nth, 0)]
        return _changes(self.matrix, self.factors, *self.corpus, jnp.asarray(rows), present)


def check_documents(documents: ArrayLike | None, N: int) -> tuple[Int[np.ndarray, " N"], int]:
    """The document of each of N sequences, and the number of documents; None is each its own."""
    if documents is None:
        return np.arange(N), N
    documents = np.asarray(as_array("documents", documents))
    if not np.issubdtype(documents.dtype, np.integer):
        raise InputTypeError(f"documents must be integers; got dtype {documents.dtype}")
    if documents.shape != (N,) or documents.min() < 0:
        raise InputError(
            f"documents must be numbers from 0, one for each of the {N} sequences; got shape "
            f"{documents.shape}, least {documents.min(initial=0)}"
        )
    return documents, int(documents.max()) + 1


def _entry(matrix: str, factors: _Factors, a, b) -> Float[Array, ""]:
    """The definition of each matrix, for one entry."""
    B, Phi, K = factors
    if matrix == "bigram":
        return B[a, b]
    if matrix == "context":
        return Phi[a, b]
    if matrix == "interchangeability":
        return jnp.dot(B[:, a], B[:, b], precision="highest")
    if matrix == "value":
        return jnp.dot(Phi[:, a], B[b], precision="highest")
    if matrix == "composed":
        return jnp.dot(matmul(B, Phi[:, a]), B[:, b], precision="highest")
    return jnp.sum(K * matmul(matmul(Phi.T, B.T), B))


@partial(jax.jit, static_argnums=0)
def _entry_and_gradient(matrix: str, factors: _Factors, a, b):
    return jax.value_and_grad(partial(_entry, matrix))(factors, a, b)


_corpus_keys = jax.jit(lambda *corpus: _sum_factors(*corpus).keys, static_argnums=0)


def _sum_factors(V: int, num_positions, tokens, mask, a, b) -> _Factors:
    """The factors of some sequences alone, [n, T+1] and [n, T], over M of the corpus."""
    dtype = jnp.result_type(float)
    q, k = causal_pairs(mask.shape[1])
    division = divide(mask, V, values_per_pair=2)

    def add_block(sums, block):
        bigram, inputs, context, keys = sums
        x, y, valid, dither = block  # [T, block]
        one, n = valid.astype(jnp.int32), count_keys(valid, dtype)
        weight = jnp.where(valid[q] & valid[k], 1 / n[q], 0)
        is_b = (x == b) & valid
        mean = jnp.cumsum(is_b, axis=0).astype(dtype) / n
        surplus = jnp.where(x[q] == a, is_b[k].astype(dtype) - mean[q], 0)
        chance = pair_dither(dither[q], k[:, None])
        return (
            bigram.at[x * V + y].add(one),
            inputs.at[x].add(one),
            context.at[y[q] * V + x[k]].add(to_words(weight, division.unit, chance)),
            keys.at[x[k] * V + y[q]].add(to_words(weight * surplus, division.unit, chance)),
        )

    counts, words = partial(jnp.zeros, dtype=jnp.int32), zero_words((V * V,), dtype)
    zeros = counts(V * V), counts(V), words, words
    bigram, inputs, context, keys = sum_blocks(add_block, zeros, division, tokens, mask)
    M = num_positions.astype(dtype)
    Phi = context.reshape(V, V) / M
    return _Factors(
        centred_counts(bigram.reshape(V, V), inputs, dtype) / M,
        Phi - jnp.mean(Phi, axis=0, keepdims=True),
        keys.reshape(V, V) / M,
    )


def _pair_shares(degree: int, gradient: _Factors, num_positions, tokens, mask, a, b):
    """<dE/dF, F_n> / k of some sequences, pair by pair: [n, pairs]."""
    dtype = gradient.bigram.dtype
    scale = 1 / (degree * num_positions.astype(dtype))
    # What centres B_n and Phi_n centres their cotangents instead: gathers are of single entries.
    of_bigram = gradient.bigram - jnp.mean(gradient.bigram, axis=1, keepdims=True)
    of_context = gradient.context - jnp.mean(gradient.context, axis=0, keepdims=True)
    x, y, valid = tokens[:, :-1].T, tokens[:, 1:].T, mask.T
    T = len(valid)
    q, k = causal_pairs(T)
    pair, n = valid[q] & valid[k], count_keys(valid, dtype)
    m = jnp.where(pair, gradient.keys[x[k], y[q]], 0)
    mean = jax.ops.segment_sum(m, q, T, indices_are_sorted=True) / n
    D = jnp.where((x[q] == a) & (x[k] == b), m - mean[q], 0)
    shares = (of_context[y[q], x[k]] + D) / n[q]
    shares += jnp.where((q == k)[:, None], of_bigram[x[q], y[q]], 0)
    return (scale * jnp.where(pair, shares, 0)).T


@partial(jax.jit, static_argnums=0)
def _position_shares(degree: int, gradient: _Factors, num_positions, tokens, mask, a, b):
    T = mask.shape[1]
    q, _ = causal_pairs(T)

    def of_sequence(sequence):
        tokens, mask = sequence
        shares = _pair_shares(degree, gradient, num_positions, tokens[None], mask[None], a, b)
        return jax.ops.segment_sum(shares[0], q, T, indices_are_sorted=True)

    return lax.map(of_sequence, (tokens, mask), batch_size=min(len(tokens), _block_size(T)))


@partial(jax.jit, static_argnums=2)
def _sum_documents(positions, documents, D: int):
    """Sums over the sequences of each document, by two-sums: however many, no digits are lost."""

    def add(sums, sequence):
        total, error = sums
        shares, document = sequence
        new = two_sum(total[document], error[document], jnp.sum(shares))
        return (total.at[document].set(new[0]), error.at[document].set(new[1])), None

    zeros = jnp.zeros((2, D), positions.dtype)
    total, error = lax.scan(add, tuple(zeros), (positions, jnp.asarray(documents)))[0]
    return total + error


@partial(jax.jit, static_argnums=0)
def _changes(matrix: str, factors: _Factors, num_positions, tokens, mask, a, b, rows, present):
    V = factors.bigram.shape[0]

    def change(document):
        rows, present = document
        valid = mask[rows] & present[:, None]
        own = _sum_factors(V, num_positions, tokens[rows], valid, a, b)
        own = jax.tree.map(lambda part, whole: part.astype(whole.dtype), own, factors)

        def slope(u):
            rest = jax.tree.map(lambda whole, part: whole - u * part, factors, own)
            return jax.jvp(lambda F: _entry(matrix, F, a, b), (rest,), (own,))[1]

        return sum(slope(u) for u in _GAUSS_NODES) / 2

    return lax.map(change, (rows, present))


def _block_size(T: int) -> int:
    return max(1, _BLOCK_PAIRS // (T * (T + 1) // 2))

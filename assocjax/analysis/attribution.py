"""Attribution of an association to documents: the closed forms as sums over documents.

Give document n the weight c_n. With the number M of valid positions held fixed,

    B(c) = sum_n c_n B_n            Phi(c) = sum_n c_n Phi_n
    Q[a,b](c) = <K(c), G(c)>        K(c) = sum_n c_n K_n,  from sum_n D_n[t,k] at x_t = a, x_k = b

    K_n[i,j] = (1/M) sum_{t,k} [x_t = a, x_k = i, y_t = j] ([i = b] - A_0[t,:] [x = b]) / (t+1)

so that every entry E = matrix[a,b] of the theory is a homogeneous polynomial of the weights. Its
degree k is 1 for `bigram` and `context`, 2 for `interchangeability`, `substitutability` and
`value`, 3 for `composed` and 4 for `query_key`. At c = 1 there are two measures of the contribution
of document n:

    share_n  = (1/k) dE/dc_n                   sum_n share_n = E, by Euler's theorem
    change_n = E(1) - E(1 - e_n)               the exact loss of E without document n

For k = 1 they are equal. For k > 1 they differ: a document is one of k factors of every product
that it enters, and without it the whole product vanishes. Then

    change_n = k share_n - remainder_n

and the remainder consists of the products that document n enters twice or more, of the order of
1/N of the first term. (For k = 2 the share is also the Shapley value: the change when document n is
removed, averaged over all orders of removing the documents.)

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
from assocjax.statistics import loops, scatter
from assocjax.statistics.dense import Statistics
from assocjax.storage.display import summarized

DEGREES: dict[str, int] = dict(zip(MATRICES, (1, 1, 2, 2, 2, 3, 4), strict=True))
"""Matrices whose entries can be attributed, and their degree k in the documents' weights."""

_BLOCK_PAIRS = 1 << 18  # (query, key) pairs whose shares are in memory at once
_GAUSS_NODES = (0.5 - 12**-0.5, 0.5 + 12**-0.5)


@summarized
class Attribution(NamedTuple):
    """An entry of a theory matrix and its parts, which sum to it.

    entry      the entry
    documents  share of each document
    positions  share of each position: of the pairs of its target and the tokens up to the position
    """

    entry: Float[Array, ""]
    documents: Float[Array, " D"]
    positions: Float[Array, "N T"]


class _Factors(NamedTuple):
    """The factors of which entries are polynomials: B, Phi, and for `query_key` the matrix K."""

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
      data, mask: the same corpus, as in `corpus_statistics`.
      matrix: a name of `DEGREES`.
      row, column: token ids a and b; under `jit` they may be traced.
      documents: integer array [N], the document of each sequence, from 0 to D-1; by default each
        sequence is its own document.

    Returns:
      `Attribution`; `documents` and `positions` each sum to `entry`, the entry of `statistics`, up
      to rounding: about 1e-6 of the sum of absolute shares in float32, 1e-14 in float64. The error
      does not grow with the corpus, since sums are in float64; in a transformation or on a GPU they
      are in the dtype of the statistics.

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
    """The shares of `attribute` by pairs of positions, for some sequences.

    Entry [i, t, k] is the share of the pair of key x_k and target y_t in sequence `sequences[i]`;
    the bigram of x_t and y_t is at k = t. The sum over k is the share of position t.

    Args:
      sequences: integer array [n]; other arguments as in `attribute`.

    Cost: as `attribute`, and memory for n T^2 numbers.
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
    """The exact loss of an entry without a document: change_n of the module's docstring.

    M is held fixed. If the statistics are computed again without document n, which has M_n valid
    positions, the entry is (M / (M - M_n))^k (entry - change_n).

    Args:
      which: integer array [n], the documents to leave out, one at a time; by default all documents.
      documents: as in `attribute`, but not traced. Other arguments as in `attribute`.

    Returns:
      [n]; for matrices of degree 1 the share of the document. Rounding errors are as in
      `attribute`, for documents of any size.

    Raises:
      InputError, InputTypeError: as `attribute`, or `which` is not a valid document.

    Cost: N_n T^2 / 2 scatter-adds for a document of N_n sequences and some V^2 operations; for
    `query_key` about 12 V^3, so that one asks for a few documents only. Memory: about ten matrices
    [V,V].
    """
    return Summands(statistics, data, mask, matrix, row, column).leave_out(documents, which)


class Summands:
    """An entry with its factors and gradient; arguments and methods are as above."""

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
            keys = _sum_factors(V, *self.corpus).keys.astype(B.dtype)
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
        return _pair_shares(DEGREES[self.matrix], self.gradient, *of_some)

    def leave_out(self, documents, which) -> Float[Array, " n"]:
        M, tokens, mask, a, b = self.corpus
        documents, D = check_documents(documents, len(tokens))
        if which is not None:
            which = np.array(check_integers("which", which, minimum=0, maximum=D - 1))
        which = np.arange(D) if which is None else which
        # Sequences of each document, padded to the number of the largest document.
        order = np.argsort(documents, kind="stable")
        sizes = np.bincount(documents, minlength=D)
        starts = np.cumsum(sizes) - sizes
        nth = np.arange(max(1, sizes[which].max(initial=0)))
        present = nth < sizes[which][:, None]
        rows = order[np.where(present, starts[which][:, None] + nth, 0)]
        if not loops.on_host(tokens, mask, a, b, M):
            return _changes(self.matrix, self.factors, *self.corpus, jnp.asarray(rows), present)
        V, changes = len(self.factors.bigram), []
        for own in (row[here] for row, here in zip(rows, present, strict=True)):
            part = _sum_factors(V, M, tokens[own], mask[own], a, b)
            changes.append(_change(self.matrix, self.factors, part, a, b))
        return jnp.stack(changes) if changes else jnp.zeros(0, self.factors.bigram.dtype)


def check_documents(documents: ArrayLike | None, N: int) -> tuple[Int[np.ndarray, " N"], int]:
    """The document of each of N sequences, and the number of documents.

    None means that each sequence is its own document.
    """
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
    if matrix == "substitutability":
        return jnp.dot(B[a], B[b], precision="highest")
    if matrix == "value":
        return jnp.dot(Phi[:, a], B[b], precision="highest")
    if matrix == "composed":
        return jnp.dot(matmul(B, Phi[:, a]), B[:, b], precision="highest")
    return jnp.sum(K * matmul(matmul(Phi.T, B.T), B))


@partial(jax.jit, static_argnums=0)
def _entry_and_gradient(matrix: str, factors: _Factors, a, b):
    return jax.value_and_grad(partial(_entry, matrix))(factors, a, b)


def _sum_factors(V: int, num_positions, tokens, mask, a, b) -> _Factors:
    """The factors of some sequences only, [n, T+1] and [n, T], divided by M of the corpus."""
    dtype = jnp.result_type(float)
    if loops.on_host(tokens, mask, a, b, num_positions):
        sums = _loop_factors(V, loops.lay_out(tokens, mask, V), int(a), int(b))
        M = float(num_positions)
    else:
        sums, M = _scatter_factors(V, tokens, mask, a, b), num_positions.astype(dtype)
    B, context, keys = (jnp.asarray(each / M, dtype) for each in sums)
    return _Factors(B, context - jnp.mean(context, axis=0, keepdims=True), keys)


def _loop_factors(V: int, block: loops.Block, a: int, b: int):
    """Sums of centred bigrams, of attention, and K M, in float64."""
    counts = loops.count_bigrams(block, V)
    weight = 1 / block.num_keys
    # Number of keys b up to each position, without those before its sequence.
    up_to = np.append(0, np.cumsum(block.x == b))
    is_b = np.where(block.x == a, up_to[1:] - up_to[block.first], 0)
    keys = -loops.sum_contexts(block, block.first, weight**2 * is_b, np.zeros((V, V))).T
    keys[b] += np.bincount(block.y, weight * is_b, V)
    context = loops.sum_contexts(block, block.first, weight, np.zeros((V, V)))
    return counts - counts.sum(axis=1)[:, None] / V, context, keys


@partial(jax.jit, static_argnums=0)
def _scatter_factors(V: int, tokens, mask, a, b):
    """As `_loop_factors`, in JAX's default dtype."""
    dtype = jnp.result_type(float)

    def add_block(sums, x, y, mask):
        A_0, is_b = scatter.attention(mask, dtype), (x == b).astype(dtype)[:, None]
        surplus = is_b - jnp.sum(A_0 * is_b, axis=-1, keepdims=True)
        surplus = jnp.where((x == a)[..., None], A_0 * surplus, 0)
        return scatter.at_pairs(sums, x, y).add(jnp.swapaxes(surplus, 1, 2))

    counts = scatter.count_bigrams(tokens, mask, V)
    centred = scatter.centred_counts(counts, jnp.sum(counts, axis=1, dtype=counts.dtype), dtype)
    keys = scatter.sum_blocks(add_block, jnp.zeros((V, V), dtype), tokens, mask)
    return centred, scatter.sum_contexts(tokens, mask, V), keys


def _pair_shares(degree: int, gradient: _Factors, num_positions, tokens, mask, a, b):
    """<dE/dF, F_n> / k of some sequences, pair by pair: [n, T, T]."""
    dtype = gradient.bigram.dtype
    scale = 1 / (degree * num_positions.astype(dtype))
    # The cotangents are centred instead of B_n and Phi_n, so that gathers read single entries.
    of_bigram = gradient.bigram - jnp.mean(gradient.bigram, axis=1, keepdims=True)
    of_context = gradient.context - jnp.mean(gradient.context, axis=0, keepdims=True)
    x, y = tokens[:, :-1], tokens[:, 1:]
    A_0 = scatter.attention(mask, dtype)
    m = scatter.at_pairs(gradient.keys.T, y, x).get()
    D = m - jnp.sum(A_0 * m, axis=-1, keepdims=True)
    D = jnp.where((x == a)[:, :, None] & (x == b)[:, None], D, 0)
    shares = A_0 * (scatter.at_pairs(of_context, y, x).get() + D)
    bigrams = jnp.where(mask, of_bigram[x, y], 0)
    return scale * (shares + bigrams[..., None] * jnp.eye(mask.shape[1], dtype=dtype)[None])


@partial(jax.jit, static_argnums=0)
def _position_shares(degree: int, gradient: _Factors, num_positions, tokens, mask, a, b):
    def of_sequence(sequence):
        tokens, mask = sequence
        shares = _pair_shares(degree, gradient, num_positions, tokens[None], mask[None], a, b)
        return jnp.sum(shares[0], axis=1)

    size = max(1, min(len(tokens), _BLOCK_PAIRS // mask.shape[1] ** 2))
    return lax.map(of_sequence, (tokens, mask), batch_size=size)


def _sum_documents(positions, documents, D: int):
    """Sums over the sequences of each document, in float64 unless they are traced."""
    if loops.on_host(positions):
        sequences = np.asarray(positions).sum(axis=1, dtype=np.float64)
        return jnp.asarray(np.bincount(documents, sequences, D), positions.dtype)
    return jax.ops.segment_sum(jnp.sum(positions, axis=1), jnp.asarray(documents), D)


@partial(jax.jit, static_argnums=0)
def _changes(matrix: str, factors: _Factors, num_positions, tokens, mask, a, b, rows, present):
    def change(document):
        rows, present = document
        valid = mask[rows] & present[:, None]
        own = _sum_factors(len(factors.bigram), num_positions, tokens[rows], valid, a, b)
        return _change(matrix, factors, own, a, b)

    return lax.map(change, (rows, present))


@partial(jax.jit, static_argnums=0)
def _change(matrix: str, factors: _Factors, own: _Factors, a, b):
    own = jax.tree.map(lambda part, whole: part.astype(whole.dtype), own, factors)

    def slope(u):
        rest = jax.tree.map(lambda whole, part: whole - u * part, factors, own)
        return jax.jvp(lambda F: _entry(matrix, F, a, b), (rest,), (own,))[1]

    return sum(slope(u) for u in _GAUSS_NODES) / 2

"""The theory's matrices, restricted to some tokens of a large vocabulary.

With S + u v^T and P + p a^T the matrices B and Phi of `statistics.sparse` [V,V], and s the tokens,

    bigram             B[s,s]
    context            Phi[s,s]                 rows are targets, columns keys
    interchangeability B[:,s]^T B[:,s]
    value              (B[s,:] Phi[:,s])^T      rows are keys, columns the input before the target
    query_key          Q[s,s]                   rows are queries

are [n,n], blocks of the full matrices [V,V]: sums inside products run over all V tokens, and Q is
summed over all keys and targets. Only rows and columns of other tokens are left out. No dense array
is larger than [n,n] or [V,64].
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float, Int
from scipy.sparse import csr_array

from assocjax.arguments import check_is
from assocjax.checks import Sequences, as_array
from assocjax.errors import InputError, InputTypeError
from assocjax.statistics.counting import Counts
from assocjax.statistics.sparse import SparsePlusRankOne, SparseStatistics, sparse_statistics

MATRICES = ("bigram", "context", "interchangeability", "value", "query_key")
"""Names of the theory matrices, in the order of their powers of the learning rate."""

_BLOCK_COLUMNS = 64  # columns of a product computed at once, so that they stay in cache


class TokenRows(NamedTuple):
    """The parts of B and Phi needed for matrices of the tokens s; all float64 except `ids`.

    B = S + u v^T and Phi = P + p a^T: `rows` is S[s,:] [n,V], `columns` S[:,s] [V,n] and `context`
    P[:,s] [V,n]; u, v, p, a are vectors [V].
    """

    ids: Int[np.ndarray, " n"]
    rows: csr_array
    columns: csr_array
    context: csr_array
    u: np.ndarray
    v: np.ndarray
    p: np.ndarray
    a: np.ndarray


def basis_matrices(
    source: Sequences,
    token_ids: Int[ArrayLike, " n"],
    *,
    residual: str = "uniform",
    counts: Counts | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Float[np.ndarray, "n n"]]:
    """The theory's matrices for some tokens of a corpus.

    Args:
      source: the corpus, `TokenData` or `TokenFile`.
      token_ids: distinct ids; row and column i of each matrix belong to `token_ids[i]`.
      residual: "uniform", as in the paper, or "unigram", r = y - p(y), for all matrices.
      counts, progress: as in `assocjax.statistics.sparse.sparse_statistics`.

    Returns:
      Each of `MATRICES`, float64 [n,n].

    Raises:
      InputError: ids are outside [0, V), repeated or empty; and as `sparse_statistics`.
      InputTypeError: ids are not integers.

    Cost: that of `sparse_statistics` and `subset_matrices`.
    Source: paper, section 4; the unigram residual is this package's.
    """
    check_is("source", source, Sequences)
    ids = check_token_ids(token_ids, source.vocab_size)
    statistics = sparse_statistics(source, residual=residual, counts=counts, progress=progress)
    return subset_matrices(statistics, ids)


def subset_matrices(
    statistics: SparseStatistics, token_ids: Int[ArrayLike, " n"]
) -> dict[str, Float[np.ndarray, "n n"]]:
    """Like `basis_matrices`, from existing statistics, such as those of `statistics.shards`.

    Args:
      statistics: statistics with either residual, not `frequency_corrected`.

    Raises:
      InputError, InputTypeError: as `basis_matrices`; the statistics are frequency-corrected.

    Cost: time n nnz(B[s,:]), and a product for each pair of entries of B[:,s] in the same row;
      memory for the entries of Phi[:,s] and five [n,n].
    """
    check_is("statistics", statistics, SparseStatistics)
    B, Phi = statistics.bigram, statistics.context
    # B's left vector is minus the input frequency, unless it was corrected for frequency.
    if not np.array_equal(B.left, -statistics.input_frequency):  # type: ignore[attr-defined]
        raise InputError("statistics must be plain ones, not frequency_corrected")
    ids = check_token_ids(token_ids, B.shape[0])
    found = compose(_token_rows(B, Phi, ids))  # type: ignore[arg-type]
    query_key: csr_array = statistics.query_key.sparse  # type: ignore[attr-defined]
    return found | {"query_key": query_key[ids][:, ids].toarray()}


def check_token_ids(
    token_ids: ArrayLike,
    vocab_size: int,
    *,
    name: str = "token_ids",
    dims: int = 1,
    distinct: bool = True,
) -> Int[np.ndarray, "..."]:
    """Ids in [0, V), as a non-empty array of one or two dimensions.

    Raises:
      InputError, InputTypeError: as `basis_matrices`.
    """
    ids = np.asarray(as_array(name, token_ids))
    if ids.ndim != dims or not ids.size:
        shape = "[n]" if dims == 1 else "[N, T]"
        raise InputError(f"{name} must have shape {shape}, not empty; got {ids.shape}")
    if not np.issubdtype(ids.dtype, np.integer):
        raise InputTypeError(f"{name} must be integers; got dtype {ids.dtype}")
    if ids.min() < 0 or ids.max() >= vocab_size:
        bad = ids.min() if ids.min() < 0 else ids.max()
        raise InputError(f"{name} must be in [0, vocab_size={vocab_size}); got {bad}")
    unique, counts = np.unique(ids, return_counts=True)
    if distinct and unique.size != ids.size:
        repeated = unique[counts > 1][0]
        raise InputError(f"{name} must be distinct; got {repeated} more than once")
    return ids


def compose(part: TokenRows) -> dict[str, Float[np.ndarray, "n n"]]:
    """All of `MATRICES` except `query_key`, which needs a second pass over the corpus."""
    ids, S, C, P, u, v, p, a = part
    joint, attention = S[:, ids].toarray(), P[ids].toarray()
    C_u = C.T @ u  # C is S[:,s]
    # (S + u v^T) (P + p a^T), each with its rows or columns s.
    left = np.stack([u[ids], S @ p + u[ids] * (v @ p)], axis=1)
    right = np.stack([P.T @ v, a[ids]], axis=1)
    value = left @ right.T
    by_column = P.tocsc()
    for start in range(0, ids.size, _BLOCK_COLUMNS):
        here = slice(start, start + _BLOCK_COLUMNS)
        value[:, here] += S @ by_column[:, here].toarray(order="C")
    sides = np.stack([C_u + (u @ u) * v[ids], v[ids]], axis=1)
    return {
        "bigram": joint + np.outer(u[ids], v[ids]),
        "context": attention + np.outer(p[ids], a[ids]),
        "interchangeability": (C.T @ C).toarray() + sides @ np.stack([v[ids], C_u]),
        "value": value.T,
    }


def _token_rows(B: SparsePlusRankOne, Phi: SparsePlusRankOne, ids: np.ndarray) -> TokenRows:
    return TokenRows(
        ids,
        B.sparse[ids],
        B.sparse[:, ids],
        Phi.sparse[:, ids],
        B.left,
        B.right,
        Phi.left,
        Phi.right,
    )

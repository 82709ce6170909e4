"""Random draws from the rows of a sparse matrix of weights, on the device, by alias tables.

A row with m entries of weights w_i is stored as m columns of equal probability 1/m, each of which
is shared by its own entry i, with probability q_i, and by one other, its alias. A draw is a random
column and a random number below or above q_i: two gathers, whatever the row's length.

Source: Walker, Electronics Letters 10 (1974) 127; Vose, IEEE Transactions on Software Engineering
17 (1991) 972.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Int32, PRNGKeyArray
from scipy.sparse import csr_array

from assocjax.arguments import LARGEST_COUNT, check_is
from assocjax.errors import InputError
from assocjax.statistics._compiled import compiled
from assocjax.statistics.loops import num_threads, run
from assocjax.storage.display import summarized


@summarized
@struct.dataclass
class AliasTables:
    """Tables of R rows with E entries in all; entries of a row are start[r] .. start[r] + size[r].

    `own` and `alias` are columns of the matrix; entry e gives own[e] with probability threshold[e].
    """

    start: Int32[Array, " R"]
    size: Int32[Array, " R"]
    threshold: Float[Array, " E"]
    own: Int32[Array, " E"]
    alias: Int32[Array, " E"]


def alias_tables(weights: csr_array) -> AliasTables:
    """Tables from which `draw` draws columns with probabilities proportional to the weights.

    Args:
      weights: nonnegative [R,C]; rows need not sum to 1. Nothing can be drawn from an empty row.

    Raises:
      InputTypeError: `weights` is not a `scipy.sparse.csr_array`.
      InputError: a weight is negative or not finite, or there are more than 2^31 - 1 entries.

    Cost: time and memory proportional to the entries: 12 bytes of each are kept. Probabilities are
    rounded to multiples of 2^-24 of 1 / (entries of the row).
    """
    check_is("weights", weights, csr_array)
    if weights.nnz > LARGEST_COUNT:
        raise InputError(f"weights must have at most {LARGEST_COUNT} entries; got {weights.nnz}")
    data = weights.data.astype(np.float64)
    if not (np.isfinite(data).all() and (data >= 0).all()):
        raise InputError("weights must be finite and nonnegative; some are not")
    start = weights.indptr.astype(np.int64)
    own = weights.indices.astype(np.int32)
    threshold, alias = np.empty(data.size, np.float32), own.copy()
    cuts = np.searchsorted(start, np.linspace(0, data.size, 16 * num_threads() + 1)[1:-1])
    cuts = np.minimum([0, *cuts, start.size - 1], start.size - 1).tolist()
    fill = partial(_fill, start, own, data, threshold, alias)
    run(fill, [(a, b) for a, b in itertools.pairwise(cuts) if a < b])
    offsets = start.astype(np.int32)
    arrays = offsets[:-1], np.diff(offsets), threshold, own, alias
    return AliasTables(*map(jnp.asarray, arrays))


def draw(tables: AliasTables, key: PRNGKeyArray, rows: Int[Array, "..."]) -> Int32[Array, "..."]:
    """One column for each entry of `rows`, independently, with the probabilities of that row.

    Works under `jit`, `vmap` and `scan`. A row without entries gives a column of another row.

    Cost: three random numbers and five gathers each.
    """
    of_entry, of_share = jax.random.split(key)
    size = jnp.maximum(tables.size[rows], 1)
    entry = tables.start[rows] + jax.random.randint(of_entry, rows.shape, 0, size, jnp.int32)
    share = jax.random.uniform(of_share, rows.shape, tables.threshold.dtype)
    return jnp.where(share < tables.threshold[entry], tables.own[entry], tables.alias[entry])


@compiled
def _fill(start, own, weights, threshold, alias, low, high):
    """Fills the tables of the rows from `low` to `high`."""
    for r in range(low, high):
        first, size = start[r], start[r + 1] - start[r]
        share = weights[first : first + size].copy()
        share *= size / max(share.sum(), 1e-300)
        small, large = np.empty(size, np.int64), np.empty(size, np.int64)
        num_small, num_large = 0, 0
        for i in range(size):
            if share[i] < 1:
                small[num_small] = i
                num_small += 1
            else:
                large[num_large] = i
                num_large += 1
        while num_small and num_large:
            num_small -= 1
            i, j = small[num_small], large[num_large - 1]
            threshold[first + i] = share[i]
            alias[first + i] = own[first + j]
            share[j] -= 1 - share[i]
            if share[j] < 1:
                num_large -= 1
                small[num_small] = j
                num_small += 1
        # What is left has a share of 1, up to rounding.
        for k in range(num_small):
            threshold[first + small[k]] = 1
        for k in range(num_large):
            threshold[first + large[k]] = 1

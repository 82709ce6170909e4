"""Mean contexts of a large vocabulary, as sparse matrices, and their products with values."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.custom_batching import sequential_vmap
from jax.experimental.sparse import BCSR
from jaxtyping import Array, Float
from scipy.sparse import csr_array

from assocjax.precision import matmul
from assocjax.storage.display import summarized

_ROWS_ENTRIES = 1 << 24  # of a dense block of rows, to measure what is left out
_COLUMNS = 32  # of the values that a product reads at once, so that they stay in a CPU's cache


@summarized
@struct.dataclass
class SparseContext:
    """E[A_0 X | x] with only the K largest entries of each row; the rest of all rows is alike.

    Row x is row x of `largest`, and `rest[x]` times the distribution `tail`, which is the mean of
    what is left out. `transposed` is `largest` transposed, for gradients. `error` is the mean over
    positions of the total variation distance, half of the sum of absolute differences, between this
    row and the exact one.
    """

    largest: BCSR
    transposed: BCSR
    rest: Float[Array, " V"]
    tail: Float[Array, " V"]
    error: Float[Array, ""]


def sparse_context(
    context: csr_array, frequency: Float[np.ndarray, " V"], entries: int
) -> SparseContext:
    """The `entries` largest of each row of `context`, where tokens have these frequencies."""
    V, dtype = context.indptr.size - 1, jnp.result_type(float)
    row = np.repeat(np.arange(V), np.diff(context.indptr))
    order = np.lexsort((np.negative(context.data), row))
    # The rank within its row of each entry that `order` sorts.
    rank = np.arange(row.size) - np.asarray(context.indptr)[row]
    top = order[rank < entries]
    place = row[top], context.indices[top]
    largest = csr_array((context.data[top], place), shape=(V, V))
    left_out = context.copy()
    left_out.data[top] = 0
    rest = np.asarray(left_out.sum(axis=1))
    tail = np.asarray(frequency @ left_out)
    tail = tail / tail.sum() if tail.any() else np.full(V, 1 / V)
    error, size = 0.0, max(1, _ROWS_ENTRIES // V)
    for first in range(0, V, size):
        rows = slice(first, first + size)
        difference = np.asarray(left_out[rows].toarray()) - rest[rows, None] * tail
        error += frequency[rows] @ np.abs(difference).sum(axis=1) / 2
    matrices = _on_device(largest), _on_device(csr_array(largest.T))
    return SparseContext(*matrices, *(jnp.asarray(each, dtype) for each in (rest, tail, error)))


def attend_on_average(
    context: Float[Array, "V V"] | SparseContext, v: Float[Array, "V d"]
) -> Float[Array, "V d"]:
    """The product of E[A_0 X | x] with values. The context itself gets no gradient.

    Cost: V^2 d multiply-adds, or d for each entry of a sparse context.
    """
    if not isinstance(context, SparseContext):
        return matmul(context, v)
    top = _product(context.largest, context.transposed, v)
    return top + context.rest[:, None] * matmul(context.tail[None], v)


def _on_device(matrix: csr_array) -> BCSR:
    data = jnp.asarray(matrix.data, jnp.result_type(float))
    indices, starts = (jnp.asarray(each, jnp.int32) for each in (matrix.indices, matrix.indptr))
    return BCSR((data, indices, starts), shape=(len(starts) - 1, matrix.indptr.size - 1))


@jax.custom_vjp
def _product(matrix: BCSR, transposed: BCSR, v: Float[Array, "V d"]) -> Float[Array, "V d"]:
    """matrix v; its derivative is such a product too, since JAX's own scatters row by row."""
    return _multiply(matrix, v)


@sequential_vmap
def _multiply(matrix, v):
    columns = v.shape[1]
    v = jnp.pad(v, ((0, 0), (0, -columns % _COLUMNS)))
    blocks = jnp.moveaxis(v.reshape(len(v), -1, _COLUMNS), 1, 0)
    product = jax.lax.map(lambda block: matrix @ block, blocks)
    return jnp.moveaxis(product, 0, 1).reshape(len(product[0]), -1)[:, :columns]


def _forward(matrix, transposed, v):
    return _multiply(matrix, v), transposed


def _backward(transposed, cotangent):
    return None, None, _multiply(transposed, cotangent)


_product.defvjp(_forward, _backward)

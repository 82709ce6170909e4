"""The exact gradient through tables: products of weights once per step, gathered per sequence.

The first layer's input is one-hot, so h_0 M = E M[d] for any matrix M. Here d [u] are the distinct
tokens of a sequence, and E [T,u] is one-hot and marks where each occurs (products with E are
gathers and sums of rows). From layer to layer

    h_l M = h_{l-1} M + A_l h_{l-1} (V_l M)

For a set S of layers let C_S [T,u] be the product of their A_l, the last layer first, times E, and
let M_S be the product of their `value` matrices, the first layer first. It follows that

    logits = sum_S C_S (M_S W_O)[d]
    scores of layer l = sum_{S,S'} C_S (M_S W_l M_S'^T)[d,d] C_S'^T

where S runs over all subsets of the L layers in the first sum, and S and S' over all subsets of the
layers before l in the second. Products of [T,V] by [V,V] are thus replaced by products of [V,V]
matrices, the tables, once per step, and T u V work per sequence. In the backward pass a sequence
adds to rows and entries of the tables' cotangents in place, which are pulled back through the
products once per step.

Rows of the first table of the logits, W_O, are gathered: a position with input x and target y adds
p - e_y to row x of its cotangent. In float32 the small p would be lost beside the many e_y of a
frequent pair. So sequences add p - 1/V only, and e_y - 1/V is computed from integer counts: it is
the bigram of the corpus.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from assocjax.models.attention_only import attention, count_valid, sum_nll
from assocjax.models.microbatches import fold_microbatches
from assocjax.models.params import Params
from assocjax.precision import dot, matmul
from assocjax.statistics.scatter import centred_counts


class _Tables(NamedTuple):
    """Lists of the tables of the logits, and for every layer of the tables of its scores.

    Table i of the logits belongs to the set S of layers that are set bits of i, layer 1 the lowest
    bit. Table 2^(l-1) i + j of the scores of layer l belongs to S = bits of i and S' = bits of j.
    """

    logits: list[Array]
    scores: list[list[Array]]


def num_products(num_layers: int) -> int:
    """Number of products of [V,V] matrices to compute all tables; the backward pass has twice as
    many."""
    return num_tables(num_layers) - num_layers - 1


def num_tables(num_layers: int) -> int:
    """Number of tables: 2^L of the logits and sum_l 4^(l-1) of the scores."""
    return 2**num_layers + (4**num_layers - 1) // 3


@partial(jax.jit, static_argnames=("microbatch_size", "max_distinct"))
def tables_loss_and_gradient(
    params: Params, tokens, mask, microbatch_size: int, max_distinct: int
) -> tuple[Float[Array, ""], Params]:
    """As `exact_loss_and_gradient`, for arguments that have been checked."""
    # Divide inside the sums, so that they stay of the order of the gradient.
    share = 1 / count_valid(mask, params.output.dtype)
    tables, pull_back = jax.vjp(_make_tables, params)

    single = microbatch_size == 1  # then without an axis of length 1, which would cost copies

    def each(function, in_axes: Any = 0):
        return function if single else jax.vmap(function, in_axes)

    @partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def microbatch_loss(gathered, position, *sequences):
        losses = each(_sequence_loss, (0, None, 0, 0, 0))(gathered, position, *sequences)
        nll, counted = (share * jnp.sum(terms) for terms in losses)
        return nll + counted, nll

    def add(sums, tokens, mask):
        if single:
            tokens, mask = tokens[0], mask[0]
        loss, cotangents, position = sums
        x, y = tokens[..., :-1], tokens[..., 1:]
        d, place = each(partial(_distinct, count=max_distinct))(x)
        pairs = (d[..., :, None], d[..., None, :])
        # For S = {} gather the rows of the inputs directly, which is cheaper than E M[d].
        rows = [x, *[d] * (len(tables.logits) - 1)]
        gathered = _Tables(
            [table[index] for table, index in zip(tables.logits, rows, strict=True)],
            [[table[pairs] for table in layer] for layer in tables.scores],
        )
        found = microbatch_loss(gathered, params.position, place, y, mask)
        (_, nll), (found, of_position) = found

        def add_at(table, index, found):
            return table.at[index].add(found)

        cotangents = _Tables(
            list(map(add_at, cotangents.logits, rows, found.logits)),
            [
                [add_at(table, pairs, entries) for table, entries in zip(*layers, strict=True)]
                for layers in zip(cotangents.scores, found.scores, strict=True)
            ],
        )
        return loss + nll, cotangents, position + of_position

    zeros = jax.tree.map(jnp.zeros_like, (share, tables, params.position))
    sums = fold_microbatches(add, zeros, tokens, mask, microbatch_size)
    loss, cotangents, position = sums
    cotangents.logits[0] -= share * _centred_bigram(tokens, mask, params.output)
    (gradient,) = pull_back(cotangents)
    return loss, gradient.replace(position=position)


def _centred_bigram(tokens, mask, like):
    """Sum over positions of e_x (e_y - 1/V)^T, from integer counts."""
    counts = jnp.zeros(like.shape, jnp.int32)
    counts = counts.at[tokens[:, :-1], tokens[:, 1:]].add(mask.astype(jnp.int32))
    return centred_counts(counts, jnp.sum(counts, axis=1, dtype=counts.dtype), like.dtype)


def _make_tables(params: Params) -> _Tables:
    def expand(matrix, num_layers):  # M_S matrix, for every subset S of the first layers
        tables = [matrix]
        for value in params.value[:num_layers][::-1]:
            tables = [table for M in tables for table in (M, matmul(value, M))]
        return tables

    def score_tables(layer):
        left = expand(params.query_key[layer], layer)
        return [table.T for M in left for table in expand(M.T, layer)]

    L = len(params.value)
    return _Tables(expand(params.output, L), [score_tables(layer) for layer in range(L)])


def _distinct(x, count: int):
    """The distinct tokens of a sequence, padded to `count`, and the index of each x among them.

    They are sorted by id, so that memory is accessed in order. If `count` is T or more, returns the
    sequence itself and None.
    """
    if count >= len(x):
        return x, None
    return jnp.unique(x, return_inverse=True, size=count)


@jax.custom_vjp
def _product(a: Array, b: Array) -> Array:
    """The product of two matrices, with a gradient that transposes nothing in memory."""
    return matmul(a, b)


def _product_gradient(factors, cotangent):
    a, b = factors
    return dot(cotangent, b, (1, 1)), dot(a, cotangent, (0, 0))


_product.defvjp(lambda a, b: (matmul(a, b), (a, b)), _product_gradient)


def _sequence_loss(gathered: _Tables, position, place, targets, mask):
    """Two sums over the positions of one sequence, computed from the gathered tables.

    The first is the sum of negative log-likelihoods. The second sums logits[y] - mean(logits), from
    the first table of the logits only; minus its gradient is computed from counts instead.
    """

    def expand(rows: Array) -> Array:  # E rows; NaN, not wrong values, if `count` was too small
        return rows if place is None else rows.at[place].get(mode="fill", fill_value=jnp.nan)

    def fold(A_TxT):  # A E
        if place is None:
            return A_TxT
        return jax.ops.segment_sum(A_TxT.T, place, len(gathered.scores[0][0])).T

    C: list = []  # C_S [T,u] for every non-empty S of the layers so far

    def mix(tables):  # sum_S C_S tables_S
        return sum(map(_product, C, tables[1:]), start=expand(tables[0]))

    for layer, entries in enumerate(gathered.scores):
        by_key = [mix(entries[key :: 2**layer]).T for key in range(2**layer)]
        A_TxT = attention(mix(by_key).T, position[layer], mask)
        C += [fold(A_TxT), *(_product(A_TxT, C_S) for C_S in C)]
    rows = gathered.logits[0]
    logits = sum(map(_product, C, gathered.logits[1:]), start=rows)
    counted = jnp.take_along_axis(rows, targets[:, None], axis=-1)[:, 0] - jnp.mean(rows, axis=-1)
    return sum_nll(logits, targets, mask), jnp.sum(jnp.where(mask, counted, 0))

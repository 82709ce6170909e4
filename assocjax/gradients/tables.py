"""The exact gradient through tables: products of weights once a step, gathers of them a sequence.

The first layer's input is one-hot, so that h_0 M = M[x] for any matrix M, and from layer to layer

    h_l M = h_{l-1} M + A_l h_{l-1} (V_l M)

Hence the logits h_L W_O are mixtures, by attention, of rows x of the 2^L tables M_S W_O, where M_S
is the product of the `value` matrices of some layers S, in their order. In the same way the scores
h_{l-1} W_l h_{l-1}^T are mixtures, by attention from both sides, of entries [x, x] of the 4^(l-1)
tables M_S W_l M_S'^T. All products of [T,V] by [V,V] have become products of [V,V] matrices, made
once a step, and T^2 V work a sequence. Backward, a sequence adds to rows and entries of the tables'
cotangents, in place; these are pulled back through the products once a step.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from assocjax.gradients.microbatches import fold_microbatches
from assocjax.linalg import matmul
from assocjax.model import attention, count_valid, sum_nll
from assocjax.params import Params


class _Tables(NamedTuple):
    """Tables of the logits, and for every layer those of its scores: lists, each table its own.

    Table i of the logits is of the layers S that are bits of i, layer 1 the lowest; table
    2^(l-1) i + j of the scores of layer l is of S = bits of i and S' = bits of j.
    """

    logits: list
    scores: list[list]


def num_products(num_layers: int) -> int:
    """Products of [V,V] matrices in a forward pass over the tables; backward twice as many."""
    return num_tables(num_layers) - num_layers - 1


def num_tables(num_layers: int) -> int:
    """2^L tables of the logits and sum_l 4^(l-1) of the scores."""
    return 2**num_layers + (4**num_layers - 1) // 3


@partial(jax.jit, static_argnames="microbatch_size")
def tables_loss_and_gradient(
    params: Params, tokens, mask, microbatch_size: int
) -> tuple[Float[Array, ""], Params]:
    """As `exact_loss_and_gradient`, of arguments that have been checked."""
    # The mean's denominator goes inside, so that the sums stay of the order of the gradient.
    share = 1 / count_valid(mask, params.output.dtype)
    tables, pull_back = jax.vjp(_make_tables, params)

    @partial(jax.value_and_grad, argnums=(0, 1))
    def microbatch_loss(gathered, position, targets, mask):
        losses = jax.vmap(_sequence_loss, (0, None, 0, 0))(gathered, position, targets, mask)
        return share * jnp.sum(losses)

    def add(sums, tokens, mask):
        loss, cotangents, position = sums
        x = tokens[:, :-1]
        rows, pairs = (x,), (x[:, :, None], x[:, None, :])
        gathered = _Tables(
            [table[rows] for table in tables.logits],
            [[table[pairs] for table in layer] for layer in tables.scores],
        )
        nll, (found, of_position) = microbatch_loss(gathered, params.position, tokens[:, 1:], mask)

        def add_at(index, cotangents, found):
            return [a.at[index].add(b) for a, b in zip(cotangents, found, strict=True)]

        cotangents = _Tables(
            add_at(rows, cotangents.logits, found.logits),
            list(map(partial(add_at, pairs), cotangents.scores, found.scores)),
        )
        return loss + nll, cotangents, position + of_position

    zeros = jax.tree.map(jnp.zeros_like, (share, tables, params.position))
    sums = fold_microbatches(add, zeros, tokens, mask, microbatch_size)
    loss, cotangents, position = sums
    (gradient,) = pull_back(cotangents)
    return loss, gradient.replace(position=position)


def _make_tables(params: Params) -> _Tables:
    def expand(matrix, num_layers):  # M_S matrix, for every S of the first layers
        tables = [matrix]
        for value in params.value[:num_layers][::-1]:
            tables = [table for M in tables for table in (M, matmul(value, M))]
        return tables

    def score_tables(layer):
        left = expand(params.query_key[layer], layer)
        return [table.T for M in left for table in expand(M.T, layer)]

    L = len(params.value)
    return _Tables(expand(params.output, L), [score_tables(layer) for layer in range(L)])


def _sequence_loss(gathered: _Tables, position, targets, mask):
    """Sum of the negative log-likelihoods of one sequence, of what it gathered from the tables."""
    A: list = []

    def mix(rows):
        for A_TxT in A:
            rows = [M + matmul(A_TxT, VM) for M, VM in zip(rows[::2], rows[1::2], strict=True)]
        return rows[0]

    for layer, entries in enumerate(gathered.scores):
        by_key = [mix(entries[key :: 2**layer]).T for key in range(2**layer)]
        A.append(attention(mix(by_key).T, position[layer], mask))
    return sum_nll(mix(gathered.logits), targets, mask)

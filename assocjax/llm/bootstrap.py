"""How much a similarity varies with the sample of text: a bootstrap over groups of documents.

Counts are integers that add up over sequences. Groups consist of consecutive sequences, so that
documents stay together. A replicate draws as many groups as there are, with replacement, and needs
only the counts of each group. So the text is read once, and a replicate costs products of sparse
matrices. The model's vectors are fixed: an interval describes the variation of the theory's text,
not that of the choice of tokens or of the model's own training.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from operator import add
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int
from scipy.sparse import csr_array

from assocjax.arguments import LARGEST_DRAWS, check_choice, check_integer, check_is
from assocjax.checks import Sequences, as_array, check_number
from assocjax.errors import InputError
from assocjax.llm.similarity import (
    CENTERINGS,
    Matrix,
    centre,
    check_matrices,
    num_tokens,
    ratio,
    scale_rows,
)
from assocjax.llm.theory import TokenRows, check_token_ids, compose
from assocjax.precision import matmul
from assocjax.statistics.counting import choose_units, count
from assocjax.statistics.sparse import RESIDUALS


class Interval(NamedTuple):
    """A similarity and its percentile interval.

    similarity  of the whole text
    low, high   bounds of the interval with the middle share `level` of the replicates
    mean        of the replicates. A replicate repeats some of the text and lacks some, and so its
                matrices are noisier: mean - similarity estimates the bias of a score by noise of
                this size. If an interval is far from its similarity, this bias dominates
    """

    similarity: Float[np.ndarray, "..."]
    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]
    mean: Float[np.ndarray, "..."]


def bootstrap_similarity(
    A: Matrix,
    source: Sequences,
    token_ids: Int[ArrayLike, " n"],
    *,
    num_groups: int = 32,
    num_replicates: int = 100,
    level: float = 0.95,
    seed: int = 0,
    centering: str = "feature",
    residual: str = "uniform",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Interval]:
    """Percentile intervals of a model's similarity with the theory's matrices.

    `query_key` is left out, since it needs a second pass over the text for every replicate.

    Args:
      A: [n,d], a `FactoredMatrix`, or either with a leading axis of layers; row i belongs to
        `token_ids[i]`.
      source, token_ids, residual: as in `basis_matrices`.
      num_groups: number of groups of consecutive sequences of nearly equal size, from 2 to the
        number of sequences.
      num_replicates: at least 2. Weights of the groups are NumPy's
        `default_rng(seed).multinomial(num_groups, [1 / num_groups] * num_groups, num_replicates)`.
      level: between 0 and 1.
      centering: as in `covariance_similarity`.
      progress: called with (steps done, steps in total); a group or a replicate is a step.

    Returns:
      `Interval` for each of "bigram", "context", "interchangeability", "value", with entries [] or
      [layers].

    Raises:
      InputError, InputTypeError: as `basis_matrices` and `covariance_similarity`; a number is out
        of range; a group has no valid position.

    Cost: one pass of counting; for each replicate n nnz(B[s,:]) + 4 n^3 multiply-adds and 4 n^2 for
      each layer. Memory: n^2 numbers for each layer, and 16 bytes for each entry of Phi[:,s] of
      every group.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    check_is("source", source, Sequences)
    ids = check_token_ids(token_ids, source.vocab_size)
    check_choice("centering", centering, CENTERINGS)
    check_choice("residual", residual, RESIDUALS)
    num_groups = check_integer("num_groups", num_groups, minimum=2)
    num_replicates = check_integer(
        "num_replicates", num_replicates, minimum=2, maximum=LARGEST_DRAWS
    )
    seed = check_integer("seed", seed, minimum=0)
    level = check_number("level", level, minimum=0)
    N = source.num_sequences
    if num_groups > N:
        raise InputError(f"num_groups must be at most the {N} sequences; got {num_groups}")
    if not 0 < level < 1:
        raise InputError(f"level must be between 0 and 1; got {level:g}")
    layers, single = _as_layers(A, ids.size)
    report = progress or (lambda done, total: None)
    total = num_groups + 1 + num_replicates

    parts = []
    for group in range(num_groups):
        here = range(N * group // num_groups, N * (group + 1) // num_groups)
        parts.append(_count_tokens(source, here, ids))
        if parts[-1].positions == 0:
            raise InputError(
                f"num_groups must leave valid positions in every group; group {group}, sequences "
                f"{here.start} to {here.stop}, has none"
            )
        report(group + 1, total)
    unit = 2.0 ** -choose_units(N, source.seq_len).attention
    inner = _inner_products(layers, centering)
    draws = np.random.default_rng(seed).multinomial(
        num_groups, np.full(num_groups, 1 / num_groups), num_replicates
    )
    scores: dict[str, list[np.ndarray]] = {}
    for step, weights in enumerate([np.ones(num_groups, np.int64), *draws]):
        for name, matrix in compose(_weighted(parts, weights, ids, residual, unit)).items():
            score = np.asarray(_scores(inner, jnp.asarray(matrix), centering))
            scores.setdefault(name, []).append(score[0] if single else score)
        report(num_groups + step + 1, total)
    tails = [(1 - level) / 2, (1 + level) / 2]
    intervals = {}
    for name, (whole, *replicates) in scores.items():
        low, high = np.quantile(replicates, tails, axis=0)
        intervals[name] = Interval(whole, low, high, np.mean(replicates, axis=0))
    return intervals


class _TokenCounts(NamedTuple):
    """Integer sums (int64) over a group of sequences, from which `TokenRows` is computed."""

    rows: csr_array
    columns: csr_array
    context: csr_array
    inputs: np.ndarray
    targets: np.ndarray
    keys: np.ndarray
    positions: int


def _count_tokens(source: Sequences, sequences: range, ids: np.ndarray) -> _TokenCounts:
    bigram, context = count(source, sequences)
    return _TokenCounts(
        rows=bigram[ids],
        columns=bigram[:, ids],
        context=context[:, ids],
        inputs=bigram.sum(axis=1),
        targets=bigram.sum(axis=0),
        keys=context.sum(axis=0),
        positions=int(bigram.sum()),
    )


def _weighted(
    parts: Sequence[_TokenCounts], weights: np.ndarray, ids: np.ndarray, residual: str, unit: float
) -> TokenRows:
    """The parts of B and Phi of a text that contains each group `weights` times."""
    pairs = (zip(of, weights.tolist(), strict=True) for of in zip(*parts, strict=True))
    total: Any = _TokenCounts(
        *(reduce(add, (count * weight for count, weight in of if weight)) for of in pairs)
    )
    M, V = total.positions, total.keys.size
    chance = total.targets / M if residual == "unigram" else np.full(V, 1 / V)
    return TokenRows(
        ids,
        total.rows * (1 / M),
        total.columns * (1 / M),
        total.context * (unit / M),
        u=-total.inputs / M,
        v=chance,
        p=-chance,
        a=total.keys * (unit / M),
    )


def _as_layers(A: Matrix, n: int) -> tuple[Matrix, bool]:
    """A with a leading axis of layers, and whether that axis was added."""
    leaves, structure = jax.tree.flatten(A)
    leaves = [as_array("A", leaf) for leaf in leaves]
    single = all(np.ndim(leaf) == 2 for leaf in leaves)
    layers = [jnp.asarray(leaf)[None] if single else jnp.asarray(leaf) for leaf in leaves]
    if not layers or any(leaf.ndim != 3 or not len(leaf) for leaf in layers):
        raise InputError(
            "A must have shape [n, d] or [layers, n, d], or factors that do; got "
            f"{', '.join(str(np.shape(leaf)) for leaf in leaves)}"
        )
    layers = jax.tree.unflatten(structure, layers)
    first = jax.tree.map(lambda leaf: leaf[0], layers)
    check_matrices(first, jnp.zeros((num_tokens(first), 1)))
    if num_tokens(first) != n:
        raise InputError(
            f"A must have a row for each of the {n} token_ids; got {num_tokens(first)}"
        )
    return layers, single


@partial(jax.jit, static_argnames="centering")
def _inner_products(layers: Matrix, centering: str) -> Float[Array, "layers n n"]:
    """A A^T of every layer, centred, of norm 1 (NaN where it is zero)."""

    def inner(A):
        rows = centre(A, centering).rows
        G = matmul(rows, rows.T)
        return ratio(G, jnp.linalg.norm(G))

    return jax.lax.map(inner, layers)


@partial(jax.jit, static_argnames="centering")
def _scores(inner: Float[Array, "layers n n"], matrix, centering: str) -> Float[Array, " layers"]:
    rows = centre(scale_rows(matrix.astype(inner.dtype)), centering).rows
    K = matmul(rows, rows.T)
    return ratio(matmul(inner.reshape(len(inner), -1), K.reshape(-1)), jnp.linalg.norm(K))

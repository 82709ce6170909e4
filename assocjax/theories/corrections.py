"""The effective theory, corrected: what attention that has left uniform does to all weights.

The effective path is smooth, and so is the exact gradient along it. So a few exact gradients, at
nodes of the path, tell how far off it is everywhere: their difference from the effective gradient,
interpolated in time, is added to it, and the path is followed again (deferred correction). To first
order that is attention's feedback; each further correction adds an order.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from assocjax.arguments import LARGEST_DEPTH, LARGEST_PATH, check_integer, check_is
from assocjax.checks import CorpusLike, check_number, check_tokens
from assocjax.errors import InputError
from assocjax.models.agreement import compare_params
from assocjax.models.params import WEIGHTS, Params, init_params
from assocjax.statistics.moments import EffectiveStatistics
from assocjax.theories.effective import effective_gradient, uniform_attention_gradient
from assocjax.theories.quadrature import Descent, lagrange_basis, leja_points
from assocjax.training.exact import exact_gradient


class CorrectedWeights(NamedTuple):
    """Weights, the passes over the data that they took, and for each weight by how much the last
    correction changed it, relative to it (the worst layer): about the error before it. NaN where a
    weight is zero."""

    params: Params
    passes: int
    change: dict[str, float]


def corrected_weights(
    statistics: EffectiveStatistics,
    data: CorpusLike,
    mask: ArrayLike | None = None,
    *,
    num_layers: int,
    steps: int,
    learning_rate: float,
    corrections: int = 1,
    nodes: int = 10,
) -> CorrectedWeights:
    """Weights of gradient descent from zero, by the effective theory and corrections to it.

    Args:
      statistics: `effective_statistics` of the corpus, of a depth of L or more; their dtype is
        that of the weights.
      data, mask: the same corpus, as of `exact_gradient`.
      num_layers: L.
      steps, learning_rate: of plain gradient descent.
      corrections: how many times the path is corrected, at least 1.
      nodes: steps of the path, at most all but two, at which exact gradients are taken.

    Returns:
      `CorrectedWeights`; a change is NaN of a weight that is zero.

    Raises:
      InputError, InputTypeError: an argument cannot be used, or the weights diverge.

    Cost: for each node a pass of `uniform_attention_gradient` and `corrections` passes of
    `exact_gradient`, whatever `steps` is: it pays where steps are many and small. `corrections` + 1
    times `steps` of `effective_gradient`. Memory: three copies of the weights for each node.
    Source: this package; for deferred correction Dutt, Greengard, Rokhlin 2000.
    """
    num_layers = check_integer("num_layers", num_layers, minimum=1, maximum=LARGEST_DEPTH)
    # Before three steps attention has not moved.
    steps = check_integer("steps", steps, minimum=3, maximum=LARGEST_PATH // 10)
    corrections = check_integer("corrections", corrections, minimum=1)
    nodes = check_integer("nodes", nodes, minimum=1)
    learning_rate = check_number("learning_rate", learning_rate, minimum=0)
    check_is("statistics", statistics, EffectiveStatistics)
    V = statistics.frequency.shape[0]
    tokens, mask = check_tokens(data, mask, V)
    zero = init_params(
        jax.random.key(0),
        vocab_size=V,
        seq_len=mask.shape[1],
        num_layers=num_layers,
        dtype=statistics.context.dtype,
    )
    clock = Descent(statistics, learning_rate)
    every = np.arange(steps)
    moving, power = every[2:], clock.power(every)
    times = leja_points([], moving, power[2:], min(nodes, len(moving)))
    basis = lagrange_basis(times, every, power, clock.power(np.array(times)))
    # What each node's gradient adds up to before each node, and before the end.
    sums = np.concatenate([np.zeros((1, len(times))), np.cumsum(basis, axis=0)])
    sums = -learning_rate * sums[[*times, steps]]

    def path(defects: Params | None) -> list[Params]:
        found, at = [], zero
        for start, stop in zip([0, *times], [*times, steps], strict=True):
            at = _descend(at, statistics, learning_rate, start, stop, basis, defects)
            found.append(at)
        return found

    def attend(states: list[Params], gradients: Params) -> list[Params]:
        query_key, position = (
            jnp.tensordot(jnp.asarray(sums, leaf.dtype), leaf, axes=1)
            for leaf in (gradients.query_key, gradients.position)
        )
        return [
            Params(query_key[i], position[i], state.value, state.output)
            for i, state in enumerate(states)
        ]

    states = path(None)
    uniform = [uniform_attention_gradient(state, tokens, mask) for state in states[:-1]]
    query_key, position = (jnp.stack(leaves) for leaves in zip(*uniform, strict=True))
    states = attend(states, Params(query_key, position, None, None))  # type: ignore[arg-type]
    before = states[-1]
    for _ in range(corrections):
        before = states[-1]
        exact = _stack([exact_gradient(state, tokens, mask) for state in states[:-1]])
        effective = _stack([effective_gradient(state, statistics) for state in states[:-1]])
        states = attend(path(jax.tree.map(jnp.subtract, exact, effective)), exact)
    if not all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(states[-1])):
        raise InputError(
            f"the corrected weights diverge before step {steps}: take a smaller learning_rate, or "
            "fewer steps"
        )
    compared = compare_params(states[-1], before)
    change = {name: float(np.max(compared[name].relative_error)) for name in WEIGHTS}
    return CorrectedWeights(states[-1], len(times) * (1 + corrections), change)


def _stack(trees: list[Params]) -> Params:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@jax.jit
def _descend(params, statistics, learning_rate, start, stop, basis, defects):
    """`value` and `output` from step `start` to `stop`, by the effective gradient and a defect."""
    dtype = params.output.dtype
    rate, basis = jnp.asarray(learning_rate, dtype), jnp.asarray(basis, dtype)

    def defect(leaves: Float[Array, "nodes ..."], step):
        return jnp.tensordot(basis[step], leaves, axes=1)

    def step(s, params):
        gradient = effective_gradient(params, statistics)
        value, output = gradient.value, gradient.output
        if defects is not None:
            value += defect(defects.value, s)
            output += defect(defects.output, s)
        return Params(
            params.query_key,
            params.position,
            params.value - rate * value,
            params.output - rate * output,
        )

    return lax.fori_loop(start, stop, step, params)

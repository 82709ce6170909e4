"""The effective theory corrected for attention's feedback: the effect of nonuniform attention on
all weights.

The trajectory of the effective theory is smooth, and so is the exact gradient along it. So a few
exact gradients, at some steps (the nodes), determine the error of the effective gradient: their
difference from it, interpolated in time, is added to the effective gradient, and the trajectory is
computed again (deferred correction). To first order this is attention's feedback; each further
correction adds an order.
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
from assocjax.models.exact import exact_gradient
from assocjax.models.params import WEIGHTS, Params, init_params
from assocjax.statistics.moments import EffectiveStatistics
from assocjax.storage.display import summarized
from assocjax.theories.effective import effective_gradient, uniform_attention_gradient
from assocjax.theories.quadrature import Descent, lagrange_basis, leja_points


@summarized
class CorrectedWeights(NamedTuple):
    """Corrected weights and their cost and accuracy.

    params: the weights.
    passes: number of passes over the data.
    change: for each weight the relative change by the last correction (of the worst layer), which
      estimates the error before that correction. NaN where a weight is zero.
    """

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
    """Weights of gradient descent from zero, by the effective theory with corrections.

    Args:
      statistics: `effective_statistics` of the corpus, of a depth of L or more; their dtype is
        that of the weights.
      data, mask: the same corpus, as in `exact_gradient`.
      num_layers: L.
      steps, learning_rate: of plain gradient descent.
      corrections: number of corrections, at least 1.
      nodes: number of steps, at most all but two, at which exact gradients are taken.

    Returns:
      `CorrectedWeights`.

    Raises:
      InputError, InputTypeError: an argument cannot be used, or the weights diverge.

    Cost: for each node one pass of `uniform_attention_gradient` and `corrections` passes of
    `exact_gradient`, independent of `steps`, so it is efficient for many small steps; and
    (`corrections` + 1) * `steps` times `effective_gradient`. Memory: three copies of the weights
    for each node.
    Source: this package; for deferred correction Dutt, Greengard, Rokhlin 2000.
    """
    num_layers = check_integer("num_layers", num_layers, minimum=1, maximum=LARGEST_DEPTH)
    # Attention weights first change in the third step.
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
    # Weights of the nodes' gradients in the sums over steps up to each node, and up to the end.
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
            f"the corrected weights diverge before step {steps}: choose a smaller learning_rate or "
            "fewer steps"
        )
    compared = compare_params(states[-1], before)
    change = {name: float(np.max(compared[name].relative_error)) for name in WEIGHTS}
    return CorrectedWeights(states[-1], len(times) * (1 + corrections), change)


def _stack(trees: list[Params]) -> Params:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@jax.jit
def _descend(params, statistics, learning_rate, start, stop, basis, defects):
    """Trains `value` and `output` from step `start` to `stop`: effective gradient plus defect."""
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

"""Weights of the effective theory after many steps, with few passes over the data.

`value` and `output` follow `effective_gradient`, which needs no pass over the data. `query_key` and
`position` are sums of the exact gradient g along that trajectory,

    W(s) = -eta sum_{s' < s} g(s')        gradient flow: W(tau) = -int_0^tau g

and g = mu q is the product of a known power mu, that of the leading terms, and a smooth q:
mu(s') = s' C(s',2) for gradient descent, tau^3 for gradient flow. So q is interpolated from few
nodes, while mu is summed exactly. Nodes are steps of the trajectory, chosen as Leja points, so that
nodes can be added one by one. An interval (panel) whose sum does not converge is halved. In the
limit every step is a node and the sum is exact.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import ArrayLike

from assocjax.arguments import LARGEST_DEPTH, LARGEST_PATH, check_integer, check_is
from assocjax.checks import CorpusLike, check_number, check_tokens
from assocjax.errors import InputError
from assocjax.models.params import Params, init_params
from assocjax.statistics.moments import EffectiveStatistics
from assocjax.storage.display import summarized
from assocjax.theories.effective import effective_gradient, uniform_attention_gradient
from assocjax.training.flow import gradient_flow

_FIRST_NODES = 4
_MORE_NODES = 2
_MOST_NODES = 14  # of a panel, before it is halved
_SMALLEST_PANEL = 2.0**-12  # as a share of a flow's duration
_CANDIDATES = 65  # points from which the nodes of a flow's panel are chosen


@summarized
class EffectiveWeights(NamedTuple):
    """Weights of the effective theory and their cost and accuracy.

    params: the weights.
    passes: number of passes over the data.
    error: estimated relative error of `query_key` and `position` by quadrature (the worst layer).
    """

    params: Params
    passes: int
    error: float


def effective_weights(
    statistics: EffectiveStatistics,
    data: CorpusLike,
    mask: ArrayLike | None = None,
    *,
    num_layers: int,
    steps: int | None = None,
    learning_rate: float | None = None,
    duration: float | None = None,
    tolerance: float = 1e-4,
    progress: Callable[[int], None] | None = None,
) -> EffectiveWeights:
    """Weights of the effective theory from a zero start, by gradient descent or gradient flow.

    Args:
      statistics: `effective_statistics` of the corpus, of a depth of L or more; their dtype is
        that of the weights.
      data, mask: the same corpus, as in `exact_gradient`.
      num_layers: L.
      steps, learning_rate: of plain gradient descent.
      duration: of gradient flow, instead of `steps` and `learning_rate`.
      tolerance: relative error of `query_key` and `position` allowed in the quadrature.
      progress: called after every pass over the data with the number of passes so far.

    Returns:
      `EffectiveWeights`.

    Raises:
      InputError, InputTypeError: an argument cannot be used, or the weights diverge.

    Cost: about `steps` times `effective_gradient` (as many again for each halving of a panel), and
    the passes over the data: about 6 while the theory is accurate, for any `steps`. Memory: three
    copies of the weights for every pass. Cannot be used under `jit`, since the number of passes
    depends on the values.
    """
    num_layers = check_integer("num_layers", num_layers, minimum=1, maximum=LARGEST_DEPTH)
    tolerance = check_number("tolerance", tolerance, minimum=0)
    check_is("statistics", statistics, EffectiveStatistics)
    V = statistics.frequency.shape[0]
    tokens, mask = check_tokens(data, mask, V)
    if (duration is None) == (steps is None) or (steps is None) != (learning_rate is None):
        raise InputError(
            "either steps and learning_rate or duration must be given; got "
            f"steps={steps}, learning_rate={learning_rate}, duration={duration}"
        )
    clock: Descent | _GradientFlow
    if duration is None:
        end = check_integer("steps", steps, minimum=0, maximum=LARGEST_PATH)
        clock = Descent(statistics, check_number("learning_rate", learning_rate, minimum=0))
    else:
        end = check_number("duration", duration, minimum=0)
        clock = _GradientFlow(statistics, end)
    zero = init_params(
        jax.random.key(0),
        vocab_size=V,
        seq_len=mask.shape[1],
        num_layers=num_layers,
        dtype=statistics.context.dtype,
    )
    path = _Path(clock, zero, tokens, mask, progress)
    attention, error = _integrate(path, 0, end, tolerance)
    query_key, position = attention
    params = dataclasses.replace(path.weights(end), query_key=query_key, position=position)
    return EffectiveWeights(params, path.passes, error)


class _Path:
    """The trajectory of `value` and `output`, and the attention gradients computed along it."""

    def __init__(self, clock, start: Params, tokens, mask, progress):
        self.clock, self.tokens, self.mask, self.progress = clock, tokens, mask, progress
        self.known: dict[Any, Params] = {0: start}
        self.gradients: dict[Any, tuple[jax.Array, jax.Array]] = {}
        self.passes = 0

    def weights(self, time) -> Params:
        if time not in self.known:
            nearest = max(t for t in self.known if t < time)
            weights = self.clock.advance(self.known[nearest], nearest, time)
            if not all(bool(jnp.all(jnp.isfinite(a))) for a in jax.tree.leaves(weights)):
                raise InputError(
                    f"the effective theory diverges before {self.clock.unit} {time}: choose a "
                    "smaller learning_rate or fewer steps"
                )
            self.known[time] = weights
        return self.known[time]

    def gradient(self, time):
        if time not in self.gradients:
            weights = self.weights(time)
            self.gradients[time] = uniform_attention_gradient(weights, self.tokens, self.mask)
            self.passes += 1
            if self.progress is not None:
                self.progress(self.passes)
        return self.gradients[time]

    def forget(self, before) -> None:
        """Frees everything before a time, except the last weights before it."""
        last = max(t for t in self.known if t <= before)
        self.known = {t: weights for t, weights in self.known.items() if t >= last}
        self.gradients = {t: g for t, g in self.gradients.items() if t >= before}


class Descent:
    unit, discrete = "step", True

    def __init__(self, statistics: EffectiveStatistics, learning_rate: float):
        self.statistics, self.learning_rate = statistics, learning_rate

    def advance(self, params: Params, start: int, stop: int) -> Params:
        return _descend(params, self.statistics, self.learning_rate, stop - start)

    def measure(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        steps = np.arange(start, stop)
        return steps, np.full(len(steps), self.learning_rate)

    def power(self, steps: np.ndarray) -> np.ndarray:
        steps = steps.astype(float)
        return steps * steps * (steps - 1) / 2

    def halve(self, start: int, stop: int) -> int | None:
        return (start + stop) // 2


class _GradientFlow:
    unit, discrete = "time", False

    def __init__(self, statistics: EffectiveStatistics, duration: float):
        self.statistics, self.duration = statistics, duration

    def advance(self, params: Params, start: float, stop: float) -> Params:
        moving = {"value": params.value, "output": params.output}
        moved = _flow(moving, params, self.statistics, stop - start)
        return dataclasses.replace(params, **jax.tree.map(lambda leaf: leaf[0], moved))

    def measure(self, start: float, stop: float) -> tuple[np.ndarray, np.ndarray]:
        x, weights = np.polynomial.legendre.leggauss(_CANDIDATES)
        half = (stop - start) / 2
        return start + half * (x + 1), half * weights

    def power(self, times: np.ndarray) -> np.ndarray:
        return times**3

    def halve(self, start: float, stop: float) -> float | None:
        return (start + stop) / 2 if stop - start > _SMALLEST_PANEL * self.duration else None


@jax.jit
def _descend(params, statistics, learning_rate, count):
    def step(_, params):
        gradient = effective_gradient(params, statistics)
        return jax.tree.map(lambda w, g: w - learning_rate * g, params, gradient)

    learning_rate = jnp.asarray(learning_rate, params.output.dtype)
    return lax.fori_loop(0, count, step, params)


@jax.jit
def _flow(moving, params, statistics, duration):
    def gradient(moving):
        found = effective_gradient(params.replace(**moving), statistics)
        return {name: getattr(found, name) for name in moving}

    times = jnp.asarray(duration, params.output.dtype)[None]
    return gradient_flow(moving, gradient, times, rtol=1e-8).params


def _integrate(path: _Path, start, stop, tolerance: float) -> tuple[tuple, float]:
    """-int g over [start, stop) and its estimated relative error, panel by panel from the left."""
    first = path.known[start]
    total = first.query_key, first.position  # zero
    doubt = np.zeros((len(total), len(first.position)))
    panels = [(start, stop)]
    while panels:
        left, right = panels.pop()
        sums, difference = _panel(path, left, right, total, tolerance)
        middle = path.clock.halve(left, right)
        if difference is None and middle is not None:
            panels += [(middle, right), (left, middle)]
            continue
        total = jax.tree.map(jnp.add, total, sums)
        doubt += math.nan if difference is None else difference
        path.forget(right)
    size = _norms(total)
    return total, float(np.max(np.divide(doubt, size, where=size > 0, out=np.zeros_like(size))))


def _panel(path: _Path, left, right, total, tolerance: float) -> tuple[Any, np.ndarray | None]:
    """-int g over a panel, and how much the last nodes changed it; None if more than allowed."""
    points, measure = path.clock.measure(left, right)
    power = path.clock.power(points)
    points, measure, power = (a[power > 0] for a in (points, measure, power))
    if not len(points):
        return jax.tree.map(jnp.zeros_like, total), np.zeros((len(total), len(total[1])))
    nodes = [time for time in path.gradients if left <= time < right]
    wanted = max(_FIRST_NODES, len(nodes))
    before = None
    while True:
        nodes = leja_points(nodes, points, power, min(wanted, len(points)))
        weights = measure @ lagrange_basis(nodes, points, power, path.clock.power(np.array(nodes)))
        sums = jax.tree.map(jnp.zeros_like, total)
        for weight, time in zip(weights.tolist(), nodes, strict=True):
            sums = jax.tree.map(lambda a, g, w=weight: a - w * g, sums, path.gradient(time))
        if set(points.tolist()) <= set(nodes) and path.clock.discrete:
            return sums, np.zeros((len(total), len(total[1])))
        if before is not None:
            difference = _norms(jax.tree.map(jnp.subtract, sums, before))
            size = _norms(jax.tree.map(jnp.add, sums, total))
            if np.all(difference <= tolerance * size):
                return sums, difference
            if wanted + _MORE_NODES > _MOST_NODES:
                return sums, None
        before = sums
        wanted += _MORE_NODES


def leja_points(nodes: list, points: np.ndarray, power: np.ndarray, wanted: int) -> list:
    """Adds points to the nodes, each where the interpolation error may be largest, and sorts."""
    half = (points[-1] - points[0]) / 2 or 1
    reach = np.sqrt(power / power[-1])
    for node in nodes:
        reach = reach * np.abs(points - node) / half
    nodes = list(nodes)
    while len(nodes) < wanted:
        node = points[np.argmax(reach)].item()
        reach = reach * np.abs(points - node) / half
        nodes.append(node)
    return sorted(nodes)


def lagrange_basis(nodes, points, power, power_at_nodes) -> np.ndarray:
    """Matrix [points, nodes] that interpolates an integrand over its power from nodes to points."""
    x = np.array(nodes, float)
    basis = np.ones((len(points), len(nodes)))
    for i, j in itertools.permutations(range(len(nodes)), 2):
        basis[:, i] *= (points - x[j]) / (x[i] - x[j])
    return basis * power[:, None] / power_at_nodes


def _norms(pair) -> np.ndarray:
    """Frobenius norms [weights, L]; scaled, since squares of entries near 1e-30 underflow."""

    def norm(leaf):
        largest = float(jnp.max(jnp.abs(leaf)))
        return largest and largest * float(jnp.linalg.norm((leaf / largest).reshape(-1)))

    return np.array([[norm(layer) for layer in leaf] for leaf in pair])

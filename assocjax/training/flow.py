"""Gradient flow: training by plain gradient descent in the limit of small steps."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int

from assocjax.arguments import check_callable, check_integer
from assocjax.checks import check_number, check_numbers, check_precision, is_traced
from assocjax.errors import InputError, InputTypeError
from assocjax.storage.display import summarized

Scalar = float | Float[Array, ""]


@summarized
class Flow(NamedTuple):
    """The weights at the requested times: the tree of the start, with a leading axis of times.

    `num_steps` counts the solver's steps, including rejected ones; each takes six gradients.
    """

    params: Any
    num_steps: Int[Array, ""]


def gradient_flow(
    params: Any,
    gradient: Callable[[Any], Any],
    times: ArrayLike,
    *,
    rtol: Scalar = 1e-6,
    atol: Scalar = 0.0,
    max_steps: int = 4096,
) -> Flow:
    """Solves d(params)/d(tau) = -gradient(params) from tau = 0, with adaptive steps.

    Gradient descent with learning rate eta agrees with it at tau = s eta to first order in eta. The
    flow thus separates the effect of a finite eta from the errors of a theory.

    Errors are relative to each leaf: in each step the solver's error estimate for an entry must be
    below `atol` plus `rtol` times the largest entry of its leaf. A norm over all leaves would see
    `output` only, since from zero the leaves grow as different powers of tau. Because errors are
    relative, the first steps are small, about `rtol` times the duration, but steps grow in
    proportion to tau: halving the first time adds a step or two.

    This is a pure function. Jit it (each call outside of `jit` compiles again); it can be vmapped
    over starts and differentiated in reverse mode.

    Args:
      params: initial weights: any tree whose leaves are all float32 or all float64.
      gradient: a function from such a tree to dL/d(params).
      times: vector of increasing tau >= 0; may be traced. Between steps the solver interpolates.
      rtol: positive; may be traced. At least 100 units of rounding, 1e-5 in float32, are used,
        since below that rounding alone makes the solver reject every step.
      atol: absolute error that is always accepted, for leaves that are zero except for rounding.
      max_steps: the largest number of steps, static.

    Returns:
      `Flow`, in the dtype of `params`. Under a trace, where no error can be raised, weights at
      times that were not reached are NaN.

    Raises:
      InputError, InputTypeError: invalid arguments; more than `max_steps` steps; a flow that
        diverges or whose gradient is not finite.

    Cost: six gradients per step, and one; from zero to tau = 3 at `rtol` 1e-6 about 30 steps.
    Memory: a dozen copies of the weights, one more for each time, and in reverse mode about
    sqrt(2 max_steps) more.
    Source: Tsitouras 2011, a 5(4) Runge-Kutta pair.
    """
    dtype = _check_params(params, gradient)
    times = _check_times(times)
    max_steps = check_integer("max_steps", max_steps, minimum=1)
    atol = check_number("atol", atol, minimum=0)
    rtol = check_number("rtol", rtol, minimum=0)
    if not is_traced(rtol) and rtol <= 0:
        raise InputError(f"rtol must be positive; got {rtol:g}")

    @jax.jit
    def solve(params, times, rtol, atol):
        times, rtol, atol = (jnp.asarray(x, dtype) for x in (times, rtol, atol))
        valid = jnp.all(jnp.isfinite(times)) & jnp.all(jnp.diff(times, prepend=0) >= 0)
        times = jnp.where(valid, times, 0)
        # The first step ends within the first time; otherwise the error of the interpolated
        # weights would be relative to a later, larger leaf.
        first = jnp.where(times[0] > 0, times[0], times[min(1, len(times) - 1)])
        info = jnp.finfo(dtype)
        rtol = jnp.maximum(rtol, 100 * info.eps)
        # Leaves that stay zero then have the relative error 0 / tiny = 0, not 0 / 0.
        atol = jnp.maximum(atol, info.tiny)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda tau, params, _: jax.tree.map(jnp.negative, gradient(params))),
            # A tenth of the error of Dopri5 or less, with a fifth more steps.
            diffrax.Tsit5(),
            t0=jnp.zeros((), dtype),
            t1=times[-1],
            dt0=jnp.minimum(rtol * times[-1], first),
            y0=params,
            saveat=diffrax.SaveAt(ts=times),
            stepsize_controller=_LeafController(rtol, atol, norm=_max),
            max_steps=max_steps,
            throw=False,
        )
        reached = valid & jnp.isfinite(solution.ts)  # type: ignore

        def mark(leaf):
            return jnp.where(reached.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, jnp.nan)

        exhausted = solution.result == diffrax.RESULTS.max_steps_reached
        flow = Flow(jax.tree.map(mark, solution.ys), solution.stats["num_steps"])
        return flow, reached, exhausted

    flow, reached, exhausted = solve(params, times, rtol, atol)
    if not is_traced(reached) and not np.all(reached):
        before = f"before tau={times[np.argmin(reached)]:g}"
        if exhausted:
            raise InputError(f"the flow needed more than max_steps={max_steps} steps {before}")
        raise InputError(f"the flow diverged or had a gradient that is not finite {before}")
    return flow


class _LeafController(diffrax.PIDController):
    """Compares the largest error in each leaf with the largest entry of that leaf.

    It stops when a step is too small to change tau in its precision, as in a flow that diverges.
    """

    def adapt_step_size(  # type: ignore
        self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state
    ):
        before, after, error = (jax.tree.map(_largest, y) for y in (y0, y1_candidate, y_error))
        # Relative to an infinite entry any error would be small.
        error = jax.tree.map(lambda e, a: jnp.where(jnp.isfinite(a), e, jnp.inf), error, after)
        after = jax.tree.map(lambda a, b: jnp.where(jnp.isfinite(a), a, b), after, before)
        *adapted, result = super().adapt_step_size(
            t0, t1, before, after, args, error, error_order, controller_state
        )
        _, next_t0, next_t1, *_ = adapted
        advances = next_t1 - next_t0 > 4 * jnp.finfo(next_t0.dtype).eps * next_t0  # type: ignore
        stalled = diffrax.RESULTS.dt_min_reached
        return *adapted, diffrax.RESULTS.where(advances, result, stalled)


def _largest(leaf):
    return jnp.max(jnp.abs(lax.stop_gradient(leaf)), initial=0)


def _max(scalars):
    return jnp.max(jnp.stack(jax.tree.leaves(scalars)))


def _check_params(params, gradient) -> Any:
    """Checks that params and gradient have the same structure and one dtype; returns the dtype."""
    check_precision(params)
    check_callable("gradient", gradient)
    dtypes = {np.dtype(leaf.dtype) for leaf in jax.tree.leaves(params)}
    if len(dtypes) != 1:
        found = sorted(map(str, dtypes))
        raise InputTypeError(f"params must be arrays of one dtype; got {found}")
    expected, found = jax.eval_shape(lambda params: (params, gradient(params)), params)
    if expected != found:
        raise InputTypeError(f"gradient must return a tree like params, {expected}; got {found}")
    return jax.dtypes.canonicalize_dtype(dtypes.pop())


def _check_times(times) -> np.ndarray | Float[Array, " times"]:
    if isinstance(times, Sequence) and any(map(is_traced, times)):
        times = jnp.stack([jnp.asarray(time, jnp.result_type(float)) for time in times])
    if isinstance(times, np.ndarray | jax.Array) and (times.ndim != 1 or not times.size):
        raise InputError(f"times must be a non-empty vector; got shape {times.shape}")
    if is_traced(times):
        return times  # type: ignore
    times = check_numbers("times", times, minimum=0)
    if np.any(np.diff(times) < 0):
        raise InputError(f"times must increase; got {times.tolist()}")
    return times

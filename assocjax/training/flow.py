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

Scalar = float | Float[Array, ""]


class Flow(NamedTuple):
    """Weights at the times that were asked for: every leaf of the start with an axis of them first.

    `num_steps` counts the solver's steps, those it took back included: six gradients each.
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
    """Follows d(params)/d(tau) = -gradient(params) from tau = 0, by steps of adaptive size.

    Gradient descent with steps of eta is near it at tau = s eta, to first order in eta. What eta
    alone does is so told apart from what a theory leaves out.

    Errors are relative to each leaf: a step adds to no entry more than `atol` plus `rtol` times
    the largest entry of its leaf, by the solver's estimate. From zero the leaves grow as different
    powers of tau, so that a norm over all of them would see `output` only. In the relative sense
    the first steps have to be small, about `rtol` of the whole, but grow as tau does: halving the
    first time adds a step or two.

    A pure function: jit it (each call outside of `jit` compiles anew), vmap it over starts, and
    differentiate it in reverse mode.

    Args:
      params: the start: `Params`, or any tree, its leaves float32 or float64 alike.
      gradient: any function of such a tree to dL/d(params).
      times: vector of increasing tau >= 0; may be traced. Between steps the solver interpolates.
      rtol: above 0; may be traced. Less than 100 units of rounding, 1e-5 in float32, are raised to
        that, since rounding alone would have every step rejected.
      atol: errors of any relative size that may pass, for leaves that are zero but for rounding.
      max_steps: the most steps before it gives up, static.

    Returns:
      `Flow`, in the dtype of `params`. Under a trace, where nothing can be raised, weights at times
      that it did not reach are NaN.

    Raises:
      InputError, InputTypeError: bad arguments; more than `max_steps`; a flow that diverges or
        whose gradient is not finite.

    Cost: six gradients a step and one; from zero to tau = 3 at `rtol` 1e-6 some 30 steps. Memory: a
    dozen copies of the weights, one more for each time, and in reverse mode about sqrt(2 max_steps)
    more.
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
        # Within the first time, else an interpolation would be relative to a later, larger leaf.
        first = jnp.where(times[0] > 0, times[0], times[min(1, len(times) - 1)])
        info = jnp.finfo(dtype)
        rtol = jnp.maximum(rtol, 100 * info.eps)
        # Leaves that stay zero have no error: 0 / tiny.
        atol = jnp.maximum(atol, info.tiny)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda tau, params, _: jax.tree.map(jnp.negative, gradient(params))),
            # A tenth of the error of Dopri5, or less, for a fifth more steps.
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

    It gives up where steps are lost in the rounding of time, which ends a flow that diverges.
    """

    def adapt_step_size(  # type: ignore
        self, t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state
    ):
        before, after, error = (jax.tree.map(_largest, y) for y in (y0, y1_candidate, y_error))
        # Against an infinite entry any error would be small.
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
    """The one dtype of all leaves, once the gradient is known to be such a tree too."""
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

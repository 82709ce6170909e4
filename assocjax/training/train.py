"""Training by any gradient and any optimizer, as one `lax.scan` or in segments of one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from assocjax.arguments import LARGEST_STEPS, check_callable, check_integer, check_is
from assocjax.checks import as_array, check_key, check_step
from assocjax.errors import InputError, InputTypeError
from assocjax.storage.display import summarized

LossAndGradient = Callable[[Any, Int[Array, ""]], tuple[Float[Array, ""], Any]]


@summarized
class Snapshot(NamedTuple):
    """The state passed to an observer after `step` updates, before the next one."""

    step: Int[Array, ""]
    params: Any
    gradient: Any
    loss: Float[Array, ""]


def train(
    params: Any,
    loss_and_gradient: LossAndGradient,
    optimizer: optax.GradientTransformation,
    steps: int,
    *,
    observe: Callable[[Snapshot], Any] = lambda snapshot: snapshot.loss,
    progress: Callable[[int], None] | None = None,
) -> tuple[Any, Any]:
    """Trains for `steps` updates and observes the run at steps 0, 1, ..., `steps`.

        @jax.jit
        def run(params, tokens, mask, learning_rate):
            def loss_and_gradient(params, step):
                return exact_loss_and_gradient(params, tokens, mask)

            return train(params, loss_and_gradient, optax.sgd(learning_rate), steps=100)

    This is a pure function. Jit it, as here: each call outside of `jit` compiles again, and arrays
    that are not arguments become constants of the program. It can be vmapped over starts, learning
    rates and data, and differentiated in forward and reverse mode. Derivatives through optax's Adam
    and similar optimizers are NaN where an entry has had no gradient yet, unless `eps_root` is set;
    `make_optimizer` sets it to the smallest normal number for optimizers given by name.

    Args:
      params: initial weights: any tree of floating arrays that `loss_and_gradient` accepts.
      loss_and_gradient: called as `(params, step)`, returns the loss and dL/d(params); `step` is
        a traced integer, from which a minibatch can be drawn (see `batch_indices`).
      optimizer: any optax transformation.
      steps: number of updates, static.
      observe: maps a `Snapshot` to a tree of arrays; by default the loss.
      progress: called on the host with each step reached, once for all runs that are vmapped
        together; asynchronous execution may change the order slightly.

    Returns:
      The params after the last update, and the observations with a leading axis of `steps + 1`.

    Raises:
      InputError, InputTypeError: `steps` is negative or not an integer.

    Cost: `steps + 1` gradients. Memory: params, optimizer state and one gradient.
    """
    steps = check_integer("steps", steps, minimum=0, maximum=LARGEST_STEPS)
    check_is("optimizer", optimizer, optax.GradientTransformation)
    leaves = jax.tree.leaves(params)
    if not leaves:
        raise InputTypeError(f"params must be a tree of arrays; got {params!r}")
    for leaf in leaves:
        dtype = as_array("every leaf of params", leaf).dtype
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise InputTypeError(f"every leaf of params must be floating; got dtype {dtype}")
    start = params, optimizer.init(params)
    (params, _), observations = train_segment(
        start,
        loss_and_gradient,
        optimizer,
        steps,
        first=0,
        length=steps + 1,
        observe=observe,
        progress=progress,
    )
    return params, observations


def train_segment(
    carry: tuple[Any, Any],
    loss_and_gradient: LossAndGradient,
    optimizer: optax.GradientTransformation,
    steps: int,
    *,
    first: int | Int[Array, ""],
    length: int,
    observe: Callable[[Snapshot], Any] = lambda snapshot: snapshot.loss,
    progress: Callable[[int], None] | None = None,
) -> tuple[tuple[Any, Any], Any]:
    """A segment of `train`: some of its steps, from one complete state to another.

    Consecutive segments give the result of `train`, and a run can be saved between them.

    Args:
      carry: (params, optimizer state) after `first` updates.
      first: the first observed step; may be traced, so that segments share a compiled program.
      length: number of steps observed, static. Steps beyond `steps`, which pad the last segment,
        update nothing, and their observations have no meaning.

    Returns:
      The carry after `min(first + length, steps)` updates, and the observations with a leading
      axis of `length`. All else is as in `train`.

    Raises:
      InputError, InputTypeError: an argument cannot be used.
    """

    def advance(carry, step):
        params, state = carry
        found = loss_and_gradient(params, step)
        if not isinstance(found, tuple) or len(found) != 2:
            raise InputTypeError(f"loss_and_gradient must return two; got {type(found).__name__}")
        loss, gradient = found
        observation = observe(Snapshot(step, params, gradient, loss))
        if progress is not None:
            jax.debug.callback(progress, step)
        updates, new_state = optimizer.update(gradient, state, params)
        new = optax.apply_updates(params, updates), new_state
        # The last step is observed without an update; one body for all steps halves compile time.
        carry = jax.tree.map(lambda a, b: jnp.where(step < steps, a, b), new, carry)
        return carry, observation

    for name, function in (("loss_and_gradient", loss_and_gradient), ("observe", observe)):
        check_callable(name, function)
    check_is("optimizer", optimizer, optax.GradientTransformation)
    check_is("carry", carry, tuple)
    steps = check_step("steps", steps)
    length = check_integer("length", length, minimum=1)
    first = jnp.asarray(check_step("first", first))
    return lax.scan(advance, carry, first + jnp.arange(length, dtype=first.dtype))


def batch_indices(
    key: PRNGKeyArray, step: int | Int[Array, ""], num_sequences: int, batch_size: int
) -> Int[Array, " batch"]:
    """Rows of the minibatch at `step`: a new random order every epoch, without replacement.

    An epoch is `num_sequences // batch_size` steps; remaining sequences are skipped in that epoch.

    Args:
      key: random key that determines the orders.
      step: the step of training; may be traced.
      num_sequences, batch_size: static, with 1 <= batch_size <= num_sequences.

    Raises:
      InputError, InputTypeError: a size is out of range.
    """
    num_sequences = check_integer("num_sequences", num_sequences, minimum=1)
    batch_size = check_integer("batch_size", batch_size, minimum=1)
    if batch_size > num_sequences:
        raise InputError(
            f"batch_size must be at most the number of sequences, {num_sequences}; got {batch_size}"
        )
    check_key("key", key)
    step = check_step("step", step)
    epoch, batch = jnp.divmod(step, num_sequences // batch_size)
    order = jax.random.permutation(jax.random.fold_in(key, epoch), num_sequences)
    return lax.dynamic_slice_in_dim(order, batch * batch_size, batch_size)

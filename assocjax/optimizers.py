"""Optimizers: any of optax, by name or by a function of the learning rate."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from assocjax.errors import InputError, InputTypeError

Optimizer = str | Callable[[Any], optax.GradientTransformation]


def make_optimizer(optimizer: Optimizer, learning_rate) -> optax.GradientTransformation:
    """The optimizer for a (possibly traced) learning rate.

    Raises:
      InputError: no optimizer of that name in optax takes a learning rate.
      InputTypeError: neither a name nor a function that makes an optax transformation.
    """
    factory = optimizer
    if isinstance(optimizer, str):
        factory = getattr(optax, optimizer, None)
        parameters = list(inspect.signature(factory).parameters) if callable(factory) else []
        if optimizer.startswith("_") or parameters[:1] != ["learning_rate"]:
            raise InputError(
                f"optimizer must be the name of an optax optimizer with a learning rate, such as "
                f"sgd, adam, adamw, rmsprop or lion; got {optimizer!r}"
            )
    made = factory(learning_rate) if callable(factory) else None
    if not isinstance(made, optax.GradientTransformation):
        raise InputTypeError(
            "optimizer must be a name or a function from a learning rate to an optax "
            f"transformation; got {optimizer!r}"
        )
    return made


def check_optimizer(optimizer: Optimizer) -> None:
    """Tries a step of a traced learning rate, as a sweep will take it.

    Some of optax's optimizers want more than a gradient and weights, and some of its schedules
    (`warmup_cosine_decay_schedule`) a rate that is a number: scale one of peak 1 by the rate.

    Raises:
      InputError, InputTypeError: as `make_optimizer`, or the step cannot be taken.
    """
    make_optimizer(optimizer, 0.1)

    def step(rate, x):
        made = make_optimizer(optimizer, rate)
        return made.update(x, made.init(x), x)

    dtype = jnp.result_type(float)
    try:
        jax.eval_shape(step, jax.ShapeDtypeStruct((), dtype), jax.ShapeDtypeStruct((1,), dtype))
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"optimizer {optimizer!r} cannot train by gradients at a traced learning rate: {reason}"
        ) from None


def optimizer_name(optimizer: Optimizer) -> str:
    """What results say of an optimizer: its name, or of a function the name that it bears."""
    if isinstance(optimizer, str):
        return optimizer
    return getattr(optimizer, "name", None) or getattr(optimizer, "__qualname__", repr(optimizer))


def check_resumable(optimizer: Optimizer) -> None:
    """Whether another process can tell that it trains by the same optimizer.

    A function is another object in every process, and what it closes over cannot be compared. So
    it must say what it is: `make.name = "adam, b1=0.8"`, which changes whenever its values do.

    Raises:
      InputError: a function without an attribute `name`.
    """
    if isinstance(optimizer, str) or isinstance(getattr(optimizer, "name", None), str):
        return
    raise InputError(
        "optimizer: with a checkpoint, a function must have an attribute name that says which "
        'optimizer it makes and with which values, such as make.name = "adam, b1=0.8", so that '
        f"only the same one goes on from it; got {optimizer!r}"
    )


def follow(
    optimizer: optax.GradientTransformation, gradient: Callable, start: Any, steps: int
) -> Any:
    """The path from `start` along `gradient(x, step)`: steps 0..`steps` on a leading axis.

    For small trees, such as the scalars of a recursion: all of the path is kept.
    """

    def advance(carry, step):
        x, state = carry
        updates, state = optimizer.update(gradient(x, step), state, x)
        return (optax.apply_updates(x, updates), state), x

    return lax.scan(advance, (start, optimizer.init(start)), jnp.arange(steps + 1))[1]


@functools.lru_cache(maxsize=64)
def is_linear(optimizer: Optimizer) -> bool:
    """Whether weights trained from zero are linear in the gradients, each entry by itself.

    So they are for plain descent, momentum, schedules, warm-up and weight decay, and not for
    Adam, clipping or noise. Found by trial: random gradients of very different sizes, and
    combinations of them, are followed for some steps.
    """
    steps = 12
    first, second = np.random.default_rng(0).standard_normal((2, steps + 1))
    sequences = np.stack([first, second, 3 * first - 2 * second, second / 8])
    with jax.ensure_compile_time_eval():
        made = make_optimizer(optimizer, 0.1)

        @jax.vmap  # each sequence alone: what they share, such as a norm, must not join them
        def trained(gradients):
            start = jnp.zeros_like(gradients[0])
            return follow(made, lambda _, step: gradients[step], start, steps)

        for size in (1e-4, 1.0, 1e4):
            path = np.asarray(trained(jnp.asarray(size * sequences, jnp.float32)), np.float64)
            close = functools.partial(np.allclose, rtol=0, atol=1e-5 * np.max(np.abs(path)))
            if not (close(path[2], 3 * path[0] - 2 * path[1]) and close(8 * path[3], path[1])):
                return False
    return True

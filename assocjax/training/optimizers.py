"""Optimizers: any optax optimizer, by name, with a schedule, or by a function of the rate."""

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from assocjax.arguments import LARGEST_STEPS, SCHEDULES, check_choice, check_integer, check_is
from assocjax.checks import check_number, is_traced
from assocjax.errors import InputError, InputTypeError
from assocjax.models.model import Sizes, tree_bytes
from assocjax.models.registry import MODEL, get_model
from assocjax.training.coupled import coupled_adamw

Optimizer = str | Callable[[Any], optax.GradientTransformation]

Shapes = Any
"""A tree of weights, or of their shapes and dtypes (`jax.ShapeDtypeStruct`)."""


def make_optimizer(optimizer: Optimizer, learning_rate) -> optax.GradientTransformation:
    """Makes the optimizer for a learning rate (which may be traced) or a schedule of it.

    A name is that of an optax optimizer, or "coupled_adamw" (`assocjax.training.coupled`). If it
    has an `eps_root`, a constant added to the second moment under a root, of 0 by default, it is
    set to the smallest normal number. This changes no digit of training, but derivatives through
    the optimizer, which would be NaN where an entry has had no gradient yet, are then correct. A
    function must set `eps_root` itself.

    Raises:
      InputError: optax has no optimizer of that name with a learning rate, or the rate is not
        finite.
      InputTypeError: neither a name nor a function that makes an optax transformation.
    """
    check_number("learning_rate", learning_rate)
    factory = _named(optimizer) if isinstance(optimizer, str) else optimizer
    if not callable(learning_rate):  # a schedule
        learning_rate = check_number("learning_rate", learning_rate)
    made = factory(learning_rate) if callable(factory) else None
    if not isinstance(made, optax.GradientTransformation):
        raise InputTypeError(
            "optimizer must be a name or a function from a learning rate to an optax "
            f"transformation; got {optimizer!r}"
        )
    return made


@dataclasses.dataclass(frozen=True)
class ScheduledOptimizer:
    """An optax optimizer with a schedule of its learning rate, in place of an optimizer's name.

    Update i = 0, 1, ... has the learning rate eta f(i), where eta is the run's learning rate. With
    W = `warmup_steps` and S = `steps`, for i < W the rate rises linearly, f(i) = (i + 1) / (W + 1),
    so that no update is lost. From i = W on, with u = (i - W) / (S - W), at most 1,

        constant    f = 1
        linear      f = 1 - u
        cosine      f = (1 + cos(pi u)) / 2

    Example, where the schedule spans the run:

        optimizer = aj.ScheduledOptimizer("adam", "cosine", steps=40, warmup_steps=4)
        aj.sweep(data, steps=40, optimizer=optimizer, ...)

    It is a function of the learning rate, as `make_optimizer` takes one. Equal settings are equal
    and have the same hash, so that programs are compiled once, and another process can resume a
    checkpoint. Results record it by its `name`, and its settings in the configuration.

    optimizer     the name of an optax optimizer, as in `make_optimizer`
    schedule      constant, linear or cosine
    steps         S, number of updates, after which linear and cosine are 0
    warmup_steps  W, less than `steps`

    Raises:
      InputError: optax has no such optimizer with a learning rate, the schedule is unknown, or a
        number is out of range.
      InputTypeError: a wrong type.
    """

    optimizer: str
    schedule: str
    steps: int
    warmup_steps: int = 0

    def __post_init__(self):
        check_choice("schedule", self.schedule, SCHEDULES)
        check_is("optimizer", self.optimizer, str)
        _named(self.optimizer)
        steps = check_integer("steps", self.steps, minimum=1, maximum=LARGEST_STEPS)
        warmup = check_integer("warmup_steps", self.warmup_steps, minimum=0)
        if warmup >= steps:
            raise InputError(f"warmup_steps must be less than steps, {steps}; got {warmup}")
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "warmup_steps", warmup)

    @property
    def name(self) -> str:
        """What results call it."""
        warmup = f", {self.warmup_steps} of warm-up" * bool(self.warmup_steps)
        return f"{self.optimizer}, {self.schedule} over {self.steps} steps{warmup}"

    def factor(self) -> optax.Schedule:
        """f, a function of the number of the update, from 0."""
        after = self.steps - self.warmup_steps
        parts = {
            "constant": lambda: optax.constant_schedule(1.0),
            "linear": lambda: optax.linear_schedule(1.0, 0.0, after),
            "cosine": lambda: optax.cosine_decay_schedule(1.0, after),
        }
        warmup = optax.linear_schedule(1 / (self.warmup_steps + 1), 1.0, max(1, self.warmup_steps))
        joined = optax.join_schedules([warmup, parts[self.schedule]()], [self.warmup_steps])
        return lambda count: joined(jnp.asarray(count, jnp.result_type(float)))

    def __call__(self, learning_rate) -> optax.GradientTransformation:
        factor = self.factor()
        return _named(self.optimizer)(lambda count: learning_rate * factor(count))


def _named(name: str) -> Callable[[Any], Any]:
    factory: Any = _OWN.get(name) or getattr(optax, name, None)
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        parameters = {}
    part = name.startswith(("_", "scale_by_"))
    if part or not callable(factory) or next(iter(parameters), None) != _RATE:
        raise InputError(
            f"optimizer must be the name of an optax optimizer with a learning rate, such as "
            f"sgd, adam, adamw, rmsprop or lion; got {name!r}"
        )
    if "eps_root" in parameters and parameters["eps_root"].default == 0:
        return functools.partial(factory, eps_root=float(jnp.finfo(jnp.result_type(float)).tiny))
    return factory


_RATE = "learning_rate"

_OWN = {"coupled_adamw": coupled_adamw}
"""Optimizers by name that optax does not have."""


def check_optimizer(optimizer: Optimizer, params: Shapes | None = None) -> None:
    """Makes the optimizer, and tries one step with a traced learning rate, as a sweep does.

    Some optax optimizers need more than a gradient and weights. Some schedules, such as
    `warmup_cosine_decay_schedule`, do not accept a traced rate: make one with peak 1 and scale it
    by the rate.

    Args:
      params: the weights to be trained, or their shapes; without them no step is tried.

    Raises:
      InputError, InputTypeError: as `make_optimizer`, or the step fails.
    """
    try:
        hash(optimizer)  # needed for the cache of compiled programs
        make_optimizer(optimizer, 0.1)
    except (InputError, InputTypeError):
        raise
    except Exception as error:
        raise InputError(f"optimizer {optimizer!r} cannot be used: {_first_line(error)}") from None
    if params is None:
        return

    def step(rate, params):
        made = make_optimizer(optimizer, rate)
        return made.update(params, made.init(params), params)[0]

    try:
        rate = jax.ShapeDtypeStruct((), jnp.result_type(float))
        updates = jax.eval_shape(step, rate, _shapes_of(params))
    except Exception as error:
        raise InputError(
            f"optimizer {optimizer!r} cannot train by gradients at a traced learning rate: "
            f"{_first_line(error)}"
        ) from None
    if jax.tree.map(jnp.shape, updates) != jax.tree.map(jnp.shape, params):
        raise InputError(f"optimizer {optimizer!r} must return updates of the shapes of weights")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _shapes_of(params: Shapes, dtype: Any = None) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, dtype or a.dtype), params)


def _probe() -> Any:
    """Shapes of small weights, no two sizes alike."""
    return get_model(MODEL).shapes(Sizes(vocab_size=3, seq_len=4, num_layers=2))


def state_bytes(optimizer: Optimizer, params: Shapes) -> int:
    """Memory of the optimizer's state for weights of these shapes."""
    made = make_optimizer(optimizer, 0.1)
    return tree_bytes(jax.eval_shape(made.init, _shapes_of(params)))


def optimizer_name(optimizer: Optimizer) -> str:
    """The name of an optimizer in results; for a function, its attribute `name` or its own name."""
    if isinstance(optimizer, str):
        return optimizer
    return getattr(optimizer, "name", None) or getattr(optimizer, "__qualname__", repr(optimizer))


def check_resumable(optimizer: Optimizer) -> None:
    """Checks that another process can identify the optimizer when it resumes a checkpoint.

    Functions and the values they close over cannot be compared between processes. So a function
    must have a name, such as `make.name = "adam, b1=0.8"`, which should change with the values.

    Raises:
      InputError: a function without an attribute `name`.
    """
    if isinstance(optimizer, str) or isinstance(getattr(optimizer, "name", None), str):
        return
    raise InputError(
        "optimizer: with a checkpoint, a function must have an attribute name that says which "
        'optimizer it makes and with which values, such as make.name = "adam, b1=0.8", so that '
        f"only the same one resumes from it; got {optimizer!r}"
    )


def follow(
    optimizer: optax.GradientTransformation, gradient: Callable, start: Any, steps: int
) -> Any:
    """The trajectory from `start` by `gradient(x, step)`, with a leading axis of `steps` + 1.

    For small trees, such as the scalars of a recursion, since the whole trajectory is kept.
    """

    def advance(carry, step):
        x, state = carry
        updates, state = optimizer.update(gradient(x, step), state, x)
        return (optax.apply_updates(x, updates), state), x

    return lax.scan(advance, (start, optimizer.init(start)), jnp.arange(steps + 1))[1]


def is_linear(optimizer: Optimizer, params: Shapes | None = None) -> bool:
    """Whether weights trained from zero are linear in the gradients, alike for all entries.

    This is true for plain gradient descent, momentum, schedules, warm-up and weight decay. It is
    false for Adam, clipping or noise, and for optimizers that depend on a weight's shape or name:
    decay of some weights only, centred gradients, the norm of a layer. It is tested by experiment:
    the optimizer trains weights by gradients that are combinations of two random directions, with
    coefficients that are random at each step, and it trains scalars by these coefficients alone.
    The weights must be the directions times the trained scalars.

    Args:
      optimizer: as in `make_optimizer`.
      params: the weights to be trained, or their shapes; by default small ones of the paper's
        model.

    Raises:
      InputError, InputTypeError: the optimizer cannot train such weights.
    """
    params = _probe() if params is None else params
    check_optimizer(optimizer, params)
    if optimizer == "sgd":
        return True
    leaves, structure = jax.tree.flatten(params)
    return _is_linear_by_rate(optimizer, tuple(leaf.shape for leaf in leaves), structure)


@functools.lru_cache(maxsize=64)
def _is_linear_by_rate(optimizer: Optimizer, shapes: tuple, structure: Any) -> bool:
    leaves = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    with jax.ensure_compile_time_eval():  # also within a trace
        made = make_optimizer(optimizer, 0.1)
    return _is_linear(made, jax.tree.unflatten(structure, leaves)) is True


def check_linear(optimizer: optax.GradientTransformation) -> None:
    """As `is_linear`, for a transformation; one with a traced learning rate is not tested.

    Raises:
      InputError, InputTypeError: it is not linear, or not an optax transformation.
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise InputTypeError(f"optimizer must be an optax transformation; got {optimizer!r}")
    if _is_linear(optimizer, _probe()) is False:
        raise InputError(
            "optimizer must be linear in the gradients and the same for every entry of all "
            "weights (is_linear); this one is not"
        )


def _is_linear(optimizer: optax.GradientTransformation, params: Shapes) -> bool | None:
    """Whether it is linear; None if the optimizer holds traced numbers and cannot be tested."""
    steps = 12
    normal = functools.partial(jax.random.normal, dtype=jnp.float32)

    def direction(key):
        like, treedef = jax.tree.flatten(params)
        keys = jax.random.split(key, len(like))
        leaves = [normal(k, leaf.shape) for k, leaf in zip(keys, like, strict=True)]
        return jax.tree.unflatten(treedef, leaves)

    def mix(sizes, directions):
        one, two = directions
        return jax.tree.map(lambda a, b: sizes[0] * a + sizes[1] * b, one, two)

    @jax.jit
    def as_scalars_say(size):
        keys = jax.random.split(jax.random.key(0), 3)
        directions = direction(keys[0]), direction(keys[1])
        sizes = size * normal(keys[2], (steps, 2))  # of the directions, at each step

        def follow_scalars(sizes):
            path = follow(
                optimizer,
                lambda _, step: jax.tree.map(lambda leaf: sizes[step], params),
                jax.tree.map(lambda leaf: jnp.zeros((), jnp.float32), params),
                steps,
            )
            return jax.tree.leaves(path)[-1]

        scalar = jax.vmap(follow_scalars, 1, 1)(sizes)  # separately, so that norms do not mix them
        zero = jax.tree.map(jnp.zeros_like, directions[0])

        def advance(carry, of_step):
            weights, state, distance, largest = carry
            sizes, scalar = of_step
            updates, state = optimizer.update(mix(sizes, directions), state, weights)
            weights = optax.apply_updates(weights, updates)
            expected = mix(scalar, directions)
            apart = jax.tree.map(jnp.subtract, weights, expected)
            return (
                weights,
                state,
                jnp.maximum(distance, _largest(apart)),
                jnp.maximum(largest, _largest(expected)),
            ), None

        start = zero, optimizer.init(zero), jnp.float32(0), jnp.float32(0)
        _, _, distance, largest = lax.scan(advance, start, (sizes, scalar[1:]))[0]
        return distance <= 1e-5 * largest

    with jax.ensure_compile_time_eval():
        try:
            found = [as_scalars_say(size) for size in (1e-4, 1.0, 1e4)]
        except Exception:
            return False  # it depends on the shapes of weights: scalars are not enough
    return None if any(map(is_traced, found)) else all(map(bool, found))


def warn_of_derivatives(optimizer: Optimizer, gradient: Any) -> Any:
    """Returns the gradient unchanged. Warns if it is differentiated and derivatives through the
    optimizer may be NaN. There is no cost otherwise."""

    @jax.custom_jvp
    def same(gradient):
        return gradient

    @same.defjvp
    def differentiated(primals, tangents):
        if not _has_derivative_at_zero(optimizer):
            warnings.warn(
                f"derivatives through the optimizer {optimizer!r} may be NaN, as where an entry "
                f"has had no gradient yet: {EPS_ROOT}",
                stacklevel=2,
            )
        return primals[0], tangents[0]

    return same(gradient)


EPS_ROOT = (
    "set optax's option eps_root, as in adam(rate, eps_root=1e-30), or take an optimizer that has "
    "a derivative there"
)


@functools.lru_cache(maxsize=64)
def _has_derivative_at_zero(optimizer: Optimizer) -> bool:
    with jax.ensure_compile_time_eval():
        made = make_optimizer(optimizer, 0.1)
        dtype = jnp.result_type(float)
        zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, dtype), _probe())

        def trained(gradient):  # several steps: radam starts with another rule
            return follow(made, lambda params, step: gradient, zero, 6)

        path, pull_back = jax.vjp(trained, zero)
        (found,) = pull_back(jax.tree.map(jnp.ones_like, path))
        return not any(bool(jnp.isnan(leaf).any()) for leaf in jax.tree.leaves(found))


def _largest(tree):
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]))

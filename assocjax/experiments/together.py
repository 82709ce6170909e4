"""Groups of runs and twins, trained side by side step by step, all by one recipe."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, PRNGKeyArray

from assocjax.models.model import Model
from assocjax.theories.theory import Batch, Theory
from assocjax.training.train import batch_indices


class Group(NamedTuple):
    """Trajectories that have one gradient, and differ in their starts and random keys.

    gradient: (weights, step, key, own, shared) -> gradient.
    starts: weights, with a leading axis for the trajectories.
    keys: of the trajectories, [trajectories].
    own: a tree with the same leading axis, of what else each trajectory is trained on.
    shared: a tree of what is the same for all.
    at_once: trajectories computed in one batched program; the others wait for them.
    """

    gradient: Callable[..., Any]
    starts: Any
    keys: PRNGKeyArray
    own: Any = None
    shared: Any = None
    at_once: int = 1


def real_runs(
    model: Model,
    starts: Any,
    keys: PRNGKeyArray,
    batch: Batch,
    size: int,
    counted: Bool[Array, "runs N T"] | None = None,
) -> Group:
    """Real runs, all at once, on minibatches of `size` sequences in an order drawn from the key.

    With `counted` each run has only the losses of its own positions; what it reads is the same, and
    the model must have `logits`.
    """

    def gradient(params, step, key, counted, batch):
        chosen = batch_indices(key, step, len(batch.tokens), size)
        tokens, mask = batch.tokens[chosen], batch.mask[chosen]
        if counted is None:
            return model.loss_and_gradient(params, tokens, mask)[1]

        def loss(params):
            logits = model.logits(params, tokens[:, :-1], mask)  # type: ignore[attr-defined]
            losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
            return jnp.mean(losses, where=mask & counted[chosen])

        return jax.grad(loss)(params)

    return Group(gradient, starts, keys, counted, batch, at_once=len(keys))


def of_theory(
    model: Model,
    theory: Theory,
    starts: Any,
    keys: PRNGKeyArray,
    batch: Batch,
    *,
    prepared: Any = None,
    each: Any = None,
) -> Group:
    """A theory trained by its own gradient, with draws from the key; one after another, since each
    may need much memory. What it has prepared is the same for all, or of `each` its own."""

    def gradient(params, step, key, each, shared):
        prepared, batch = shared
        batch = batch.replace(key=jax.random.fold_in(key, step))
        return theory.gradient(model, params, prepared if each is None else each, batch)

    return Group(gradient, starts, keys, each, (prepared, batch))


def repeat(tree: Any, times: int) -> Any:
    """The same start for several trajectories."""
    return jax.tree.map(lambda a: jnp.stack([a] * times), tree)


def train_together(
    optimizer: optax.GradientTransformation,
    groups: Mapping[str, Group],
    steps: Sequence[int],
    progress: Callable[[str, int], None] | None = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Trains all groups by one recipe, and stops at chosen numbers of updates.

    Args:
      optimizer: an optax transformation whose schedule counts its own updates.
      groups: by name.
      steps: increasing numbers of updates; 0 is the start.
      progress: called with the name of a group and its number of updates after each part.

    Yields:
      The number of updates, and the weights of every group, with its leading axis.

    Cost: a gradient for each trajectory and update. Memory: current weights and optimizer states
      of all, and the activations of `at_once` trajectories.
    """
    advances = {
        name: jax.jit(partial(_advance, group.gradient, optimizer, group.at_once))
        for name, group in groups.items()
    }
    states = {
        name: (group.starts, jax.vmap(optimizer.init)(group.starts))
        for name, group in groups.items()
    }
    done = 0
    for last in steps:
        for name, group in groups.items():
            state = advances[name](states[name], done, last, group.keys, group.own, group.shared)
            states[name] = jax.block_until_ready(state)
            if progress is not None:
                progress(name, last)
        done = last
        yield last, {name: params for name, (params, _) in states.items()}


def _advance(gradient, optimizer, at_once, states, first, last, keys, own, shared):
    """The states after `last` updates, from `first`."""

    def of_one(trajectory):
        state, key, own = trajectory

        def update(step, state):
            params, optimizer_state = state
            updates, optimizer_state = optimizer.update(
                gradient(params, step, key, own, shared), optimizer_state, params
            )
            return optax.apply_updates(params, updates), optimizer_state

        return lax.fori_loop(first, last, update, state)

    return lax.map(of_one, (states, keys, own), batch_size=at_once)

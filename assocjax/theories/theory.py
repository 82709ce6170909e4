"""The protocol of a theory: weights and gradients of a training run, predicted from statistics.

A theory is a subclass of `Theory` with a name, `prepare`, which computes its statistics of a
corpus, and either a `gradient`, by which its own weights are trained beside the run by the same
optimizer, or a closed form (`solve` and `solution`). Runs, sweeps, horizons and the command line
use only these.
"""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Int32, PRNGKeyArray

from assocjax.errors import InputError
from assocjax.models.model import Model, Sizes, tree_bytes
from assocjax.storage.display import summarized
from assocjax.training.optimizers import Optimizer, make_optimizer


@summarized
@struct.dataclass
class Batch:
    """Sequences: the whole corpus, or a minibatch.

    tokens      [N, T+1]
    mask        [N, T], True where input and target count
    vocab_size  V, static
    key         a random key of this run and step, for a theory that starts where the run does and
                draws; None for others, whose weights all seeds share
    size        sequences in a minibatch of the run, static; None is the full batch
    """

    tokens: Int32[Array, "N T+1"]
    mask: Bool[Array, "N T"]
    vocab_size: int = struct.field(pytree_node=False)
    key: PRNGKeyArray | None = None
    size: int | None = struct.field(pytree_node=False, default=None)


class Training(NamedTuple):
    """How a run is trained: all that a closed form depends on beside the statistics.

    model          the model
    sizes          V, T and L
    start          the run's weights at step 0; zero for a theory that does not start there
    optimizer      as in `sweep`
    learning_rate  a scalar; may be traced
    steps          the number of updates
    """

    model: Model
    sizes: Sizes
    start: Any
    optimizer: Optimizer
    learning_rate: Float[Array, ""]
    steps: int

    def transformation(self) -> optax.GradientTransformation:
        """The optimizer at this learning rate."""
        return make_optimizer(self.optimizer, self.learning_rate)


class Theory(abc.ABC):
    """A theory of the weights and gradients of a run.

    A theory is static where programs are compiled, so it must be hashable and not change.

    Attributes:
      name: names the theory on the command line and in results.
      from_start: whether its weights start where the run does. If not, they start at zero and do
        not depend on the run's seed, so that all starts of a sweep share them.
      of_batches: whether the theory can also be computed from minibatches, so that a run with
        minibatches is also compared with the theory of its own (`sampling_error`). `prepare` is
        then called within `jit`.
      weight_copies: estimated number of arrays of the size of all weights that it keeps.
    """

    name: str
    from_start: bool = False
    of_batches: bool = True
    weight_copies: int = 6

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self, 'name', None)!r})"

    def check(self, model: Model, optimizer: Optimizer) -> None:  # noqa: B027
        """Raises InputError if the theory does not apply to this model or optimizer."""

    @abc.abstractmethod
    def prepare(self, model: Model, sizes: Sizes, batch: Batch) -> Any:
        """The statistics of a corpus that the theory needs: any tree of arrays."""

    def start(self, training: Training) -> Any:
        """The weights at step 0 of a theory that is trained by its gradient."""
        return training.start

    def gradient(self, model: Model, params: Any, prepared: Any, batch: Batch) -> Any:
        """The theory's gradient at any weights, a tree like the weights.

        Args:
          model: the model.
          params: the theory's own weights, or the run's where it is trained by this gradient.
          prepared: from `prepare`.
          batch: the sequences that it was prepared from.
        """
        raise InputError(f"theory {self.name!r} has no gradient, only a closed form")

    def solve(self, training: Training, prepared: Any, batch: Batch) -> Any | None:
        """The closed form of a run: any tree of arrays, computed once, from which `solution` gives
        the weights at a step. None if there is none for this optimizer; `gradient` is then used."""
        return None

    def solution(
        self, training: Training, solved: Any, prepared: Any, step: int | Int[Array, ""]
    ) -> tuple[Any, Any]:
        """Weights and gradient at a step, from `solve`. A single layer stands for all layers."""
        raise NotImplementedError

    def prepared_bytes(self, model: Model, sizes: Sizes, num_sequences: int) -> tuple[int, int]:
        """Memory of what `prepare` returns, and the most that is needed while it is computed."""
        if not self.of_batches:
            return 0, 0
        tokens = jax.ShapeDtypeStruct((num_sequences, sizes.seq_len + 1), jnp.int32)
        mask = jax.ShapeDtypeStruct((num_sequences, sizes.seq_len), bool)
        prepare: Callable = lambda tokens, mask: self.prepare(  # noqa: E731
            model, sizes, Batch(tokens, mask, sizes.vocab_size)
        )
        size = tree_bytes(jax.eval_shape(prepare, tokens, mask))
        return size, size

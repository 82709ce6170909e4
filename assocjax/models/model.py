"""The protocol of a model: what training, theories and comparisons ask of it.

A model is a subclass of `Model` with a name and three methods. All else in the package that trains
or compares (`train`, runs, sweeps, horizons, influence) uses only these, so that any model can be
trained and compared with any theory of it.
"""

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, DTypeLike, Float, Int32, PRNGKeyArray

from assocjax.arguments import LARGEST_COUNT
from assocjax.checks import CorpusLike, Sequences, check_tokens
from assocjax.errors import InputError
from assocjax.models.microbatches import sum_microbatches

Weights = dict[str, Float[Array, "layers ..."]]


class Sizes(NamedTuple):
    """Sizes of a model: V, T and L."""

    vocab_size: int
    seq_len: int
    num_layers: int


class Model(abc.ABC):
    """A language model: a function of weights and tokens, with the names of its weights.

    Weights, which the package calls params, are any tree of float32 or float64 arrays. A model is
    static where programs are compiled, so it must be hashable and not change.

    Attributes:
      name: names the model on the command line and in results.
      init_scale: the scale of the start by default.
      zero_start: whether weights at a start of scale 0 are zero, as a theory of weights alone
        assumes. Otherwise a run and a theory are also compared by their changes since the start.
    """

    name: str
    init_scale: float = 1.0
    zero_start: bool = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self, 'name', None)!r})"

    @abc.abstractmethod
    def init(
        self, key: PRNGKeyArray, sizes: Sizes, scale: Any, dtype: DTypeLike | None = None
    ) -> Any:
        """The weights at the start.

        Args:
          key: a random key.
          sizes: V, T and L.
          scale: a number that scales the start, as the model defines; may be traced.
          dtype: float32 or float64; None is JAX's default.
        """

    @abc.abstractmethod
    def loss(
        self, params: Any, tokens: Int32[Array, "N T+1"], mask: Bool[Array, "N T"]
    ) -> Float[Array, ""]:
        """Mean negative log-likelihood, in nats, of the targets `tokens[:, 1:]` where `mask` is
        True. It is differentiated, so it may use any operation of JAX."""

    @abc.abstractmethod
    def weights(self, params: Any) -> Weights:
        """The weights by name, in the order in which the model applies them, each with a leading
        axis of its layers: L, or 1 for a weight without layers. Also called with gradients."""

    def check_batch(
        self, params: Any, data: CorpusLike, mask: ArrayLike | None
    ) -> tuple[Int32[Array, "N T+1"], Bool[Array, "N T"]]:
        """The tokens and mask of a corpus, checked; override it to compare them with the weights.

        Raises:
          InputError, InputTypeError: not a corpus.
        """
        largest = data.vocab_size if isinstance(data, Sequences) else LARGEST_COUNT
        return check_tokens(data, mask, largest)

    def evaluate(self, params: Any, tokens: Array, mask: Array) -> Float[Array, ""]:
        """`loss` where it is not differentiated; override it to bound its memory."""
        return self.loss(params, tokens, mask)

    def loss_and_gradient(
        self,
        params: Any,
        tokens: Int32[Array, "N T+1"],
        mask: Bool[Array, "N T"],
        *,
        microbatch_size: int | None = None,
        max_distinct: int | None = None,
    ) -> tuple[Float[Array, ""], Any]:
        """`loss` and its gradient; override it where there is a faster way.

        Args:
          microbatch_size: sequences differentiated at once, which bounds memory; None is all.
          max_distinct: an upper limit of the number of distinct tokens in a sequence, if known.
        """
        valid = jnp.maximum(jnp.sum(mask), 1)

        def share(tokens, mask):
            def mean(params):
                loss = self.loss(params, tokens, mask)
                # A microbatch that is all padding has no loss, not even one that is NaN.
                of_all = jnp.sum(mask).astype(loss.dtype) / valid.astype(loss.dtype)
                return jnp.where(of_all > 0, of_all * loss, 0)

            return jax.value_and_grad(mean)(params)

        if microbatch_size is None or microbatch_size >= len(tokens):
            return jax.value_and_grad(self.loss)(params, tokens, mask)
        return sum_microbatches(share, tokens, mask, microbatch_size)

    def step_bytes(
        self,
        sizes: Sizes,
        *,
        num_sequences: int,
        microbatch_size: int | None,
        max_distinct: int | None,
        itemsize: int,
    ) -> int:
        """Estimated memory of `loss_and_gradient`: all arrays that its program computes.

        XLA keeps fewer of them at a time, so this is an upper limit, usually by a factor of a few.
        """
        size = num_sequences if microbatch_size is None else min(num_sequences, microbatch_size)
        return activation_bytes(self, self.shapes(sizes, itemsize), (size, sizes.seq_len))

    def shapes(self, sizes: Sizes, itemsize: int | None = None) -> Any:
        """The shapes and dtypes of the weights, a tree of `jax.ShapeDtypeStruct`.

        Args:
          itemsize: bytes of a number, 4 or 8; None is JAX's default dtype.
        """
        dtype = {None: None, 4: jnp.float32, 8: jnp.float64}[itemsize]
        return jax.eval_shape(lambda: self.init(jax.random.key(0), sizes, 0.0, dtype))

    def layers(self, sizes: Sizes) -> dict[str, int]:
        """The weights in their order, and the number of layers that each has, 1 without layers."""
        found: dict[str, int] = {}

        def read(params):
            found.update({name: len(weight) for name, weight in self.weights(params).items()})

        jax.eval_shape(read, self.shapes(sizes))
        return found

    def in_tokens(self, params: Any) -> Any:
        """The weights as matrices between tokens, `Params`, which readings of associations use.

        Raises:
          InputError: the model has no such reading.
        """
        raise InputError(
            f"model {self.name!r} has no reading as matrices between tokens (Model.in_tokens)"
        )


def tree_bytes(tree: Any) -> int:
    """Memory of a tree of arrays, or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def activation_bytes(model: Model, params: Any, shape: tuple[int, int]) -> int:
    """The memory of all arrays in the program of the gradient of sequences of a shape [N, T]."""
    tokens = jax.ShapeDtypeStruct((shape[0], shape[1] + 1), jnp.int32)
    mask = jax.ShapeDtypeStruct(shape, bool)
    return _bytes(jax.make_jaxpr(jax.value_and_grad(model.loss))(params, tokens, mask).jaxpr)


def _bytes(jaxpr: Any) -> int:
    """The memory of all arrays that a program computes; a loop's body counts once."""
    total = 0
    for equation in jaxpr.eqns:
        inner = [
            getattr(value, "jaxpr", value)
            for value in jax.tree.leaves(
                list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
            )
            if hasattr(getattr(value, "jaxpr", value), "eqns")
        ]
        if inner:
            total += sum(map(_bytes, inner))
        total += sum(
            var.aval.size * var.aval.dtype.itemsize
            for var in equation.outvars
            if hasattr(var.aval, "dtype") and hasattr(var.aval.dtype, "itemsize")
        )
    return total

"""What each document did to a weight that was trained: a derivative through all of training."""

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from assocjax.analysis.attribution import check_documents
from assocjax.arguments import LARGEST_STEPS, check_choice, check_integer, check_integers
from assocjax.checks import CorpusLike, is_traced
from assocjax.errors import InputError, InputTypeError
from assocjax.models.attention_only import count_valid, default_microbatch_size, sequence_loss
from assocjax.models.params import WEIGHTS, Params, check_batch
from assocjax.training.optimizers import EPS_ROOT
from assocjax.training.train import train


class Influence(NamedTuple):
    """A trained entry, and its derivatives with respect to the weight of each document."""

    entry: Float[Array, ""]
    documents: Float[Array, " D"]


def training_influence(
    params: Params,
    data: CorpusLike,
    mask: ArrayLike | None = None,
    *,
    optimizer: optax.GradientTransformation,
    steps: int,
    weight: str,
    index: tuple[int, ...],
    documents: ArrayLike | None = None,
) -> Influence:
    """The derivative of an entry, after training, with respect to every document's weight.

        loss(c) = (1/M) sum_n c_n sum_t -log softmax(logits_n)[t, y_t]        at c = 1

    Full-batch training under this loss is differentiated in reverse, for all documents at once. To
    the lowest order in the learning rate the result is that of the closed form, k `share` of
    `attribute` times the scalar of `descent_coefficients`: for the entry `value` [l, a, b],
    C(s,2) eta^2 d(Phi^T B^T)[a,b]/dc_n, where k = 2.

    A pure function: jit it where it is called more than once, with all but the arrays static.

    Args:
      params: the start.
      data, mask: the corpus, as of `exact_gradient`.
      optimizer: any optax transformation that can be differentiated, also where an entry has had
        no gradient: adam and its like if they are given an `eps_root`.
      steps: number of updates.
      weight: a name of `Params`.
      index: of the entry in the array of that weight, and so from 0: (layer, row, column), for
        `position` (layer, lag), for `output` (row, column).
      documents: integer array [N], the document of each sequence; by default each its own.

    Returns:
      `Influence`, in the dtype of `params`. Unlike shares, its parts sum to no multiple of the
      entry, except in the limit of small learning rates.

    Raises:
      InputError, InputTypeError: an argument cannot be used; the training diverges, or a derivative
        through the optimizer is not finite. Under `jit`, where neither can be told, both are NaN.

    Cost: 4 to 6 times that of training. Memory: the weights after every step, and the activations
    of one microbatch, differentiated twice.
    """
    check_choice("weight", weight, WEIGHTS)
    steps = check_integer("steps", steps, minimum=0, maximum=LARGEST_STEPS)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise InputTypeError(f"optimizer must be an optax transformation; got {optimizer!r}")
    tokens, mask = check_batch(params, data, mask)
    documents, D = check_documents(documents, len(tokens))
    shape = getattr(params, weight).shape
    index = tuple(check_integers("index", index, minimum=0))
    if len(index) != len(shape) or not all(map(operator.lt, index, shape)):
        raise InputError(f"index must be of an entry of {weight}, of shape {shape}; got {index}")
    dtype = params.output.dtype
    size = min(len(tokens), default_microbatch_size(params, mask.shape[1]))
    share = 1 / count_valid(mask, dtype)

    def trained_entry(weights: Float[Array, " D"]):
        # Checkpoints keep only the weights of each step, and of a step only one microbatch.
        @jax.checkpoint
        def loss_and_gradient(params: Params, step: Any):
            @jax.checkpoint
            def nll(params, sequence):
                return sequence_loss(params, *sequence)

            def loss(params):
                losses = lax.map(lambda s: nll(params, s), (tokens, mask), batch_size=size)
                return share * jnp.sum(weights[documents] * losses)

            return jax.value_and_grad(loss)(params)

        end, _ = train(params, loss_and_gradient, optimizer, steps)
        return getattr(end, weight)[index]

    found = Influence(*jax.value_and_grad(trained_entry)(jnp.ones(D, dtype)))
    if not any(map(is_traced, found)):
        if not jnp.isfinite(found.entry):
            raise InputError("optimizer must train without diverging; the weights are not finite")
        if not jnp.isfinite(found.documents).all():
            raise InputError(f"optimizer must have derivatives; they are NaN here: {EPS_ROOT}")
    return found

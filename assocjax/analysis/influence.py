"""The influence of each document on a trained weight: a derivative through all of training."""

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from assocjax.analysis.attribution import check_documents
from assocjax.arguments import LARGEST_STEPS, check_choice, check_integer, check_integers
from assocjax.checks import CorpusLike, check_precision, is_traced
from assocjax.errors import InputError, InputTypeError
from assocjax.models.attention_only import activation_budget, count_valid
from assocjax.models.model import Model, activation_bytes
from assocjax.models.registry import MODEL, get_model
from assocjax.storage.display import summarized
from assocjax.training.optimizers import EPS_ROOT
from assocjax.training.train import train


@summarized
class Influence(NamedTuple):
    """A trained entry, and its derivatives with respect to the weight of each document."""

    entry: Float[Array, ""]
    documents: Float[Array, " D"]


def training_influence(
    params: Any,
    data: CorpusLike,
    mask: ArrayLike | None = None,
    *,
    model: str | Model = MODEL,
    optimizer: optax.GradientTransformation,
    steps: int,
    weight: str,
    index: tuple[int, ...],
    documents: ArrayLike | None = None,
) -> Influence:
    """The derivative of an entry, after training, with respect to every document's weight.

        loss(c) = (1/M) sum_n c_n sum_t -log softmax(logits_n)[t, y_t]        at c = 1

    Full-batch training with this loss is differentiated in reverse mode, for all documents at once.
    To the lowest order in the learning rate the result equals that of the closed form: k times the
    `share` of `attribute` times the scalar of `descent_coefficients`. For the entry `value`
    [l, a, b], it is C(s,2) eta^2 d(Phi^T B^T)[a,b]/dc_n, with k = 2.

    This is a pure function: jit it if it is called more than once, with all arguments static except
    the arrays.

    Args:
      params: initial weights of the model.
      data, mask: the corpus, as in `exact_gradient`.
      model: the model, a `Model` or its name.
      optimizer: any optax transformation that can be differentiated, also where the gradient has
        been zero: adam and similar ones need an `eps_root`.
      steps: number of updates.
      weight: a name of `Model.weights`.
      index: index of the entry in that weight, from 0, with the layer first: (layer, row, column).
        A weight with a single layer may be given without it.
      documents: integer array [N], the document of each sequence; by default each sequence is its
        own document.

    Returns:
      `Influence`, in the dtype of `params`. Unlike shares, its parts do not sum to a multiple of
      the entry, except in the limit of small learning rates.

    Raises:
      InputError, InputTypeError: an argument is invalid; training diverges, or a derivative
        through the optimizer is not finite. Under `jit` these are not raised; the results are NaN.

    Cost: 4 to 6 times that of training. Memory: the weights after every step, and the activations
    of one microbatch, differentiated twice.
    """
    net = get_model(model)
    check_precision(params)
    check_choice("weight", weight, net.weights(params))
    steps = check_integer("steps", steps, minimum=0, maximum=LARGEST_STEPS)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise InputTypeError(f"optimizer must be an optax transformation; got {optimizer!r}")
    tokens, mask = net.check_batch(params, data, mask)
    documents, D = check_documents(documents, len(tokens))
    shape = net.weights(params)[weight].shape
    index = tuple(check_integers("index", index, minimum=0))
    if shape[0] == 1 and len(index) == len(shape) - 1:
        index = (0, *index)
    if len(index) != len(shape) or not all(map(operator.lt, index, shape)):
        raise InputError(f"index must be of an entry of {weight}, of shape {shape}; got {index}")
    dtype = jnp.result_type(*jax.tree.leaves(params))
    one = activation_bytes(net, jax.eval_shape(lambda: params), (1, mask.shape[1]))
    size = min(len(tokens), max(1, activation_budget() // one))
    share = 1 / count_valid(mask, dtype)

    def trained_entry(weights: Float[Array, " D"]):
        # With jax.checkpoint only the weights of each step are stored, and within a step the
        # activations of one microbatch only.
        @jax.checkpoint
        def loss_and_gradient(params: Any, step: Any):
            @jax.checkpoint
            def nll(params, sequence):
                tokens, mask = sequence
                mean = net.loss(params, tokens[None], mask[None])
                return jnp.where(mask.any(), jnp.sum(mask).astype(dtype) * mean, 0)

            def loss(params):
                losses = lax.map(lambda s: nll(params, s), (tokens, mask), batch_size=size)
                return share * jnp.sum(weights[documents] * losses)

            return jax.value_and_grad(loss)(params)

        end, _ = train(params, loss_and_gradient, optimizer, steps)
        return net.weights(end)[weight][index]

    found = Influence(*jax.value_and_grad(trained_entry)(jnp.ones(D, dtype)))
    if not any(map(is_traced, found)):
        if not jnp.isfinite(found.entry):
            raise InputError("optimizer must train without diverging; the weights are not finite")
        if not jnp.isfinite(found.documents).all():
            raise InputError(f"optimizer must have derivatives; they are NaN here: {EPS_ROOT}")
    return found

"""The exact full-batch gradient, accumulated over microbatches so that memory is bounded."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from assocjax.arguments import check_integer
from assocjax.checks import check_precision, check_tokens
from assocjax.gradients.microbatches import sum_microbatches
from assocjax.model import count_valid, default_microbatch_size, sequence_loss
from assocjax.params import Params


def exact_gradient(
    params: Params,
    tokens: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    microbatch_size: int | None = None,
) -> Params:
    """Gradient of `loss` with respect to every weight, over all sequences given.

    Args:
      params: weights.
      tokens: integer array [N, T+1].
      mask: boolean array [N, T], False where the input or the target is padding.
      microbatch_size: sequences differentiated at once; by default so many that their
        activations take about 16 MiB. It changes memory and rounding, never the meaning.

    Returns:
      dL/d(weight) as `Params`.

    Raises:
      InputError, InputTypeError: wrong shapes, dtypes, token ids, or no valid position.

    Cost: about three forward passes (see `logits`); memory is that of one microbatch plus two
    copies of the weights. Source: paper, Lemma D.8 (here by automatic differentiation).
    """
    return exact_loss_and_gradient(params, tokens, mask, microbatch_size=microbatch_size)[1]


def exact_loss_and_gradient(
    params: Params,
    tokens: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    microbatch_size: int | None = None,
) -> tuple[Float[Array, ""], Params]:
    """`(loss, exact_gradient)` for the price of the gradient; arguments as `exact_gradient`."""
    check_precision(params)
    tokens, mask = check_tokens(tokens, mask, params.output.shape[-1])
    if microbatch_size is None:
        microbatch_size = default_microbatch_size(params, mask.shape[1])
    check_integer("microbatch_size", microbatch_size, minimum=1)
    return _exact_loss_and_gradient(params, tokens, mask, microbatch_size)


@partial(jax.jit, static_argnames="microbatch_size")
def _exact_loss_and_gradient(params, tokens, mask, microbatch_size: int):
    # The mean's denominator goes inside, so that the sums stay of the order of the gradient.
    share = 1 / count_valid(mask, params.output.dtype)

    @jax.value_and_grad
    def microbatch_loss(params, tokens, mask):
        return share * jnp.sum(jax.vmap(sequence_loss, (None, 0, 0))(params, tokens, mask))

    return sum_microbatches(partial(microbatch_loss, params), tokens, mask, microbatch_size)

"""The exact full-batch gradient, accumulated over microbatches so that memory is bounded."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from assocjax.checks import check_batch
from assocjax.gradients.microbatches import sum_microbatches
from assocjax.gradients.plan import MEMORY_LIMIT, plan_exact_step
from assocjax.gradients.tables import tables_loss_and_gradient
from assocjax.model import count_valid, sequence_loss
from assocjax.params import Params


def exact_gradient(
    params: Params,
    tokens: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    form: str | None = None,
    microbatch_size: int | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> Params:
    """Gradient of `loss` with respect to every weight, over all sequences given.

    Args:
      params: weights.
      tokens: integer array [N, T+1].
      mask: boolean array [N, T], False where the input or the target is padding.
      form: "dense" or "tables"; by default the cheaper one, as `plan_exact_step` finds.
      microbatch_size: sequences differentiated at once; by default so many that their
        activations take about 16 MiB on a CPU, 1 GiB elsewhere.
      memory_limit: bytes that the plan should keep to, as estimated.

      The last three change time, memory and rounding, never the meaning.

    Returns:
      dL/d(weight) as `Params`.

    Raises:
      InputError, InputTypeError: wrong shapes, dtypes, token ids, or no valid position.

    Cost: see `plan_exact_step`. Differentiable, like `loss`, in either mode.
    Source: paper, Lemma D.8 (here by automatic differentiation).
    """
    options = {"form": form, "microbatch_size": microbatch_size, "memory_limit": memory_limit}
    return exact_loss_and_gradient(params, tokens, mask, **options)[1]


def exact_loss_and_gradient(
    params: Params,
    tokens: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    form: str | None = None,
    microbatch_size: int | None = None,
    memory_limit: int = MEMORY_LIMIT,
) -> tuple[Float[Array, ""], Params]:
    """`(loss, exact_gradient)` for the price of the gradient; arguments as `exact_gradient`."""
    tokens, mask = check_batch(params, tokens, mask)
    plan = plan_exact_step(
        vocab_size=params.output.shape[0],
        seq_len=mask.shape[1],
        num_layers=len(params.value),
        num_sequences=len(tokens),
        form=form,
        microbatch_size=microbatch_size,
        memory_limit=memory_limit,
        itemsize=params.output.dtype.itemsize,
    )
    compute = {"dense": _dense_loss_and_gradient, "tables": tables_loss_and_gradient}[plan.form]
    return compute(params, tokens, mask, plan.microbatch_size)


@partial(jax.jit, static_argnames="microbatch_size")
def _dense_loss_and_gradient(params, tokens, mask, microbatch_size: int):
    # The mean's denominator goes inside, so that the sums stay of the order of the gradient.
    share = 1 / count_valid(mask, params.output.dtype)

    @jax.value_and_grad
    def microbatch_loss(params, tokens, mask):
        return share * jnp.sum(jax.vmap(sequence_loss, (None, 0, 0))(params, tokens, mask))

    return sum_microbatches(partial(microbatch_loss, params), tokens, mask, microbatch_size)

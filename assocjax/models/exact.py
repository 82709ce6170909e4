"""The exact full-batch gradient, accumulated over microbatches so that memory is bounded."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from assocjax.arguments import LARGEST_COUNT, check_integer
from assocjax.checks import CorpusLike, Sequences, check_tokens, is_hidden
from assocjax.corpora.tokens import TokenData, most_distinct
from assocjax.models._tables import tables_loss_and_gradient
from assocjax.models.attention_only import count_valid, sequence_loss
from assocjax.models.microbatches import sum_microbatches
from assocjax.models.params import Params, check_batch
from assocjax.models.plan import MEMORY_LIMIT, plan_exact_step


def exact_gradient(
    params: Params,
    data: CorpusLike,
    mask: ArrayLike | None = None,
    *,
    form: str | None = None,
    microbatch_size: int | None = None,
    memory_limit: int = MEMORY_LIMIT,
    max_distinct: int | None = None,
) -> Params:
    """Gradient of `loss` with respect to every weight, over all sequences given.

    Args:
      params: weights.
      data: the corpus, `TokenData` or `TokenFile`, or token ids as an integer array [N, T+1].
      mask: for an array only, boolean [N, T], False where the input or the target is padding.
      form: "dense" or "tables"; by default the cheaper one, chosen by `plan_exact_step`.
      microbatch_size: sequences differentiated at once; by default as many as have activations of
        about 8 MiB on a CPU, 1 GiB elsewhere.
      memory_limit: bytes that the plan should not exceed, by its estimate.
      max_distinct: the largest number of distinct tokens among the T inputs of a sequence; the
        smaller, the faster. By default it is counted (`count_distinct`); under `jit` it is T. If a
        sequence has more, the result may be NaN. `form`, `microbatch_size`, `memory_limit` and
        `max_distinct` affect time, memory and rounding only.

    Returns:
      dL/d(weight) as `Params`.

    Raises:
      InputError, InputTypeError: wrong shapes, dtypes, token ids, or no valid position.

    Cost: see `plan_exact_step`. Differentiable, like `loss`, in either mode.
    Source: paper, Lemma D.8 (here by automatic differentiation).
    """
    return exact_loss_and_gradient(
        params,
        data,
        mask,
        form=form,
        microbatch_size=microbatch_size,
        memory_limit=memory_limit,
        max_distinct=max_distinct,
    )[1]


def exact_loss_and_gradient(
    params: Params,
    data: CorpusLike,
    mask: ArrayLike | None = None,
    *,
    form: str | None = None,
    microbatch_size: int | None = None,
    memory_limit: int = MEMORY_LIMIT,
    max_distinct: int | None = None,
) -> tuple[Float[Array, ""], Params]:
    """`(loss, exact_gradient)` at the cost of the gradient; arguments as in `exact_gradient`."""
    tokens, mask = check_batch(params, data, mask)
    if max_distinct is not None:
        max_distinct = check_integer("max_distinct", max_distinct, minimum=1)
    elif not is_hidden(data):
        max_distinct = count_distinct(data)
    plan = plan_exact_step(
        vocab_size=params.output.shape[0],
        seq_len=mask.shape[1],
        num_layers=len(params.value),
        num_sequences=len(tokens),
        form=form,
        microbatch_size=microbatch_size,
        memory_limit=memory_limit,
        max_distinct=max_distinct,
        itemsize=params.output.dtype.itemsize,
    )
    if plan.form == "dense":
        return _dense_loss_and_gradient(params, tokens, mask, plan.microbatch_size)
    u = min(max_distinct or mask.shape[1], mask.shape[1])
    return tables_loss_and_gradient(params, tokens, mask, plan.microbatch_size, u)


def count_distinct(data: CorpusLike) -> int:
    """The largest number of distinct tokens among the T inputs of a sequence.

    Rounded up to a multiple of 8, so that batches of one corpus share a compiled program.

    Args:
      data: as in `exact_gradient`. For `TokenData` the count is cached.

    Raises:
      InputError, InputTypeError: `data` is not a corpus.
    """
    if isinstance(data, TokenData):
        return data.max_distinct
    check_tokens(data, None, LARGEST_COUNT)
    tokens = data.read(0, data.num_sequences)[0] if isinstance(data, Sequences) else data
    return most_distinct(np.asarray(tokens))


@partial(jax.jit, static_argnames="microbatch_size")
def _dense_loss_and_gradient(params, tokens, mask, microbatch_size: int):
    # Divide inside the sums, so that they stay of the order of the gradient.
    share = 1 / count_valid(mask, params.output.dtype)

    @jax.value_and_grad
    def microbatch_loss(params, tokens, mask):
        return share * jnp.sum(jax.vmap(sequence_loss, (None, 0, 0))(params, tokens, mask))

    return sum_microbatches(partial(microbatch_loss, params), tokens, mask, microbatch_size)

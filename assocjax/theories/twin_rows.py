"""What the rows of statistics twins predict (`assocjax.theories.twins`)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, PRNGKeyArray

from assocjax.arguments import check_integer
from assocjax.models.decoder import Decoder
from assocjax.storage.display import summarized
from assocjax.theories._sparse_contexts import attend_on_average
from assocjax.theories._twin_draws import draw_rows, draw_tokens
from assocjax.theories.twin_losses import MEAN_ORDERS, ORDERS, last_states
from assocjax.theories.twin_statistics import TwinStatistics


@summarized
class TwinRows(NamedTuple):
    """What n rows of a twin predict, and for which occurrences they stand.

    Attributes:
      inputs: x, [n].
      share: of each of A tokens in the context of the row, [n,A].
      probabilities: of each of B tokens as the target, [n,B].
      weight: of the row in means, [n].
    """

    inputs: Int32[Array, " n"]
    share: Float[Array, "n A"]
    probabilities: Float[Array, "n B"]
    weight: Float[Array, " n"]


def twin_rows(
    decoder: Decoder,
    params: Any,
    statistics: TwinStatistics,
    key: PRNGKeyArray,
    contexts: Int32[Array, " A"],
    targets: Int32[Array, " B"],
    *,
    order: int,
    rows: int,
) -> TwinRows:
    """What the rows of a twin predict: those of all tokens, or from order 3 drawn ones.

    Args:
      decoder, params, statistics, order: as in `twin_loss`.
      key: from which rows are drawn.
      contexts: tokens whose shares are returned.
      targets: tokens whose probabilities are returned.
      rows: number of drawn rows.

    Cost: as `twin_loss`, without its gradient.
    """
    order = check_integer("order", order, minimum=0, maximum=max(ORDERS))
    V = statistics.row.size
    if order in MEAN_ORDERS:
        draws, tokens = None, None
        inputs = jnp.arange(V, dtype=jnp.int32)
        share = attend_on_average(
            statistics.context,
            jax.nn.one_hot(contexts, V, axis=0, dtype=statistics.frequency.dtype),
        )
        f = statistics.frequency
        weight = jnp.zeros(V, f.dtype).at[statistics.inputs].add(f)
    else:
        draws = draw_rows(statistics, key, order, rows)
        tokens = draw_tokens(statistics, jax.random.fold_in(key, rows)) if order == 5 else None
        inputs, weight = draws.x, jnp.full(rows, 1 / rows, statistics.frequency.dtype)
        ids = jnp.concatenate([draws.context, inputs[:, None]], axis=1)
        t = draws.t[:, None]
        places = np.arange(draws.context.shape[1])[None]
        shares = np.concatenate([places < t, np.ones_like(t, bool)], axis=1) / (t + 1)
        whole = jnp.zeros((rows, V), weight.dtype)
        whole = whole.at[np.arange(rows)[:, None], ids].add(jnp.asarray(shares, weight.dtype))
        share = whole[:, contexts]

    h = last_states(decoder, params, statistics, draws, tokens, order, rematerialize=False)
    logits: Any = decoder.apply({"params": params}, h, method=Decoder.unembed)
    log_sums = jax.nn.logsumexp(logits, axis=-1)
    return TwinRows(inputs, share, jnp.exp(logits[:, targets] - log_sums[:, None]), weight)

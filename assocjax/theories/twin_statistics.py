"""What statistics twins are trained on, from statistics of a text (`assocjax.theories.twins`)."""

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int32
from scipy.sparse import csr_array, vstack

from assocjax.arguments import check_integer, check_is
from assocjax.checks import check_number
from assocjax.errors import InputError
from assocjax.statistics.contexts import ContextStatistics, mean_contexts, normalized
from assocjax.statistics.drawing import AliasTables, alias_tables
from assocjax.storage.display import summarized
from assocjax.theories._sparse_contexts import SparseContext, sparse_context

_BIN = 16  # tokens whose followers may be exchanged: neighbours by frequency


@summarized
@struct.dataclass
class TwinStatistics:
    """What the losses of twins are computed from; P pairs (x, y), all distinct.

    Attributes:
      inputs, targets: x and y of every pair, [P].
      frequency: share of the positions of every pair, [P].
      row: the token whose row stands for input x, [V]: x, unless rows are shuffled.
      context: E[A_0 X | x], [V,V] or sparse; a token that is never an input attends to itself.
      pairs: a table of one row, to draw pairs.
      contexts: tables of P + V rows, to draw tokens of the context of a pair, or of a token.
      before: tables of P rows, to draw the pair of the two tokens before a pair; a row is empty if
        none is known.
      backoff: probability of drawing from the row of the token instead of the pair's, [P].
      positions: number of occurrences of each position t in the text, T integers, static.
    """

    inputs: Int32[Array, " P"]
    targets: Int32[Array, " P"]
    frequency: Float[Array, " P"]
    row: Int32[Array, " V"]
    context: Float[Array, "V V"] | SparseContext
    pairs: AliasTables
    contexts: AliasTables
    before: AliasTables
    backoff: Float[Array, " P"]
    positions: tuple[int, ...] = struct.field(pytree_node=False)


def prepare_twin(
    statistics: ContextStatistics,
    *,
    backoff: float = 0.0,
    shuffle_seed: int | None = None,
    entries: int | None = None,
) -> TwinStatistics:
    """Brings statistics of a text into the form that `twin_loss` needs.

    Args:
      statistics: from `context_statistics`.
      backoff: k; tokens of the context of a pair with n positions are drawn from the mixture

            n / (n + k) E[A_0 X | x, y]  +  k / (n + k) E[A_0 X | x]

        and from E[A_0 X | x] alone where the row of the pair is empty.
      shuffle_seed: a control that can fail: each token gets the followers of another one of similar
        frequency. Tokens are sorted by frequency, and permuted at random among 16 neighbours, so
        that none keeps its own. None shuffles nothing.
      entries: K, to make `context` a `SparseContext`, for a large vocabulary. None is dense.

    Returns:
      `TwinStatistics`, whose floating arrays have JAX's default dtype.

    Raises:
      InputError, InputTypeError: `statistics` is not `ContextStatistics` or has no positions, or
        `backoff`, `shuffle_seed` or `entries` is out of range.

    Cost: time proportional to the entries of `statistics.pair` and `before`, and to V^2. Memory of
      the result: 12 bytes for each entry, and V^2 numbers, or 16 to 24 K V bytes if sparse.
    """
    check_is("statistics", statistics, ContextStatistics)
    backoff = check_number("backoff", backoff, minimum=0.0)
    if entries is not None:
        entries = check_integer("entries", entries, minimum=1)
    bigram = statistics.bigram
    V, n = bigram.indptr.size - 1, bigram.data
    if not n.size:
        raise InputError("statistics must have at least one position; got none")
    inputs = np.repeat(np.arange(V), np.diff(bigram.indptr))
    inputs_of = bigram.sum(axis=1)
    unseen = (inputs_of == 0).astype(float)
    itself = csr_array((unseen, np.arange(V), np.arange(V + 1)), shape=(V, V))
    mean = csr_array(mean_contexts(statistics) + itself)

    pair, token = normalized(statistics.pair), normalized(statistics.token)
    of_pair = _without_half_of_itself(pair, inputs)
    of_token = _without_half_of_itself(token, np.arange(V))
    # Mixing before half of x is left out, as the definition says, mixes the rest by its mass.
    known = (np.diff(pair.indptr) > 0) & (n > 0)
    share = np.divide(n, n + backoff, out=np.zeros(n.size), where=known)
    mass, rest = share * of_pair.sum(axis=1), (1 - share) * of_token.sum(axis=1)[inputs]

    # A pair that is never drawn may have no context at all.
    backoff_share = np.divide(rest, mass + rest, out=np.zeros(n.size), where=mass + rest > 0)

    dtype = jnp.result_type(float)
    return TwinStatistics(
        inputs=jnp.asarray(inputs, jnp.int32),
        targets=jnp.asarray(bigram.indices, jnp.int32),
        frequency=jnp.asarray(n / n.sum(), dtype),
        row=jnp.asarray(_rows(inputs_of, shuffle_seed), jnp.int32),
        context=(
            jnp.asarray(mean.toarray(), dtype)
            if entries is None
            else sparse_context(
                mean, inputs_of / n.sum(), check_integer("entries", entries, minimum=1)
            )
        ),
        pairs=alias_tables(csr_array((n, np.arange(n.size), [0, n.size]), shape=(1, n.size))),
        contexts=alias_tables(csr_array(vstack([of_pair, of_token], format="csr"))),
        before=alias_tables(statistics.before),
        backoff=jnp.asarray(backoff_share, dtype),
        positions=tuple(statistics.positions.tolist()),
    )


def _without_half_of_itself(contexts: csr_array, tokens: np.ndarray) -> csr_array:
    """Contexts [R,V] of tokens [R] without half of the token's own weight."""
    own = contexts.indices == np.repeat(tokens, np.diff(contexts.indptr))
    data = np.where(own, contexts.data / 2, contexts.data)
    return csr_array((data, contexts.indices, contexts.indptr), shape=contexts.shape)


def _rows(counts: np.ndarray, seed: int | None) -> np.ndarray:
    """The token whose row stands for each token."""
    row = np.arange(counts.size)
    if seed is None:
        return row
    rng = np.random.default_rng(check_integer("shuffle_seed", seed, minimum=0))
    ranked = np.argsort(-counts, kind="stable")
    for bin in np.split(ranked, range(_BIN, ranked.size, _BIN)):
        cycle = rng.permutation(bin)
        row[cycle] = np.roll(cycle, 1)
    return row

"""How strongly a text, a model or a statistics twin holds an association of tokens.

An association (a, b) of kind "bigram" is that b follows a; of kind "context", that b follows where
a is in the context. With positions t of input x_t and target y_t, and uniform causal attention A_0:

    bigram    w_t = [x_t = a]        context    w_t = (A_0 X)_t[a], the share of a in the context

    with a      P(b | a) = sum_t w_t p_t(b) / sum_t w_t        without    P(b) = mean_t p_t(b)
    strength    log(P(b | a) / P(b)), in nats

In a text p_t(b) is [y_t = b], and the strength of a bigram is its pointwise mutual information. In
a model it is the model's probability of b at position t. A model that knows the text has the text's
strength, one that knows frequencies only has 0.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Int32
from scipy.sparse import csr_array

from assocjax.arguments import check_integer, check_is
from assocjax.checks import check_number, check_positive
from assocjax.models.decoder import DecoderModel
from assocjax.statistics.contexts import ContextStatistics, normalized
from assocjax.storage.display import summarized

KINDS = ("bigram", "context")


@summarized
class Associations(NamedTuple):
    """K associations of a text, those of bigrams first.

    Attributes:
      kind: of `KINDS`, [K].
      first, second: ids of the tokens a and b, [K].
      occurrences: sum of w over the positions with target b, [K]: of a bigram its count, of a
        context a sum of shares.
      base: P(b) in the text, [K].
      strength: in the text, in nats, [K].
    """

    kind: np.ndarray
    first: Int[np.ndarray, " K"]
    second: Int[np.ndarray, " K"]
    occurrences: Float[np.ndarray, " K"]
    base: Float[np.ndarray, " K"]
    strength: Float[np.ndarray, " K"]


def strong_associations(
    statistics: ContextStatistics,
    *,
    most: int = 200,
    bigrams: tuple[float, float] = (60, 1.1),
    contexts: tuple[float, float] = (3, 0.4),
    leave_out: tuple[int, ...] = (),
) -> Associations:
    """The strongest associations: those of the largest occurrences times strength.

    A pair is of one kind only: no context is listed that is a bigram of the strength of a context.

    Args:
      statistics: of the text.
      most: the largest number of each kind.
      bigrams, contexts: the fewest occurrences, and the smallest strength.
      leave_out: ids of tokens that take no part, such as that of the unknown token.

    Raises:
      InputError, InputTypeError: an argument is out of range.

    Cost: time proportional to the entries of `statistics.pair`; memory of the pairs of a token and
      a target that has it in its context.
    """
    check_is("statistics", statistics, ContextStatistics)
    most = check_integer("most", most, minimum=1)
    bigram, pair = statistics.bigram, statistics.pair
    V, P = bigram.indptr.size - 1, pair.indptr.size - 1
    base = bigram.sum(axis=0) / max(1, bigram.sum())
    followed_by = csr_array((np.ones(P), (bigram.indices, np.arange(P))), shape=(V, P))
    of_context = csr_array((followed_by @ pair).T) / 2.0**statistics.digits
    found, followers = [], (np.empty(0, int),) * 2
    for name, counts, (fewest, weakest) in (
        ("bigrams", bigram, bigrams),
        ("contexts", of_context, contexts),
    ):
        fewest = check_number(f"{name}[0]", fewest, minimum=0)
        weakest = check_number(f"{name}[1]", weakest, minimum=0)
        counts = csr_array(counts)
        a = np.repeat(np.arange(V), np.diff(counts.indptr))
        b, n = counts.indices, counts.data
        strength = _log_ratio(normalized(counts).data, base[b])
        kept = (n >= fewest) & (strength > weakest)
        kept &= ~np.isin(a, leave_out) & ~np.isin(b, leave_out)
        if name == "contexts":
            kept &= ~np.isin(V * a + b, V * followers[0] + followers[1])
        else:
            strong = strength > check_number("contexts[1]", contexts[1], minimum=0)
            followers = a[strong], b[strong]
        best = np.flatnonzero(kept)[np.argsort(-(n * strength)[kept], kind="stable")[:most]]
        columns = (of[best] for of in (a, b, n, base[b], strength))
        found.append([np.full(best.size, name[:-1], object), *columns])
    return Associations(*(np.concatenate(of) for of in zip(*found, strict=True)))


def _log_ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """log(a / b); minus infinity where a is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(a > 0, np.log(a / b), -np.inf)


@struct.dataclass
class Probes:
    """Where associations are read, so that tokens that take part in several are read once.

    Attributes:
      place: index of every token in `first`, or the length of `first` if it is none of them, [V].
      first: the distinct tokens a, [A].
      second: the distinct tokens b, [B].
      row, column: of every association, in `first` and `second`, [K].
      is_bigram: [K].
    """

    place: Int32[Array, " V"]
    first: Int32[Array, " A"]
    second: Int32[Array, " B"]
    row: Int32[Array, " K"]
    column: Int32[Array, " K"]
    is_bigram: Bool[Array, " K"]

    @classmethod
    def of(cls, associations: Associations, vocab_size: int) -> "Probes":
        check_is("associations", associations, Associations)
        first, row = np.unique(associations.first, return_inverse=True)
        second, column = np.unique(associations.second, return_inverse=True)
        place = np.full(vocab_size, first.size)
        place[first] = np.arange(first.size)
        ids = [jnp.asarray(of, jnp.int32) for of in (place, first, second, row, column)]
        return cls(*ids, jnp.asarray(associations.kind == KINDS[0]))  # type: ignore[call-arg]


class Sums(NamedTuple):
    """Sums over positions: of w p and w of bigrams, [A+1, B] and [A+1], and of contexts, [A, B] and
    [A]; of p, [B], and the number of positions."""

    following: Float[Array, "A+1 B"]
    inputs: Float[Array, " A+1"]
    within: Float[Array, "A B"]
    shares: Float[Array, " A"]
    probabilities: Float[Array, " B"]
    positions: Float[Array, ""]

    def strength(self, probes: Probes) -> Float[Array, " K"]:
        """Of every association; NaN where its first token does not occur."""
        i, j = probes.row, probes.column
        bigram, context = self.following[i, j] / self.inputs[i], self.within[i, j] / self.shares[i]
        with_a = jnp.where(probes.is_bigram, bigram, context)
        return jnp.log(with_a) - jnp.log(self.probabilities[j] / self.positions)


def sum_positions(
    probes: Probes,
    inputs: Int32[Array, " n"],
    share: Float[Array, "n A"],
    probabilities: Float[Array, "n B"],
    weight: Float[Array, " n"],
) -> Sums:
    """Sums over positions, each of which counts `weight` times.

    Args:
      inputs: x.
      share: of the tokens `probes.first` in the context.
      probabilities: of the tokens `probes.second`.

    Cost: n A B multiply-adds.
    """
    weighted, place = probabilities * weight[:, None], probes.place[inputs]
    empty = jnp.zeros((len(probes.first) + 1, len(probes.second)), weighted.dtype)
    return Sums(
        empty.at[place].add(weighted),
        empty[:, 0].at[place].add(weight),
        jnp.matmul(share.T, weighted, precision=lax.Precision.HIGHEST),
        jnp.sum(share * weight[:, None], axis=0),
        jnp.sum(weighted, axis=0),
        jnp.sum(weight),
    )


def model_strengths(
    model: DecoderModel,
    params: Any,
    tokens: Int32[Array, "N T+1"],
    mask: Bool[Array, "N T"],
    probes: Probes,
    *,
    at_once: int = 16,
) -> Float[Array, " K"]:
    """The strength of every association in a model, over the positions of a text.

    Args:
      model, params: a decoder and its weights.
      tokens, mask: sequences that are read.
      probes: of the associations.
      at_once: sequences read together.

    Cost: a forward pass, and N T A B multiply-adds.
    """

    def of_sequence(sequence):
        tokens, mask = sequence
        x = tokens[:-1]
        logits = model.logits(params, x, mask)
        p = jnp.exp(logits[:, probes.second] - jax.nn.logsumexp(logits, axis=-1)[:, None])
        valid = mask.astype(p.dtype)
        seen = (x[:, None] == probes.first[None]).astype(p.dtype) * valid[:, None]
        share = jnp.cumsum(seen, axis=0) / jnp.maximum(jnp.cumsum(valid), 1)[:, None]
        return sum_positions(probes, x, share, p, valid)

    def of_block(sums, block):
        return jax.tree.map(
            lambda a, b: a + jnp.sum(b, axis=0), sums, jax.vmap(of_sequence)(block)
        ), None

    N = len(tokens)
    n = min(at_once, N)
    shape = jax.eval_shape(of_sequence, (tokens[0], mask[0]))
    sums = jax.tree.map(lambda of: jnp.zeros(of.shape, of.dtype), shape)
    whole = N // n * n
    blocks = jax.tree.map(lambda of: of[:whole].reshape(-1, n, *of.shape[1:]), (tokens, mask))
    sums, _ = lax.scan(of_block, sums, blocks)
    if whole < N:
        sums, _ = of_block(sums, (tokens[whole:], mask[whole:]))
    return sums.strength(probes)


def formed_at(
    steps: Int[np.ndarray, " S"],
    strength: Float[np.ndarray, "... K S"],
    in_text: Float[np.ndarray, " K"],
    fraction: float = 0.5,
) -> Float[np.ndarray, "... K"]:
    """The number of updates at which each association forms, or NaN if it does not.

    It forms where its strength first reaches a fraction of the strength in the text; between two
    recorded steps strengths are taken as linear.

    Args:
      steps: increasing numbers of updates.
      strength: in a model at these steps.
      in_text: `Associations.strength`.
      fraction: above 0.

    Raises:
      InputError, InputTypeError: `fraction` is out of range.
    """
    fraction = check_positive("fraction", fraction)
    steps, strength, in_text = map(np.asarray, (steps, strength, in_text))
    goal = fraction * in_text[:, None]
    passed = strength >= goal
    after = np.argmax(passed, axis=-1)
    before = np.maximum(after - 1, 0)
    low, high = (np.take_along_axis(strength, at[..., None], -1)[..., 0] for at in (before, after))
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(after > 0, (goal[..., 0] - low) / (high - low), 0.0)
    found = steps[before] + part * (steps[after] - steps[before])
    return np.where(passed.any(axis=-1), found, np.nan)

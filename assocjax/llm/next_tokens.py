"""What a language model predicts after a token, beside the n-grams of a text.

The theory's first term is W_O ~ B: what follows a token in the text is what the model predicts
after it. Here a model's predictions after each of n tokens x are read in three ways,

    alone   p(. | x), of the token alone at position 0
    mean    the mean of p(. | context) over the occurrences of x in a text
    each    p(. | context) at every occurrence of x

and compared with distributions q(. | x) of the text, by KL(q || p) = sum_y q(y) log(q(y) / p(y)),
which of each is the mean over occurrences. A model that knows bigrams only has 0 in all three. So
has, in alone and mean, one that knows more and is calibrated, since p(y | x) is the mean of what it
predicts in the contexts of x. Only in each is such a model seen to leave the bigram.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Int32
from scipy.stats import rankdata

from assocjax.arguments import (
    LARGEST_DRAWS,
    NUM_BINS,
    NUM_SHUFFLES,
    check_integer,
    check_is,
)
from assocjax.checks import Sequences, as_array, check_precision
from assocjax.errors import InputError
from assocjax.llm.nulls import frequency_bins
from assocjax.llm.theory import check_token_ids
from assocjax.models.decoder import Decoder, DecoderModel
from assocjax.statistics.ngrams import NGrams, check_range
from assocjax.statistics.sparse import RESIDUALS
from assocjax.storage import results
from assocjax.storage.display import summarized

READINGS = ("alone", "mean", "each")
"""Ways to read a model's predictions after a token; see the module's docstring."""

UNIGRAM, BIGRAM, OTHER = "unigram", "bigram", "another token's bigram"

KL = "KL divergence from a prediction by n-grams to the model's"

_NAMES = {
    "rank_correlation": "rank correlation of the model's prediction with that by n-grams",
    "rank_correlation_mean": "rank correlation, mean over occurrences",
    "head_correlation": "mean correlation of rows of embedding times unembedding with the bigrams",
    "head_null_mean": "the same with shuffled tokens, mean over shuffles",
    "head_null_sd": "the same with shuffled tokens, standard deviation over shuffles",
    "token_count": "number of occurrences of the token",
    "reading": "how the model's prediction after a token is read",
    "reference": "prediction by n-grams of the text",
    "residual": "what is subtracted from bigrams as chance",
    "null": "tokens are shuffled within bins of this",
}

_BLOCK_ENTRIES = 1 << 23  # logits computed at once
_FEWEST = 3  # targets of a rank correlation


@summarized
class Predictions(NamedTuple):
    """A model's predictions after n tokens.

    Attributes:
      log_p: float32 [3, n, V], in the order of `READINGS`: log p(y | x) of the token alone, the log
        of the mean prediction, and the mean of log predictions.
      direct: float32 [n,V], norm(E) U, the logits without any layer.
      counts: occurrences of each token in the text, [n].
      loss: mean negative log-likelihood of all targets of the text, in nats.
    """

    log_p: Float[np.ndarray, "3 n V"]
    direct: Float[np.ndarray, "n V"]
    counts: Int[np.ndarray, " n"]
    loss: float


def read_predictions(
    model: DecoderModel,
    params: Any,
    source: Sequences,
    token_ids: Int[ArrayLike, " n"],
    *,
    sequences: range | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Reads what a model predicts after some tokens.

    Args:
      model, params: a decoder and its weights (`load_decoder`).
      source: a text in the model's tokens.
      token_ids: distinct ids.
      sequences: those of its sequences that are read; by default all.
      progress: called with (sequences read, sequences to read).

    Raises:
      InputError: the text has more tokens or longer sequences than the model, a token does not
        occur in the sequences, or ids are out of range.
      InputTypeError: an argument has another type.

    Cost: a forward pass over the text, and of every position 2 V sums; memory 16 n V bytes, and
    the logits of some sequences.
    """
    check_is("model", model, DecoderModel)
    check_precision(params)
    every = check_range(source, sequences)
    ids = check_token_ids(token_ids, source.vocab_size)
    V, T = source.vocab_size, source.seq_len
    config = model.decoder(params).config
    if config.vocab_size < V or config.seq_len < T:
        raise InputError(
            f"source must have at most the {config.vocab_size} tokens and {config.seq_len} "
            f"positions of the model; got {V} and {T}"
        )
    place = np.full(V, ids.size, np.int32)
    place[ids] = np.arange(ids.size)
    place = jnp.asarray(place)

    size = min(len(every), max(1, _BLOCK_ENTRIES // (T * config.vocab_size)))
    sums = jax.tree.map(
        lambda of: jnp.zeros(of.shape, of.dtype),
        jax.eval_shape(partial(_Sums.zeros, V, ids.size)),
    )
    loss = 0.0
    for start in range(every.start, every.stop, size):
        stop = min(start + size, every.stop)
        tokens, mask = source.read(start, stop)
        short = size - len(tokens)  # the last block has the size of the others
        tokens, mask = (np.pad(np.asarray(of), ((0, short), (0, 0))) for of in (tokens, mask))
        sums, nll = _add_block(model, sums, params, place, jnp.asarray(tokens), jnp.asarray(mask))
        loss += float(nll)
        if progress is not None:
            progress(stop - every.start, len(every))
    counts, positions = np.asarray(sums.counts, np.int64), int(sums.positions)
    if not counts.all():
        absent = ids[np.argmin(counts)]
        raise InputError(f"token_ids must occur in the text; token {absent} does not")
    alone, direct = _alone(model, params, ids, V)
    each = np.asarray(sums.log_p) / counts[:, None].astype(np.float32)
    with np.errstate(divide="ignore"):  # a probability may be rounded to 0
        mean = np.log(np.asarray(sums.p) / counts[:, None].astype(np.float32))
    return Predictions(np.stack([alone, mean, each]), direct, counts, loss / positions)


class _Sums(NamedTuple):
    """Over the positions of each token: of probabilities and log-probabilities, and their number;
    and the number of all positions."""

    p: Float[Array, "n V"]
    log_p: Float[Array, "n V"]
    counts: Int32[Array, " n"]
    positions: Int32[Array, ""]

    @classmethod
    def zeros(cls, V: int, n: int) -> "_Sums":
        zeros = jnp.zeros((n, V), jnp.float32)
        return cls(zeros, zeros, jnp.zeros(n, jnp.int32), jnp.zeros((), jnp.int32))


@partial(jax.jit, static_argnames="model", donate_argnames="sums")
def _add_block(
    model: DecoderModel,
    sums: _Sums,
    params: Any,
    place: Int32[Array, " V"],
    tokens: Int32[Array, "B T+1"],
    mask: Bool[Array, "B T"],
) -> tuple[_Sums, Float[Array, ""]]:
    """The sums with those of a block, and its negative log-likelihood."""
    x, y = tokens[:, :-1], tokens[:, 1:]
    log_p = jax.nn.log_softmax(model.logits(params, x, mask)).astype(jnp.float32)
    nll = -jnp.sum(jnp.where(mask, jnp.take_along_axis(log_p, y[..., None], -1)[..., 0], 0))
    n, V = sums.p.shape
    log_p = log_p[..., :V].reshape(-1, V)  # a model may have rows of padding
    rows = jnp.where(mask, place[x], n).reshape(-1)
    return _Sums(
        sums.p.at[rows].add(jnp.exp(log_p), mode="drop"),
        sums.log_p.at[rows].add(log_p, mode="drop"),
        sums.counts.at[rows].add(1, mode="drop"),
        sums.positions + jnp.sum(mask, dtype=jnp.int32),
    ), nll


def _alone(
    model: DecoderModel, params: Any, ids: np.ndarray, V: int
) -> tuple[np.ndarray, np.ndarray]:
    """log p(. | x) of each token alone, and its logits without any layer, [n,V] each."""
    size = min(ids.size, max(1, _BLOCK_ENTRIES // V))
    padded = np.resize(ids, -(-ids.size // size) * size).astype(np.int32)
    parts = [_alone_block(model, params, block) for block in padded.reshape(-1, size)]
    alone, direct = (
        np.concatenate([np.asarray(p) for p in of])[: ids.size] for of in zip(*parts, strict=True)
    )
    return alone[:, :V], direct[:, :V]


@partial(jax.jit, static_argnames="model")
def _alone_block(model: DecoderModel, params: Any, ids: Int32[Array, " b"]):
    log_p = jax.nn.log_softmax(model.logits(params, ids[:, None])[:, 0])
    h = jnp.asarray(params["embedding"])[ids]
    direct: Any = model.decoder(params).apply({"params": params}, h, method=Decoder.unembed)
    return log_p.astype(jnp.float32), direct.astype(jnp.float32)


def ngram_agreement(
    predictions: Predictions,
    ngrams: NGrams,
    token_ids: Int[ArrayLike, " n"],
    *,
    others: Mapping[str, Float[ArrayLike, "n V"]] | None = None,
    num_shuffles: int = NUM_SHUFFLES,
    num_bins: int = NUM_BINS,
    seed: int = 0,
) -> xr.Dataset:
    """Compares a model's predictions after n tokens with the n-grams of a text.

    Args:
      predictions: of `read_predictions`, for the same tokens.
      ngrams: of the text, preferably of other sequences than those that the model has read.
      token_ids: distinct ids.
      others: further distributions q(y | x) by name, such as the prediction of a statistics twin of
        order 2: `twin_rows(..., contexts=[], targets=range(V), order=2).probabilities[token_ids]`.
      num_shuffles, num_bins, seed: of the shuffles of tokens, among all or within bins of
        `frequency_bins`.

    Returns:
      A Dataset. With the dimensions `reading` (`READINGS`), `reference` (unigram, bigram, another
      token's bigram, and `others`) and `token`:

      * `kl`: KL(q || p) in nats; q is smoothed as the n-grams are.
      * `rank_correlation`: Spearman's, of p and q over the targets that follow x in the n-grams'
        text; NaN for fewer than three.
      * `kl_mean`, `kl_median`, `rank_correlation_mean` without `token`; means are weighted by the
        occurrences of tokens in the text that was read.

      "another token's bigram" is a control: each token is given the bigrams of the token next in
      frequency. With the dimension `residual` ("uniform", "unigram"):

      * `head_correlation`: of a row of norm(E) U with the row of B = P(x,y) - f(x) / V, the mean
        over tokens. For "unigram": with P(x,y) - f(x) g(y), after the mean over tokens has been
        subtracted from norm(E) U. `head_null_mean`, `head_null_sd`, with the dimension `null`, are
        over shuffles of the tokens of B.

      Also `loss` and `token_count`.

    Raises:
      InputError, InputTypeError: an argument has another type, shape or range.

    Cost: sorting 6 n V numbers for the ranks; a product of B and [V,n].
    """
    check_is("predictions", predictions, Predictions)
    check_is("ngrams", ngrams, NGrams)
    ids = check_token_ids(token_ids, ngrams.vocab_size)
    n, V = ids.size, ngrams.vocab_size
    if predictions.direct.shape != (n, V):
        raise InputError(
            f"predictions must be of {n} tokens and {V} targets; got {predictions.direct.shape}"
        )
    num_shuffles = check_integer("num_shuffles", num_shuffles, minimum=2, maximum=LARGEST_DRAWS)
    num_bins = check_integer("num_bins", num_bins, minimum=1)
    seed = check_integer("seed", seed, minimum=0)
    others = {} if others is None else others
    check_is("others", others, Mapping)
    given = {name: np.asarray(as_array(name, of), float) for name, of in others.items()}
    for name, of in given.items():
        if of.shape != (n, V) or not (of >= 0).all() or not np.allclose(of.sum(1), 1, atol=1e-3):
            raise InputError(
                f"others: {name!r} must be probabilities [n, V] = {(n, V)}; got shape {of.shape}"
            )
    references = (UNIGRAM, BIGRAM, OTHER, *given)
    # The token next in frequency; that of the rarest is the one before it.
    order = np.argsort(-predictions.counts, kind="stable")
    other = np.empty_like(ids)
    other[order] = ids[np.append(order[1:], order[-2:-1] if n > 1 else order)]
    unigram = ngrams.unigram()
    kl = np.empty((len(READINGS), len(references), n))
    ranks = np.empty_like(kl)
    for rows in _blocks(n, V):
        q = [np.broadcast_to(unigram, (len(ids[rows]), V)), ngrams.bigram(ids[rows])]
        q += [ngrams.bigram(other[rows]), *(of[rows] for of in given.values())]
        follows = ngrams.bigram_counts(ids[rows]).toarray() > 0
        log_p = predictions.log_p[:, rows].astype(float)
        p_ranks = [_ranks(of, follows) for of in log_p]
        for j, of in enumerate(q):
            with np.errstate(divide="ignore", invalid="ignore"):
                terms = np.where(of > 0, of * (np.log(of) - log_p), 0)
            kl[:, j, rows] = terms.sum(-1)
            q_ranks = _ranks(of, follows)
            for i, model_ranks in enumerate(p_ranks):
                ranks[i, j, rows] = _correlation(model_ranks, q_ranks, follows)
    dims = ("reading", "reference", "token")
    dataset = xr.Dataset(
        {"kl": (dims, kl), "rank_correlation": (dims, ranks), "loss": predictions.loss},
        {"reading": list(READINGS), "reference": list(references)},
    )
    dataset["token_count"] = "token", predictions.counts
    weighted = dataset[["kl", "rank_correlation"]].weighted(dataset["token_count"]).mean("token")
    dataset = dataset.merge(weighted.rename({name: f"{name}_mean" for name in weighted}))
    dataset["kl_median"] = dataset["kl"].median("token")
    bins = {
        "all": np.zeros(n, int),
        "frequency": np.asarray(frequency_bins(predictions.counts, min(num_bins, n))),
    }
    head = _head(predictions.direct, ngrams, ids, bins, num_shuffles, seed)
    for name in ("kl", "kl_mean", "kl_median"):
        dataset[name].attrs |= {"long_name": KL, "units": "nat"}
    dataset["loss"].attrs |= {"long_name": "mean negative log-likelihood", "units": "nat"}
    return results.describe(dataset.merge(head), _NAMES)


def kl_of_bigrams(
    ngrams: NGrams, other: NGrams, token_ids: np.ndarray, counts: np.ndarray
) -> float:
    """KL from the bigrams of one text to those of another, the mean over tokens weighted by counts.

    For two parts of a text, that is how far finite counts alone put one from the other.
    """
    kl = np.empty(len(token_ids))
    for rows in _blocks(len(token_ids), ngrams.vocab_size):
        p, q = (of.bigram(token_ids[rows]) for of in (other, ngrams))
        kl[rows] = np.sum(q * (np.log(q) - np.log(p)), axis=-1)
    return float(np.average(kl, weights=counts))


def _blocks(n: int, V: int) -> Iterator[slice]:
    size = max(1, _BLOCK_ENTRIES // V)
    return (slice(start, start + size) for start in range(0, n, size))


def _ranks(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Ranks within each row of the values at some places, the mean rank where they are equal."""
    return rankdata(np.where(where, values, np.inf), axis=-1)


def _correlation(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Pearson's, of each row at some places; NaN of fewer than three or of equal values."""
    number = where.sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (np.where(where, x - (x * where).sum(-1, keepdims=True) / number, 0) for x in (a, b))
        found = (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.where(number[:, 0] >= _FEWEST, found, np.nan)


def _head(
    direct: np.ndarray,
    ngrams: NGrams,
    ids: np.ndarray,
    bins: Mapping[str, np.ndarray],
    num_shuffles: int,
    seed: int,
) -> xr.Dataset:
    """Mean correlation of rows of norm(E) U with those of the bigram statistic, and its mean and sd
    over shuffles of the tokens of the statistic."""
    n, V = direct.shape
    C = ngrams.bigram_counts(ids).toarray().astype(np.float32) / ngrams.counts[0].sum()
    g = np.bincount(ngrams.codes[0], ngrams.counts[0], V) / ngrams.counts[0].sum()
    rng, found = np.random.default_rng(seed), np.empty((len(RESIDUALS), 1 + len(bins) * 2))
    for i, residual in enumerate(RESIDUALS):
        uniform = residual == "uniform"
        B = C - np.outer(C.sum(1), np.full(V, 1 / V) if uniform else g).astype(np.float32)
        rows = [_unit(of) for of in (direct if uniform else direct - direct.mean(0), B)]
        G = rows[0] @ rows[1].T  # of token i of the model with token j of the statistic
        found[i, 0] = np.trace(G) / n
        for j, of_tokens in enumerate(bins.values()):
            scores = [G[np.arange(n), _shuffle(rng, of_tokens)].mean() for _ in range(num_shuffles)]
            found[i, 1 + 2 * j : 3 + 2 * j] = np.mean(scores), np.std(scores, ddof=1)
    return xr.Dataset(
        {
            "head_correlation": ("residual", found[:, 0]),
            "head_null_mean": (("residual", "null"), found[:, 1::2]),
            "head_null_sd": (("residual", "null"), found[:, 2::2]),
        },
        {"residual": list(RESIDUALS), "null": list(bins)},
    )


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows without their mean, of norm 1, or 0 where they are constant."""
    rows = rows - rows.mean(1, keepdims=True)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)


def _shuffle(rng: np.random.Generator, bins: np.ndarray) -> np.ndarray:
    """A random permutation that leaves every token in its bin."""
    permutation = np.empty(bins.size, int)
    permutation[np.argsort(bins, kind="stable")] = np.lexsort((rng.random(bins.size), bins))
    return permutation

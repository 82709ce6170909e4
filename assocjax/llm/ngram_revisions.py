"""Compares what checkpoints of a model predict with the n-grams of a text, one after another.

N-grams are counted in the first sequences of the text, and models read the last ones. Each revision
is loaded, read and freed; its result is a separate file, so that nothing is lost if the work stops.
"""

import json
import os
import urllib.parse
from collections.abc import Sequence

import numpy as np
import xarray as xr

from assocjax.arguments import (
    HELD_OUT,
    LARGEST_DRAWS,
    MIN_COUNT,
    NUM_BINS,
    NUM_SHUFFLES,
    NUM_TOKENS,
    check_integer,
    check_is,
)
from assocjax.checks import Sequences, check_number, check_positive
from assocjax.corpora import TokenData, TokenFile
from assocjax.errors import InputError
from assocjax.llm.decoders import load_decoder
from assocjax.llm.files import hash_revisions
from assocjax.llm.next_tokens import kl_of_bigrams, ngram_agreement, read_predictions
from assocjax.llm.revisions import (
    Progress,
    configuration_hash,
    name_of,
    names_of,
    place_of,
    with_steps,
)
from assocjax.statistics.ngrams import NGrams, count_ngrams
from assocjax.storage import claim, results

_NAMES = {
    "entropy": "entropy of a token after those before it, of relative frequencies in the text",
    "cross_entropy": "negative log-likelihood of the text that is read, by n-grams of the rest",
    "kl_of_text": "KL divergence from the bigrams of the rest of the text to those of what is read",
}


def compare_ngrams(
    name_or_path: str | os.PathLike[str],
    revisions: Sequence[str | None],
    source: TokenData | TokenFile,
    out: str | os.PathLike[str],
    *,
    num_tokens: int | None = None,
    min_count: int = MIN_COUNT,
    held_out: float = HELD_OUT,
    smoothing: float | None = None,
    num_shuffles: int = NUM_SHUFFLES,
    num_bins: int = NUM_BINS,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Compares what checkpoints predict after single tokens with the n-grams of a text.

    Args:
        name_or_path, revisions: As in `load_decoder`; `[None]` for a model without revisions.
        source: The text, in the model's tokens (`tokens_of_model`).
        out: A folder for a file `revision-NAME.nc` for each revision. An existing file is reused if
            configuration, corpus, weights and package version are the same.
        num_tokens: n, the most frequent tokens of the part that is read; by default 2,000, or all
            that occur `min_count` times in both parts of the text if fewer.
        min_count: Smallest number of occurrences of a token in each part.
        held_out: Share of the sequences, the last ones, that models read. N-grams are counted in
            the others.
        smoothing: k of `count_ngrams`.
        num_shuffles, num_bins, seed: As in `ngram_agreement`.
        overwrite: Replace another comparison in the folder, or compute this one again.
        progress: Called with (current work, steps done, steps in total).

    Returns:
        The Dataset of `ngram_agreement`, with the leading dimension `revision`, and a coordinate
        `step` if each name contains a different step (`with_summed_rate` adds the summed learning
        rate). In addition, in nats:

        * `entropy`, `cross_entropy` with the dimension `order`, from 1 to 3: of the n-grams of the
          whole text by relative frequencies, which is too small, and of the part that is read by
          the n-grams of the other part, which is too large (`NGrams`). The entropy lies between.
        * `kl_of_text`: KL from the bigrams to those of the part that is read, smoothed likewise,
          the weighted mean over tokens. So far is one part of the text from the other.

    Raises:
        InputError: If revisions are missing or have no weights (checked first), one is repeated,
            too few tokens occur, an argument is out of range, `out` holds another comparison or
            files that assocjax did not write; and as `load_decoder`, `read_predictions`.
        InputTypeError: If an argument has another type.

    Cost: counting; for each revision `read_predictions` and `ngram_agreement`, and reading its
    weights twice.
    """
    names = names_of(revisions)
    check_is("source", source, Sequences)
    num_shuffles = check_integer("num_shuffles", num_shuffles, minimum=2, maximum=LARGEST_DRAWS)
    num_bins = check_integer("num_bins", num_bins, minimum=1)
    seed = check_integer("seed", seed, minimum=0)
    min_count = check_integer("min_count", min_count, minimum=1)
    if num_tokens is not None:
        num_tokens = check_integer("num_tokens", num_tokens, minimum=2)
    if smoothing is not None:
        smoothing = check_positive("smoothing", smoothing)
    read = _held_out(held_out, source.num_sequences)
    report = progress or (lambda what, done, total: None)
    of_each = hash_revisions(name_or_path, revisions, progress=report)
    hashes = dict(zip(names, of_each, strict=True))
    settings = {
        "model": name_of(name_or_path),
        "num_tokens": num_tokens,
        "min_count": min_count,
        "held_out": held_out,
        "smoothing": smoothing,
        "num_shuffles": num_shuffles,
        "num_bins": num_bins,
        "seed": seed,
    }
    of_all = results.identity(source, settings | place_of(name_or_path))
    with claim(out, "ngrams", of_all, overwrite=overwrite) as folder:
        report("counting", 0, 1)
        ngrams = count_ngrams(source, range(read.start), smoothing=smoothing)
        of_read = count_ngrams(source, read, order=2, smoothing=smoothing)
        ids = _frequent(of_read, ngrams, num_tokens, min_count)
        found = []
        for name, revision in zip(names, revisions, strict=True):
            file = f"revision-{urllib.parse.quote(name, safe='')}.nc"
            decides = of_all | hashes[name] | configuration_hash(name_or_path, revision)
            dataset = None
            if file in folder.files:
                dataset = results.reuse(folder.path / file, decides, overwrite=overwrite)
            if dataset is None:
                report(f"{name}: loading", 0, 1)
                model, params = load_decoder(name_or_path, revision)
                predictions = read_predictions(
                    model,
                    params,
                    source,
                    ids,
                    sequences=read,
                    progress=lambda done, total, name=name: report(f"{name}: reading", done, total),
                )
                dataset = ngram_agreement(
                    predictions,
                    ngrams,
                    ids,
                    num_shuffles=num_shuffles,
                    num_bins=num_bins,
                    seed=seed,
                ).assign_coords(token=[source.vocabulary[i] for i in ids])
                results.keep(folder, file, results.describe(dataset), decides)
            found.append(dataset)
        folder.finish()
    counts = found[0]["token_count"]  # the same for all
    joined = xr.concat(
        [each.drop_vars("token_count") for each in found],
        dim="revision",
        combine_attrs="override",
        join="exact",
    ).assign_coords(revision=names)
    joined = with_steps(joined).assign(token_count=counts)
    order = np.arange(len(ngrams.codes)) + 1
    joined = joined.assign_coords(order=order).assign(
        entropy=("order", count_ngrams(source, smoothing=smoothing).entropies()),
        cross_entropy=("order", ngrams.cross_entropies(source, read)),
    )
    joined["kl_of_text"] = kl_of_bigrams(ngrams, of_read, ids, counts.values)
    results.describe(joined, {"order": "number of tokens of the n-grams"})
    results.describe(joined, _NAMES, units="nat")
    return joined.assign_attrs(
        results.provenance(source, settings | {"revisions": names}),
        model=settings["model"],
        weights=json.dumps(hashes, sort_keys=True),
    )


def _held_out(share: float, num_sequences: int) -> range:
    """The sequences that models read, the last ones."""
    share = check_number("held_out", share, minimum=0)
    number = round(share * num_sequences)
    if not 0 < number < num_sequences:
        raise InputError(
            "held_out must leave a sequence to read and one to count, of "
            f"{num_sequences}; got {share}"
        )
    return range(num_sequences - number, num_sequences)


def _frequent(
    of_read: NGrams, ngrams: NGrams, num_tokens: int | None, min_count: int
) -> np.ndarray:
    """Ids of the most frequent tokens in the part that is read."""
    V = ngrams.vocab_size
    here, there = (np.bincount(of.codes[1] // V, of.counts[1], V) for of in (of_read, ngrams))
    often = np.minimum(here, there) >= min_count
    n = min(NUM_TOKENS, int(often.sum())) if num_tokens is None else num_tokens
    if n > often.sum() or n < 2:
        raise InputError(
            f"num_tokens: {int(often.sum())} different tokens occur {min_count} times or more in "
            f"both parts of the text (min_count); got {max(n, 2)}"
        )
    return np.argsort(np.where(often, -here, 0), kind="stable")[:n]

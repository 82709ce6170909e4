"""Figures 3 and 5: the tokens that the basis functions associate with a word, and the paper's.

That a list shares some tokens with the paper's is weak evidence by itself. So there are two
controls: the lists of all other words, and the list of the same word in the same text with its
tokens shuffled.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from assocjax.analysis.associations import frequency_corrected, top_associations
from assocjax.analysis.scorings import (
    SCORINGS,
    SIDES,
    Frequencies,
    context_lists,
    count_listed,
    support_of,
)
from assocjax.corpora import TokenData
from assocjax.figures.associations import plot_context_graph
from assocjax.reproduce import paper
from assocjax.reproduce.records import Result, text_setting
from assocjax.reproduce.scales import Scale
from assocjax.reproduce.work import Work
from assocjax.statistics.dense import Statistics, corpus_statistics
from assocjax.statistics.occurrences import Occurrences, count_occurrences
from assocjax.storage import results

_SCORINGS = ("corrected", "raw")

_AS_MANY = "other words with as many"
_VARIABLES = {
    "matrix": "matrix",
    "word": "word",
    "scores": "scoring",
    "of the paper's in the vocabulary": "in_vocabulary",
    "found": "found",
    "control: other words": "others",
    _AS_MANY: "as_many",
    "control: shuffled text": "shuffled",
}
"""Column of the table -> variable of the Dataset."""
_LISTED = {
    "context_theory_id": "id of a listed token",
    "context_theory_score": "score of a listed token",
    "context_theory_count": "number of occurrences of a listed pair",
    "target_frequency": "share of the token among targets",
}


def figure_5(scale: Scale, work: Work) -> Result:
    """Lists of the paper's words under B, Sigma and Phi, raw and frequency-corrected."""
    settings = scale.lists
    data = work.tokens(settings.text)
    shuffles = [shuffled_text(data, seed) for seed in range(settings.shuffles)]
    texts = [(_statistics(text), count_occurrences(text)) for text in (data, *shuffles)]
    rows, lists = [], []
    for (matrix, word), reported in paper.LISTS.items():
        known = [token for token in reported if token in data.vocabulary]
        for scoring in _SCORINGS:
            if word not in data.vocabulary:
                row = _row(matrix, word, reported, known, scoring=scoring)
                rows.append(row | {"control: shuffled text": None, _AS_MANY: None})
                continue
            evidence = [_evidence(of[scoring], counts, matrix, data) for of, counts in texts]
            ours, *shuffled = (_list(of, data.vocabulary, word, settings.top) for of in evidence)
            others = _hits(evidence[0], data.vocabulary, word, known, settings.top)
            row = _row(matrix, word, reported, known, ours, others, scoring)
            by_chance = float(np.mean([_common(of, known) for of in shuffled]))
            as_many = float((others >= row["found"]).mean())
            rows.append(row | {"control: shuffled text": by_chance, _AS_MANY: as_many})
            lists.append(ours + [""] * (settings.top - len(ours)))  # a list may be short
    listed = [row for row in rows if row["found"] is not None]
    variables = {of: ("entry", [row[name] for row in listed]) for name, of in _VARIABLES.items()}
    tokens = np.array(lists, dtype=object).reshape(-1, settings.top)
    dataset = xr.Dataset(variables | {"token": (("entry", "rank"), tokens)})
    results.describe(dataset, {of: name for name, of in _VARIABLES.items()})
    return Result(dataset, rows, text_setting(data), {})


def figure_3(scale: Scale, work: Work) -> Result:
    """The context of the paper's word as a graph; the control is the lists of other words."""
    settings = scale.lists
    data = work.tokens(settings.text)
    word = paper.GRAPH_WORD
    known = [token for token in paper.GRAPH if token in data.vocabulary]
    if word not in data.vocabulary:
        row = _row("context", word, paper.GRAPH, known)
        return Result(xr.Dataset(), [row], text_setting(data), {})
    dataset = _context_lists(data, settings.top)
    lists = dataset.sel(scoring="z-score", side="row")
    every = lists["context_theory_id"].values.astype(int)
    listed = np.isfinite(lists["context_theory_score"].values)
    own = data.vocabulary.index(word)
    ours = [data.vocabulary[i] for i in every[own][listed[own]]]
    hits = np.isin(every, [data.vocabulary.index(token) for token in known]) & listed
    others = np.delete(hits.sum(axis=1), own)
    row = _row("context", word, paper.GRAPH, known, ours, others)
    graph = partial(plot_context_graph, dataset, word, k=settings.top)
    return Result(dataset, [row], text_setting(data), {"graph": graph} if ours else {})


def _row(
    matrix: str,
    word: str,
    reported: Sequence[str],
    known: Sequence[str],
    ours: Sequence[str] | None = None,
    others: np.ndarray | None = None,
    scoring: str | None = None,
) -> dict[str, Any]:
    """A word's list and the paper's tokens, as a row of a table.

    Args:
      reported, known: the paper's tokens, and those of them that are in the vocabulary.
      ours: the list; None if the word is not in the vocabulary.
      others: number of the known tokens in the list of each other word.
      scoring: of the list, if there are lists of several.
    """
    found = None if ours is None else _common(ours, known)
    return {
        "matrix": matrix,
        "word": word,
        **({} if scoring is None else {"scores": scoring}),
        "paper": ", ".join(reported),
        "ours": "not in the vocabulary" if ours is None else ", ".join(ours) or "none",
        "reproduced": found == len(known) if known and ours is not None else None,
        "of the paper's in the vocabulary": len(known),
        "found": found,
        "control: other words": None if others is None else float(others.mean()),
    }


def _common(ours: Sequence[str], known: Sequence[str]) -> int:
    return len(set(ours) & set(known))


def _context_lists(data: TokenData, top: int) -> xr.Dataset:
    """Lists of all tokens under Phi, in the form of `track`."""
    statistics = corpus_statistics(data)
    frequencies = Frequencies.of(statistics)
    k = min(top, data.vocab_size - 1)
    counts = count_occurrences(data).rows("context")
    support = support_of({"context": counts}, data.vocabulary)
    lists = [
        context_lists(statistics.context, frequencies, support, scoring=s, k=k) for s in SCORINGS
    ]
    ids, scores = (np.stack([np.asarray(of[i]) for of in lists]) for i in range(2))
    dims = ("scoring", "side", "token", "rank")
    dataset = xr.Dataset(
        {
            "context_theory_id": (dims, ids),
            "context_theory_score": (dims, scores),
            "context_theory_count": (dims, count_listed(counts, ids, scores)),
            "target_frequency": ("token", np.asarray(statistics.target_frequency)),
        },
        {
            "scoring": list(SCORINGS),
            "side": list(SIDES),
            "token": np.array(data.vocabulary, dtype=object),
        },
        {"corpus_name": data.name},
    )
    return results.describe(dataset, _LISTED)


def shuffled_text(data: TokenData, seed: int) -> TokenData:
    """The text with its tokens permuted: frequencies are the same, associations are lost."""
    real = np.concatenate([data.mask[:, :1], data.mask], axis=1)
    tokens = data.tokens.copy()
    tokens[real] = np.random.default_rng(seed).permutation(tokens[real])
    return dataclasses.replace(data, tokens=tokens)


def _evidence(
    statistics: Statistics, occurrences: Occurrences, matrix: str, data: TokenData
) -> np.ndarray:
    """A matrix of which a list may hold the positive entries: 0 where a pair does not occur."""
    support = support_of({matrix: occurrences.rows(matrix)}, data.vocabulary)
    return np.where(support[matrix], getattr(statistics, matrix), 0)


def _list(evidence: np.ndarray, vocabulary: Sequence[str], word: str, top: int) -> list[str]:
    """The associates of a word; none of one that does not occur, as in a small text."""
    if not evidence[vocabulary.index(word)].any():
        return []
    return [each.token for each in top_associations(evidence, vocabulary, word, top)]


def _statistics(data: TokenData) -> dict[str, Statistics]:
    raw = corpus_statistics(data)
    return {"raw": raw, "corrected": frequency_corrected(raw, data.tokens, data.mask)}


def _hits(matrix, vocabulary: Sequence[str], word: str, known: Sequence[str], top: int):
    """The number of the known tokens in the list of each other word."""
    scores = np.array(matrix, float)
    np.fill_diagonal(scores, -np.inf)
    top = min(top, len(vocabulary) - 1)
    best = np.argpartition(-scores, top, axis=1)[:, :top]
    hits = np.isin(best, [vocabulary.index(token) for token in known])
    hits &= np.take_along_axis(scores, best, axis=1) > 0  # as `top_associations`
    return np.delete(hits.sum(axis=1), vocabulary.index(word))

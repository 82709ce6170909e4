"""Figures 3 and 5: the tokens that the basis functions tie to a word, beside the paper's.

A list that shares some tokens with the paper's shows little by itself. So it has two controls: the
lists of all other words, and the lists of the same word in the same text with its tokens shuffled.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from assocjax.analysis.associations import frequency_corrected, top_associations
from assocjax.analysis.scorings import SCORINGS, SIDES, Frequencies, context_lists
from assocjax.corpora import TokenData
from assocjax.figures.associations import plot_context_graph
from assocjax.reproduce import paper
from assocjax.reproduce.records import Result, text_differs, text_setting
from assocjax.reproduce.scales import Lists, Scale
from assocjax.reproduce.work import Work
from assocjax.statistics.dense import Statistics, corpus_statistics

_SCORINGS = ("raw", "corrected")


def figure_5(scale: Scale, work: Work) -> Result:
    """Lists of the paper's words under B, Sigma and Phi, as they are and frequency-corrected."""
    settings = scale.lists
    data = work.tokens(settings.text)
    of_text = _statistics(data)
    of_shuffled = [_statistics(shuffled_text(data, seed)) for seed in range(settings.shuffles)]
    rows, variables = [], []
    for (matrix, word), reported in paper.LISTS.items():
        row = {"matrix": matrix, "word": word, "paper": ", ".join(reported)}
        if word not in data.vocabulary:
            rows.append(row | {"ours, raw": "not in the vocabulary"})
            continue
        known = [token for token in reported if token in data.vocabulary]
        found = _overlaps(of_text, of_shuffled, data, matrix, word, known, settings.top)
        for scoring in _SCORINGS:
            row[f"ours, {scoring}"] = ", ".join(found[scoring]["list"])
        row["of the paper's in the vocabulary"] = f"{len(known)} of {len(reported)}"
        for scoring in _SCORINGS:
            row[f"found, {scoring}"] = found[scoring]["found"]
            row[f"control: other words, {scoring}"] = found[scoring]["others"]
            row[f"control: shuffled text, {scoring}"] = found[scoring]["shuffled"]
            variables.append((matrix, word, scoring, len(known), found[scoring]))
        rows.append(row)
    notes = [_verdict(variables), _explanation(settings)]
    return Result(
        _dataset(variables, settings), rows, text_setting(data), text_differs(data), notes, {}
    )


def figure_3(scale: Scale, work: Work) -> Result:
    """The context of the paper's word as a graph, with the same controls."""
    settings = scale.lists
    data = work.tokens(settings.text)
    word = paper.GRAPH_WORD
    row = {"matrix": "context", "word": word, "paper": ", ".join(paper.GRAPH)}
    differs = [
        *text_differs(data),
        "The paper shows weights; here it is the basis function that they learn, with token "
        "frequencies divided out (`scorings`, corrected).",
    ]
    if word not in data.vocabulary:
        notes = [f"Not reproduced: {word!r} is not among the {data.vocab_size} tokens."]
        return Result(xr.Dataset(), [row], text_setting(data), differs, notes, {})
    dataset = _context_lists(data, settings.top)
    lists = dataset.sel(scoring="corrected", side="row")
    every = lists["context_theory_id"].values.astype(int)
    listed = np.isfinite(lists["context_theory_score"].values)
    own = data.vocabulary.index(word)
    ours = [data.vocabulary[i] for i in every[own][listed[own]]]
    known = [token for token in paper.GRAPH if token in data.vocabulary]
    hits = np.isin(every, [data.vocabulary.index(token) for token in known]) & listed
    hits = hits.sum(axis=1)
    row |= {
        "ours": ", ".join(ours),
        "of the paper's in the vocabulary": f"{len(known)} of {len(paper.GRAPH)}",
        "found": int(hits[own]),
        "control: other words": float(np.delete(hits, own).mean()),
    }
    verdict = "Reproduced" if known and hits[own] == len(known) else "Not reproduced"
    notes = [
        f"{verdict}: {hits[own]} of the {len(known)} tokens that we can name of the paper's figure "
        f"and that the vocabulary has are among the {settings.top} of {word!r}.",
        "Lines are as wide as scores; grey lines join tokens of which one is in the other's list. "
        "The control is the mean number found in the lists of all other words.",
    ]
    figures = {}
    if ours:
        figures = {"graph": partial(plot_context_graph, dataset, word, k=settings.top)}
    else:
        notes.append(f"No graph: {word!r} has no context in these sequences.")
    return Result(dataset, [row], text_setting(data), differs, notes, figures)


def _context_lists(data: TokenData, top: int) -> xr.Dataset:
    """Phi as lists of all tokens, as `track` has them."""
    statistics = corpus_statistics(data.tokens, data.vocab_size, data.mask)
    frequencies = Frequencies.of(statistics)
    k = min(top, data.vocab_size - 1)
    lists = [context_lists(statistics.context, frequencies, scoring=s, k=k) for s in SCORINGS]
    dims = ("scoring", "side", "token", "rank")
    return xr.Dataset(
        {
            "context_theory_id": (dims, np.stack([np.asarray(of.ids) for of in lists])),
            "context_theory_score": (dims, np.stack([np.asarray(of.scores) for of in lists])),
            "target_frequency": ("token", np.asarray(statistics.target_frequency)),
        },
        {
            "scoring": list(SCORINGS),
            "side": list(SIDES),
            "token": np.array(data.vocabulary, dtype=object),
        },
        {"corpus_name": data.name},
    )


def shuffled_text(data: TokenData, seed: int) -> TokenData:
    """The same tokens in the places of one another: frequencies stay, associations do not."""
    real = np.concatenate([data.mask[:, :1], data.mask], axis=1)
    tokens = data.tokens.copy()
    tokens[real] = np.random.default_rng(seed).permutation(tokens[real])
    return dataclasses.replace(data, tokens=tokens)


def _statistics(data: TokenData) -> dict[str, Statistics]:
    raw = corpus_statistics(data.tokens, data.vocab_size, data.mask)
    return {"raw": raw, "corrected": frequency_corrected(raw, data.tokens, data.mask)}


def _overlaps(of_text, of_shuffled, data, matrix, word, known, top) -> dict[str, dict[str, Any]]:
    """Of each scoring: the list, how many known tokens it has, and how many the controls have."""
    found = {}
    for scoring in _SCORINGS:
        of = np.asarray(getattr(of_text[scoring], matrix))
        ours = [a.token for a in top_associations(of, data.vocabulary, word, top)]
        others = _hits(of, data.vocabulary, word, known, top)
        shuffled = [
            len(
                {
                    a.token
                    for a in top_associations(
                        np.asarray(getattr(each[scoring], matrix)), data.vocabulary, word, top
                    )
                }
                & set(known)
            )
            for each in of_shuffled
        ]
        found[scoring] = {
            "list": ours,
            "found": len(set(ours) & set(known)),
            "others": float(others.mean()),
            "as_many": float((others >= len(set(ours) & set(known))).mean()),
            "shuffled": float(np.mean(shuffled)),
        }
    return found


def _hits(matrix, vocabulary: Sequence[str], word: str, known: Sequence[str], top: int):
    """How many of some tokens the lists of all other words have."""
    scores = np.array(matrix, float)
    np.fill_diagonal(scores, -np.inf)
    top = min(top, len(vocabulary) - 1)
    best = np.argpartition(-scores, top, axis=1)[:, :top]
    hits = np.isin(best, [vocabulary.index(token) for token in known])
    hits &= np.take_along_axis(scores, best, axis=1) > 0  # as `top_associations`
    return np.delete(hits.sum(axis=1), vocabulary.index(word))


def _verdict(variables) -> str:
    if not variables:
        return "Not reproduced: none of the paper's words is in the vocabulary."
    total = sum(known for _, _, scoring, known, _ in variables if scoring == "raw")
    parts = []
    for scoring in _SCORINGS:
        of = [found for _, _, each, _, found in variables if each == scoring]
        parts.append(
            f"{scoring} {sum(f['found'] for f in of)} (other words "
            f"{sum(f['others'] for f in of):.1f}, shuffled text "
            f"{sum(f['shuffled'] for f in of):.1f})"
        )
    best = max(sum(f["found"] for _, _, each, _, f in variables if each == s) for s in _SCORINGS)
    word = "Reproduced in part" if 0 < best < total else "Reproduced" if best else "Not reproduced"
    return f"{word}: of {total} of the paper's tokens that the vocabulary has: {', '.join(parts)}."


def _explanation(settings: Lists) -> str:
    return (
        f"Lists are of the {settings.top} highest scores, if positive. found: how many of the "
        "paper's tokens in the vocabulary they have; other words: the same, of the lists of all "
        "other words (mean); shuffled text: of the word's own list after all tokens changed "
        f"places (mean of {settings.shuffles}). The paper shows some tokens of each list; how it "
        "chose them is not said."
    )


def _dataset(variables, settings: Lists) -> xr.Dataset:
    of = variables
    # A list may be short: "" is no token.
    lists = [found["list"] + [""] * (settings.top - len(found["list"])) for *_, found in of]
    lists = np.array(lists, dtype=object).reshape(-1, settings.top)
    columns = {
        "matrix": [v[0] for v in of],
        "word": [v[1] for v in of],
        "scoring": [v[2] for v in of],
        "in_vocabulary": [v[3] for v in of],
        **{name: [v[4][name] for v in of] for name in ("found", "others", "as_many", "shuffled")},
    }
    found = {name: ("entry", values) for name, values in columns.items()}
    return xr.Dataset(found | {"token": (("entry", "rank"), lists)})

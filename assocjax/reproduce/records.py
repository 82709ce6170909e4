"""The result of an artefact, and settings of texts and runs with the names of `paper`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import xarray as xr
from matplotlib.figure import Figure

from assocjax.corpora import TokenData
from assocjax.reproduce.scales import Run, Scale


class Result(NamedTuple):
    """The result of one artefact on one corpus.

    Attributes:
        dataset: all numbers.
        rows: the table, as dicts with the same keys. Columns of the paper and of controls begin
            with "paper" and "control"; `reproduced` is a bool, or None without a number to compare.
        setting: our setting, with the names of `paper.ARTEFACTS`.
        figures: name -> a function that draws the figure, called after the numbers are saved.
    """

    dataset: xr.Dataset
    rows: list[dict[str, Any]]
    setting: dict[str, Any]
    figures: Mapping[str, Callable[[], Figure]]


def verdict(rows: Sequence[Mapping[str, Any]], scale: Scale) -> str:
    """How many rows of a table agree with the paper and, for lists, how many of its tokens."""
    if not scale.judged:
        return "no verdict: this scale only tests that the code runs"
    judged = [row for row in rows if row["reproduced"] is not None]
    if not judged:
        return "nothing of the paper to compare with"
    agree = sum(row["reproduced"] for row in judged)
    text = f"agrees with the paper in {agree} of {len(judged)} rows"
    if "found" in judged[0]:
        found = sum(row["found"] for row in judged)
        known = sum(row["of the paper's in the vocabulary"] for row in judged)
        shown = sum(len(row["paper"].split(", ")) for row in judged)
        text += f": {found} of the {known} tokens in the vocabulary, of {shown} that it shows"
    return text


def text_setting(data: TokenData) -> dict[str, Any]:
    """The setting of a text, with the options of `load_tokens`."""
    return {
        "corpus": data.name,
        "documents": data.num_documents,
        "tokenizer": data.tokenizer,
        "vocabulary V": data.vocab_size,
        "oov": data.oov if data.tokenizer == "word" else None,
        "share of <unk>": data.unk_fraction,
        "positions T": data.seq_len,
        "long": data.long,
        "short": data.short,
        "sequences N": data.num_sequences,
    }


def run_setting(data: TokenData, run: Run) -> dict[str, Any]:
    """The setting of a text and of training."""
    steps = 1 if run.batch_size is None else data.num_sequences // run.batch_size
    return text_setting(data) | {
        "layers L": run.num_layers,
        "start": "zero",
        "optimizer": "SGD, no momentum",
        "batch": "all" if run.batch_size is None else run.batch_size,
        "epochs": run.epochs,
        "step size": run.learning_rate,
        "s eta": run.learning_rate * steps * run.epochs,
        "runs (orders of batches)": len(run.seeds),
    }

"""The result of an artefact, and settings of texts and runs with the names of `paper`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import xarray as xr
from matplotlib.figure import Figure

from assocjax.corpora import TokenData
from assocjax.reproduce.scales import Run


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


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many rows of a table agree with the paper."""
    judged = [row["reproduced"] for row in rows if row["reproduced"] is not None]
    if not judged:
        return "nothing of the paper to compare with"
    return f"agrees with the paper in {sum(judged)} of {len(judged)} rows"


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

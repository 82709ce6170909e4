"""What an artefact hands over, and the sentences on settings that all of them share."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import xarray as xr
from matplotlib.figure import Figure

from assocjax.corpora import TokenData
from assocjax.reproduce.scales import Run


class Result(NamedTuple):
    """One artefact of one corpus.

    Attributes:
        dataset: all numbers.
        rows: the table beside the paper's numbers: dicts of one set of columns.
        setting: ours, under the names of `paper.ARTEFACTS`.
        differs: what differs from the paper, and why.
        notes: what the numbers say, the criterion first.
        figures: name -> what draws the figure, once the numbers are saved.
    """

    dataset: xr.Dataset
    rows: list[dict[str, Any]]
    setting: dict[str, Any]
    differs: list[str]
    notes: list[str]
    figures: Mapping[str, Callable[[], Figure]]


_OTHER_WORDS = {"drop": "their documents dropped", "unk": "become <unk>"}
_LENGTHS = {"cut": "cut", "window": "split into windows", "drop": "dropped", "pad": "padded"}


def text_setting(data: TokenData) -> dict[str, Any]:
    """The text in the terms of `paper.WORDS`."""
    other_words = _OTHER_WORDS[data.oov]
    if data.tokenizer != "word":
        other_words = "there are none"
    elif data.oov == "unk":
        other_words += f" ({data.unk_fraction:.0%})"
    vocabulary = {"word": f"{data.vocab_size:,} most frequent words"}
    return {
        "corpus": f"{data.name}, {data.num_documents:,} documents",
        "documents": f"{data.num_sequences:,} sequences",
        "vocabulary": vocabulary.get(data.tokenizer, f"byte-pair encoding, {data.vocab_size:,}"),
        "other words": other_words,
        "positions T": data.seq_len,
        "longer / shorter documents": f"{_LENGTHS[data.long]} / {_LENGTHS[data.short]}",
    }


def run_setting(data: TokenData, run: Run) -> dict[str, Any]:
    """Text and training in the terms of `paper.WORDS`."""
    steps = 1 if run.batch_size is None else data.num_sequences // run.batch_size
    return text_setting(data) | {
        "layers L": run.num_layers,
        "start": "zero",
        "optimizer": "SGD, no momentum",
        "batch": "all" if run.batch_size is None else run.batch_size,
        "epochs": run.epochs,
        "theory from": "the first batch, and the whole corpus",
        "step size": run.learning_rate,
        "s eta": run.learning_rate * steps * run.epochs,
        "runs": f"{len(run.seeds)} (orders of batches)" if len(run.seeds) > 1 else 1,
    }


def text_differs(data: TokenData) -> list[str]:
    """How a text differs from the paper's; empty if it does not."""
    differs = []
    if not data.name.startswith("hf:roneneldan/TinyStories"):
        differs.append(
            f"The text is {data.name}, with {data.num_sequences:,} sequences of {data.seq_len} "
            "positions: what is at hand, at a size for two CPU cores."
        )
    if data.oov == "unk" and data.unk_fraction:
        differs.append(
            f"Other words become <unk> ({data.unk_fraction:.0%} of all tokens), since hardly any "
            f"document consists of {data.vocab_size:,} tokens alone; <unk> is then among the most "
            "frequent tokens."
        )
    if data.long == "window":
        differs.append("Long documents give several sequences, where the paper keeps their start.")
    return differs


def run_differs(data: TokenData, run: Run, paper_s_eta: float) -> list[str]:
    """How a run differs from the paper's; empty if it does not."""
    setting = run_setting(data, run)
    differs = text_differs(data)
    if run.batch_size is not None and run.batch_size < 2048:
        differs.append(
            f"Batches are of {run.batch_size} x {data.seq_len} tokens instead of 2,048 x 200: a "
            "first batch knows less of the text, and the order of batches matters more."
        )
    if abs(setting["s eta"] / paper_s_eta - 1) > 0.01:
        differs.append(f"Training time s eta is {setting['s eta']:g} instead of {paper_s_eta:g}.")
    else:
        differs.append(
            f"Training time s eta is the paper's, {paper_s_eta:g}, in {run.epochs} epochs of steps "
            f"of {run.learning_rate:g}."
        )
    return differs

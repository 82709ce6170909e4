"""Tables 1 and 2: how well the closed forms hold at a small step size, for words and for subwords.

The paper gives the minimum over epochs of each class's cosine with the theory of its first batch.
Beside it: the theory of the whole corpus; full batches, which leave no sampling error; the split of
the disagreement into sampling and truncation; and two controls, the theory with its tokens
shuffled.
"""

from typing import Any

import numpy as np
import xarray as xr

from assocjax.params import WEIGHTS
from assocjax.reproduce import paper
from assocjax.reproduce.drawing import plot_epochs
from assocjax.reproduce.records import Result, run_differs, run_setting
from assocjax.reproduce.scales import Run, Scale
from assocjax.reproduce.work import Work


def table_1(scale: Scale, work: Work) -> Result:
    """Table 1, of words, and the same with full batches."""
    full = work.runs("full_batch", scale.full_batch)
    return _minimum_cosines("table1", work, "small_step", scale.small_step, full)


def table_2(scale: Scale, work: Work) -> Result:
    """Table 2, of subwords."""
    return _minimum_cosines("table2", work, "subwords", scale.subwords, None)


def minimum(dataset: xr.Dataset, weight: str, theory: str) -> float:
    """The least cosine over epochs, layers and seeds; epoch 0, where it is undefined, aside."""
    return float(dataset[f"{weight}_cosine"].sel(theory=theory).min())


def _minimum_cosines(
    artefact: str, work: Work, name: str, run: Run, full: xr.Dataset | None
) -> Result:
    data, dataset = work.tokens(run.text), work.runs(name, run)
    reported = paper.MINIMUM_COSINES[artefact]
    rows, below = [], []
    for weight in WEIGHTS:
        first, whole = (minimum(dataset, weight, of) for of in ("first batch", "corpus"))
        by_seed = (
            dataset[f"{weight}_cosine"]
            .sel(theory="corpus")
            .min(["epoch", "layer"] if weight != "output" else "epoch")
        )
        row: dict[str, Any] = {
            "weight": weight,
            "paper": reported.get(weight),
            "ours, first batch": first,
            "ours, corpus": whole,
            "range over runs": f"{float(by_seed.min()):.6f} to {float(by_seed.max()):.6f}",
        }
        if full is not None:
            row["ours, full batches"] = minimum(full, weight, "corpus")
        row |= {
            "control: matched": _largest(dataset, weight, "matched"),
            "control: shuffled": _largest(dataset, weight, "shuffled"),
            "sampling error": float(dataset[f"{weight}_sampling_error"].isel(epoch=-1).max()),
            "truncation error": float(dataset[f"{weight}_truncation_error"].isel(epoch=-1).max()),
        }
        rows.append(row)
        if weight in reported:
            best = max(v for key, v in row.items() if key.startswith("ours"))
            below += [f"{weight} {best:.4f}"] if best <= paper.CRITERION else []
    setting = run_setting(data, run)
    kept = dataset.drop_vars(WEIGHTS)
    if full is not None:
        setting["full batches"] = f"{full.sizes['epoch'] - 1} steps"
        kept = kept.merge(
            full.drop_vars(WEIGHTS)
            .rename({"epoch": "full_step", "seed": "full_seed", "layer": "full_layer"})
            .rename({n: f"full_{n}" for n in full.data_vars if n not in WEIGHTS}),
            combine_attrs="override",
        )
    notes = [_verdict(rows, below), *_why(rows, dataset)]
    figures = {"cosines": plot_epochs(dataset, paper.ARTEFACTS[artefact].title)}
    differs = run_differs(data, run, paper.ARTEFACTS[artefact].setting["s eta"])
    return Result(kept, rows, setting, differs, notes, figures)


def _largest(dataset: xr.Dataset, weight: str, theory: str) -> float:
    """Of a control what is nearest to the theory's: its largest minimum over layers and seeds."""
    return float(dataset[f"{weight}_cosine"].sel(theory=theory).min("epoch").max())


def _verdict(rows: list[dict[str, Any]], below: list[str]) -> str:
    if not below:
        return (
            f"Reproduced: the three classes that the paper compares stay above {paper.CRITERION} "
            "in the best of our settings."
        )
    return f"Not reproduced: below {paper.CRITERION} in all our settings: {', '.join(below)}."


def _why(rows: list[dict[str, Any]], dataset: xr.Dataset) -> list[str]:
    """What keeps the cosines from 1, by the split of the disagreement at the last epoch."""
    split = [(row["sampling error"], row["truncation error"], row["weight"]) for row in rows]
    sampled = [weight for sampling, truncation, weight in split if sampling > truncation]
    rest = [weight for _, _, weight in split if weight not in sampled]
    notes = [
        "At epoch 0 all weights are zero and their cosines undefined, so that minima begin at "
        "epoch 1. They are over epochs, layers and runs; of controls the largest over layers and "
        "runs is given. query_key is the paper's attention; it reports nothing of position.",
    ]
    if sampled:
        notes.append(
            "At the last epoch the sampling error (theory of the run's own batches against theory "
            f"of the corpus) exceeds the truncation error for {', '.join(sampled)}: there the "
            "batches, not the theory, set the limit."
        )
    if rest:
        notes.append(
            "Truncation, the powers of eta that leading terms leave out, is the larger error for "
            f"{', '.join(rest)}. Errors are relative to the weight; an error of size only, not of "
            "direction, does not enter a cosine."
        )
    worst = max(row["control: matched"] for row in rows if np.isfinite(row["control: matched"]))
    notes.append(
        "Controls are cosines with the theory of the corpus after its tokens were shuffled, over "
        f"all of them or among those of similar frequency (matched: up to {worst:.3f}): a cosine "
        "has to be read against them."
    )
    return notes

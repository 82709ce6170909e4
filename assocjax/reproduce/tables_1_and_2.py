"""Tables 1 and 2: how well the closed forms hold at a small step size, for words and for subwords.

The paper gives the minimum over epochs of each kind of weight's cosine with the theory of its first
batch. We add: the theory of the whole corpus; training on full batches, without sampling error; the
division of the disagreement into sampling and truncation error; and two controls, the theory with
its tokens shuffled.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import xarray as xr

from assocjax.models.params import WEIGHTS
from assocjax.reproduce import paper
from assocjax.reproduce._drawing import plot_epochs
from assocjax.reproduce.records import Result, run_setting
from assocjax.reproduce.scales import Run, Scale
from assocjax.reproduce.work import Work


def table_1(scale: Scale, work: Work) -> Result:
    """Table 1, words; also with full batches, for the same training time and a tenth of it."""
    others = {"full_batch": scale.full_batch, "smaller_step": scale.smaller_step}
    return _minimum_cosines("table1", work, "small_step", scale.small_step, others)


def table_2(scale: Scale, work: Work) -> Result:
    """Table 2, subwords; also with full batches."""
    others = {"subwords_full_batch": scale.subwords_full_batch}
    return _minimum_cosines("table2", work, "subwords", scale.subwords, others)


def _minimum_cosines(
    artefact: str, work: Work, name: str, run: Run, full_batches: Mapping[str, Run]
) -> Result:
    data, dataset = work.tokens(run.text), work.runs(name, run)
    kept = dataset.drop_vars(WEIGHTS)
    compared = {"first batch": (dataset, "first batch"), "corpus": (dataset, "corpus")}
    for other, settings in full_batches.items():
        of = work.run(other, settings, settings.seeds[0])
        s_eta = f"{settings.learning_rate * settings.epochs:.2g}"
        compared[f"corpus, full batches, s eta {s_eta}"] = of, "corpus"
        short = f"full_batches_s_eta_{s_eta}"
        cosine = of["cosine"].sel(theory="corpus", drop=True)
        cosine = cosine.rename(epoch=f"step_{short}").assign_attrs(
            long_name=f"cosine with the corpus's theory, full batches, s eta {s_eta}"
        )
        kept[f"cosine_{short}"] = cosine
    reported = paper.MINIMUM_COSINES[artefact]
    rows = [
        {"weight": weight, "theory of": label} | _row(of, weight, theory, reported.get(weight))
        for weight in WEIGHTS
        for label, (of, theory) in compared.items()
    ]
    figures = {"cosines": partial(plot_epochs, dataset, paper.ARTEFACTS[artefact].title)}
    return Result(kept, rows, run_setting(data, run), figures)


def _row(dataset: xr.Dataset, weight: str, theory: str, reported: float | None) -> dict[str, Any]:
    """Minima are over epochs (without epoch 0, where cosines are undefined), layers and seeds."""
    dataset = dataset.sel(weight=weight)
    cosines = dataset["cosine"]
    of_theory = cosines.sel(theory=theory)
    by_run = of_theory.min([dim for dim in of_theory.dims if dim != "seed"])
    ours = float(by_run.min())
    row = {
        "paper": reported,
        "ours": ours,
        "reproduced": None if reported is None else ours > paper.CRITERION,
        "best run": float(by_run.max()),
    }
    for control in ("matched", "shuffled"):  # the largest, closest to the theory
        row[f"control: {control}"] = float(cosines.sel(theory=control).min("epoch").max())
    for error in ("sampling", "truncation"):
        of_error = dataset.get(f"{error}_error")  # None with full batches
        row[f"{error} error"] = None if of_error is None else float(of_error.isel(epoch=-1).max())
    return row

"""Figure 4: cosines with the theory and loss over a long training with the larger learning rate."""

from functools import partial

import numpy as np
import xarray as xr

from assocjax.models.params import WEIGHTS
from assocjax.reproduce import paper
from assocjax.reproduce._drawing import plot_epochs
from assocjax.reproduce.records import Result, run_setting
from assocjax.reproduce.scales import Scale
from assocjax.reproduce.work import Work


def figure_4(scale: Scale, work: Work) -> Result:
    """Cosines at the paper's training times: epochs of equal s eta are compared."""
    run = scale.large_step
    data, dataset = work.tokens(run.text), work.runs("large_step", run)
    epochs = {reported: max(1, round(reported / 100 * run.epochs)) for reported in paper.COSINE_AT}
    rows = []
    for (reported, epoch), weight in ((at, weight) for at in epochs.items() for weight in WEIGHTS):
        cosine = dataset["cosine"].sel(weight=weight, epoch=epoch)
        least = float(cosine.sel(theory="corpus").min())
        expected = None if weight == "position" else paper.COSINE_AT[reported]
        mean = {
            theory: float(cosine.sel(theory=theory).mean()) for theory in cosine["theory"].values
        }
        rows.append(
            {
                "weight": weight,
                "paper's epoch": reported,
                "paper, at least": expected,
                "ours, worst layer": least,
                "reproduced": None if expected is None else least > expected,
                "our epoch": epoch,
                "ours, mean": mean["corpus"],
                "ours, first batch": mean["first batch"],
                "ours, effective theory": mean["effective"],
                "control: matched": mean["matched"],
                "control: shuffled": mean["shuffled"],
            }
        )
    loss = dataset["loss"].mean("seed").values
    setting = run_setting(data, run)
    setting |= {
        "loss before training": float(loss[0]),
        "loss after training": float(loss[-1]),
        "all cosines above .9 until s eta": setting["s eta"] * _held(dataset) / run.epochs,
    }
    marks = {epoch: paper.COSINE_AT[reported] for reported, epoch in epochs.items()}
    title = paper.ARTEFACTS["figure4"].title
    figures = {"cosines": partial(plot_epochs, dataset, title, marks=marks)}
    return Result(dataset.drop_vars(WEIGHTS), rows, setting, figures)


def _held(dataset: xr.Dataset) -> int:
    """The epoch up to which the cosine of every weight that the paper compares is above .9."""
    cosine = dataset["cosine"].sel(theory="corpus").drop_sel(weight="position")
    by_weight = cosine.min([dim for dim in cosine.dims if dim not in ("epoch", "weight")])
    above = (by_weight.min("weight", skipna=False) > 0.9).values[1:]
    return len(above) if above.all() else int(np.argmin(above))

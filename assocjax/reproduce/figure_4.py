"""Figure 4: cosines with the theory and loss over a long training with the larger step."""

from functools import partial

import numpy as np
import xarray as xr

from assocjax.models.params import WEIGHTS
from assocjax.reproduce import paper
from assocjax.reproduce.drawing import plot_epochs
from assocjax.reproduce.records import Result, run_differs, run_setting
from assocjax.reproduce.scales import Scale
from assocjax.reproduce.work import Work


def figure_4(scale: Scale, work: Work) -> Result:
    """Cosines at the paper's training times: epochs of equal s eta are set beside each other."""
    run = scale.large_step
    data, dataset = work.tokens(run.text), work.runs("large_step", run)
    epochs = {reported: max(1, round(reported / 100 * run.epochs)) for reported in paper.COSINE_AT}
    rows, least = [], {}
    for reported, epoch in epochs.items():
        at = dataset.sel(epoch=epoch)
        for weight in WEIGHTS:
            cosine = at["cosine"].sel(weight=weight)
            leading = cosine.sel(theory="corpus")
            least[reported, weight] = float(leading.min())
            rows.append(
                {
                    "paper's epoch": reported,
                    "our epoch": epoch,
                    "weight": weight,
                    "paper, at least": None if weight == "position" else paper.COSINE_AT[reported],
                    "ours, corpus": float(leading.mean()),
                    "range over layers": f"{least[reported, weight]:.3f} to {leading.max():.3f}",
                    "ours, first batch": float(cosine.sel(theory="first batch").mean()),
                    "ours, effective theory": float(cosine.sel(theory="effective").mean()),
                    "control: matched": float(cosine.sel(theory="matched").mean()),
                    "control: shuffled": float(cosine.sel(theory="shuffled").mean()),
                }
            )
    setting = run_setting(data, run)
    loss = dataset["loss"].mean("seed").values
    failed = [
        f"{weight} {cosine:.3f} at {reported}"
        for (reported, weight), cosine in least.items()
        if weight != "position" and not cosine > paper.COSINE_AT[reported]
    ]
    verdict = (
        f"Not reproduced everywhere: below the paper's cosine in its worst layer are "
        f"{', '.join(failed)}."
        if failed
        else "Reproduced: in every layer above the paper's cosines at both epochs."
    )
    notes = [
        verdict,
        f"Loss from {loss[0]:.3f} to {loss[-1]:.3f} nats; the paper's goes from "
        f"{paper.LOSSES[0]:.2f} to {paper.LOSSES[1]:.2f}. Start: log V, here "
        f"{np.log(data.vocab_size):.3f}. The fall is of {loss[0] - loss[-1]:.2f} nats, the "
        f"paper's of {paper.LOSSES[0] - paper.LOSSES[1]:.2f}.",
        _held(dataset, run.epochs, setting["s eta"]),
        "The effective theory (dashed) is of the whole corpus with full batches, at the marked "
        "epochs; where it is missing its weights have diverged. A cosine has to be read against "
        "the grey controls.",
    ]
    figures = {
        "cosines": partial(
            plot_epochs, dataset, paper.ARTEFACTS["figure4"].title, marks=_marks(epochs)
        )
    }
    differs = run_differs(data, run, paper.ARTEFACTS["figure4"].setting["s eta"])
    return Result(dataset.drop_vars(WEIGHTS), rows, setting, differs, notes, figures)


def _marks(epochs: dict[int, int]) -> dict[int, float]:
    return {epoch: paper.COSINE_AT[reported] for reported, epoch in epochs.items()}


def _held(dataset: xr.Dataset, epochs: int, s_eta: float) -> str:
    """Up to where every layer of every class that the paper compares has a cosine above .9."""
    cosine = dataset["cosine"].sel(theory="corpus").drop_sel(weight="position")
    by_weight = cosine.min([dim for dim in cosine.dims if dim not in ("epoch", "weight")])
    above = (by_weight.min("weight", skipna=False) > 0.9).values[1:]
    last = len(above) if above.all() else int(np.argmin(above))
    loss = dataset["loss"].mean("seed").values
    return (
        f"All layers stay above .9 up to epoch {last}, s eta = {s_eta * last / epochs:.3g}, where "
        f"the loss is {loss[last]:.3f}. What a theory of early training depends on is how far "
        "training got, and a text of a few very frequent tokens (<unk> is one where words are left "
        "out) gets there at a smaller s eta."
    )

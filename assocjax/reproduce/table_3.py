"""Table 3: the loss after a weight loses its projection on its leading term, beside controls."""

from functools import partial

import xarray as xr

from assocjax.analysis.ablation import ablate, default_units, summary
from assocjax.analysis.scorings import theory_weights
from assocjax.figures.ablation import plot_ablation
from assocjax.reproduce import paper
from assocjax.reproduce.following import weights
from assocjax.reproduce.records import Result, run_differs, run_setting
from assocjax.reproduce.scales import Scale
from assocjax.reproduce.work import Work
from assocjax.statistics.dense import corpus_statistics


def table_3(scale: Scale, work: Work) -> Result:
    """The run of Figure 4 at its end, edited as in the paper by the theory of the corpus."""
    run = scale.large_step
    data = work.tokens(run.text)
    params = weights(work.run("large_step", run, run.seeds[0]))
    theory = theory_weights(corpus_statistics(data.tokens, data.vocab_size, data.mask))
    units = {
        name: unit
        for name, unit in default_units(run.num_layers).items()
        if not name.endswith("all") and not name.startswith("position")
    }
    dataset = ablate(
        params,
        theory,
        data.tokens,
        data.mask,
        units=units,
        draws=scale.draws,
        progress=lambda done, total: work.progress(f"{data.name}: Table 3", done, total),
    ).assign_coords(token=list(data.vocabulary))
    dataset.attrs["corpus_name"] = data.name
    trained = float(dataset["trained_loss"])
    rows = []
    for found in summary(dataset):
        reported = paper.EDITED_LOSS.get(found["unit"])
        controls = {
            f"control: {name}": f"{found[f'{name}_norm']:+.3g} ± {found[f'{name}_norm_sd']:.1g}"
            for name in ("random", "shuffled", "matched")
        }
        rows.append(
            {
                "weight": found["unit"],
                "paper, loss": reported,
                "paper, change": None if reported is None else reported - paper.TRAINED_LOSS,
                "ours, loss": found["loss"],
                "ours, change": found["theory"],
                **controls,
                "cosine": found["cosine"],
            }
        )
    setting = run_setting(data, run) | {"theory from": "the whole corpus"}
    differs = [
        *run_differs(data, run, paper.ARTEFACTS["table3"].setting["s eta"]),
        "The directions that are removed are those of the whole corpus, not of the first batch.",
        "Losses are of the whole corpus.",
    ]
    notes = [
        _verdict(dataset, rows, trained),
        f"Loss {trained:.4f} after training (the paper: {paper.TRAINED_LOSS}). Changes are to be "
        "compared, not losses: vocabulary and text differ.",
        f"Controls are mean ± sd of {scale.draws} draws, of the theory's size but along a random "
        "direction, or along the theory with its tokens shuffled, over all of them or among those "
        "of similar frequency (matched). What matched does too is due to frequencies.",
    ]
    figures = {"changes": partial(plot_ablation, dataset)}
    return Result(dataset, rows, setting, differs, notes, figures)


def _verdict(dataset: xr.Dataset, rows: list[dict], trained: float) -> str:
    change = {row["weight"]: row["ours, change"] for row in rows}
    attention, value = (
        [found for unit, found in change.items() if unit.startswith(name)]
        for name in ("query_key", "value")
    )
    ordered = max(attention) < min(value) and max(value) < change["output"]
    # Along a shuffled theory of the same size, the mean of its draws; the least ratio of units.
    matched = dataset["control_loss"].sel(edit="remove", control="matched_norm").mean("draw")
    share = (matched - trained) / (dataset["loss"].sel(edit="remove") - trained)
    shares = ", ".join(f"{unit} {float(share.sel(unit=unit)):.0%}" for unit in change)
    order = "Reproduced" if ordered else "Not reproduced"
    return (
        f"{order}: the paper's order, attention below value below output. The matched control does "
        f"of the theory's harm: {shares}."
    )

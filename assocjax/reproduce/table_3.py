"""Table 3: the loss after the projection of a weight on its leading term is removed; controls."""

from functools import partial

from assocjax.analysis.ablation import ablate, default_units, summary
from assocjax.analysis.scorings import theory_weights
from assocjax.figures.ablation import plot_ablation
from assocjax.reproduce import paper
from assocjax.reproduce.following import weights
from assocjax.reproduce.records import Result, run_setting
from assocjax.reproduce.scales import Scale
from assocjax.reproduce.work import Work
from assocjax.statistics.dense import corpus_statistics

_ORDER = ("query_key", "value", "output")
"""Kinds of weights in the order of the paper's rise of the loss without their theory."""


def table_3(scale: Scale, work: Work) -> Result:
    """The final weights of the run of Figure 4, edited as in the paper, with corpus statistics."""
    run = scale.large_step
    data = work.tokens(run.text)
    params = weights(work.run("large_step", run, run.seeds[0]))
    theory = theory_weights(corpus_statistics(data))
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
    edited = summary(dataset)
    rows = []
    for found in edited:
        reported = paper.EDITED_LOSS.get(found["unit"])
        controls = {
            f"control: {name}": f"{found[f'{name}_norm']:+.3g} ± {found[f'{name}_norm_sd']:.1g}"
            for name in ("random", "shuffled", "matched")
        }
        rows.append(
            {
                "weight": found["unit"],
                "paper, change": None if reported is None else reported - paper.TRAINED_LOSS,
                "ours, change": found["theory"],
                "reproduced": all(as_in_paper(found, other) for other in edited),
                "paper, loss": reported,
                "ours, loss": found["loss"],
                **controls,
                "matched / ours": found["matched_norm"] / found["theory"],
                "cosine": found["cosine"],
            }
        )
    setting = run_setting(data, run) | {"loss after training": float(dataset["trained_loss"])}
    return Result(dataset, rows, setting, {"changes": partial(plot_ablation, dataset)})


def as_in_paper(one: dict, other: dict) -> bool:
    """Whether the loss rises in the paper's order for two units of different kinds."""
    first, second = (_ORDER.index(found["unit"].split()[0]) for found in (one, other))
    return first == second or (first < second) == (one["theory"] < other["theory"])

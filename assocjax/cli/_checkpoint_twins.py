"""`compare --twin`: changes of a model's weights beside those of statistics twins."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assocjax.cli._corpus import describe_corpus
from assocjax.cli._options import chosen
from assocjax.cli._report import Finish, Report
from assocjax.cli._terminal import note, progress_bar
from assocjax.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from assocjax.cli.compare import Compare
    from assocjax.llm.recipe import Recipe
    from assocjax.storage import Folder

_FILE = "twins.nc"
_CONTROLS = {"order 0": "twin-0", "shuffled": "twin-2-shuffled"}


def checked_recipe(option: str, given: str | None) -> "Recipe | None":
    """The recipe that an option names, for --twin with all of its optimizer; an error names the
    option."""
    from assocjax.llm.published import find_recipe

    if given is None:
        return None
    try:
        recipe = find_recipe(given)
        if option == "twin":
            recipe.optimizer()
    except InputError as error:
        raise InputError(str(error).replace("recipe", f"--{option}", 1)) from None
    return recipe


def clock(recipe: str | None, over: str, revisions: Sequence[str | None]) -> "Recipe | None":
    """The recipe of --recipe, for the summed learning rate of each revision; None without one.

    Raises:
        InputError: If there is no such recipe, figures need one, or revisions have no steps.
    """
    from assocjax.llm.revisions import names_of, steps_of

    found = checked_recipe("recipe", recipe)
    if found is None and over != "step":
        raise InputError(f"--over {over}: --recipe must be given")
    if found is not None and steps_of(names_of(revisions)) is None:
        raise InputError("--recipe: names of revisions must have different steps")
    return found


def compare_twins(options: "Compare", finish: Finish) -> Report:
    """Runs `compare --twin`."""
    from assocjax.experiments.checkpoints import checkpoint_twins
    from assocjax.llm.files import check_revisions, hash_revisions
    from assocjax.llm.texts import tokens_of_model
    from assocjax.llm.twins import compare_with_twins, revisions_by_step
    from assocjax.storage import claim, results

    recipe = checked_recipe("twin", options.twin)
    assert recipe is not None
    if options.recipe is not None:
        raise InputError("--recipe: not allowed with --twin, whose recipe it is")
    if options.revisions is None:
        raise InputError("--twin: --revisions must name checkpoints, with that of step 0")
    revisions = list(revisions_by_step(options.revisions).values())
    checkpoint_twins(options.orders)
    models = [options.model, *options.other_runs]
    for model in models:
        check_revisions(model, revisions)
    reading = chosen(options, "num_documents", "separator", "text_field")
    data = options.read(tokens_of_model, options.model, revisions[0], **reading)
    note(describe_corpus(data))
    names = ("orders", "num_twins", "rows", "top_tokens", "seed", "other_runs")
    config: dict[str, Any] = chosen(options, "model", "revisions", *names)
    hashes = {
        f"weights of {model}": dict(zip(revisions, hash_revisions(model, revisions), strict=True))
        for model in models
    }
    decides = results.identity(data, config | vars(recipe) | hashes)
    with claim(
        options.out, "compare", decides, result=_FILE, overwrite=options.overwrite
    ) as folder:
        if folder.complete:
            dataset = results.load(folder.path / _FILE)
        else:
            last = max(revisions_by_step(revisions))
            with progress_bar() as progress:
                dataset = compare_with_twins(
                    options.model,
                    revisions,
                    data,
                    recipe,
                    **chosen(options, *names),
                    progress=lambda name, step: progress(step, last, f"training: {name}"),
                )
            results.save_to(folder, _FILE, dataset)
            folder.finish()
        content = {**results.decode(dataset.attrs), "summary": _rows(dataset)}
        results.save_json_to(folder, "summary.json", content)
        with options.drawing():
            paths = _draw(dataset, folder, options.over)
        files = [_FILE, "summary.json", *(path.name for path in paths)]
        report = _report(dataset)
        report.written(files)
        finish(folder, report, files)
    return report


def _columns(dataset: "xr.Dataset") -> dict[str, tuple[str, str]]:
    """Heading of a column -> measure and twin: the best twins first, then what they are beside."""
    orders = [name for name in dataset["twin"].values.tolist() if name.startswith("twin-")]
    orders = [name for name in orders if name not in _CONTROLS.values()]
    found = {name.replace("twin-", "order "): ("cosine", name) for name in reversed(orders)}
    best = next(iter(found.values()), None)
    found |= {heading: ("cosine", name) for heading, name in _CONTROLS.items()}
    if "run" in dataset["twin"].values:
        found["others"] = ("cosine", "run")
    return found | ({"partial": ("partial_cosine", best[1])} if best else {})


def _cells(of_run: "xr.Dataset") -> dict[str, float]:
    """Columns of a step: of one weight, or medians over all."""
    cells = {
        heading: float(of_run[measure].sel(twin=twin).median())
        for heading, (measure, twin) in _columns(of_run).items()
    }
    return cells | {"visible": float(of_run["visible"].median())}


def _rows(dataset: "xr.Dataset") -> list[dict[str, Any]]:
    """A row for each step, weight and layer of the model's own run."""
    of = dataset.isel(held_out=0)
    return [
        {"step": step, "summed_rate": float(of.summed_rate.sel(step=step)), "weight": weight}
        | {"layer": layer}
        | _cells(of.sel(step=[step], weight=weight, layers=layer))
        for step in of["step"].values.tolist()
        for weight in of["weight"].values.tolist()
        for layer in of["layers"].values.tolist()
        if of["visible"].sel(step=step, weight=weight, layers=layer).notnull()
    ]


def _report(dataset: "xr.Dataset") -> Report:
    from assocjax.storage import results

    report, of = Report(), dataset.isel(held_out=0).sel(layers="all")
    config = results.decode(dataset.attrs)["config"]
    report.line(
        f"Cosine of each weight's change since step 0 with the mean change of "
        f"{config['num_draws']} twins, trained by the recipe {config['recipe']['name']} on "
        f"statistics of {dataset.attrs['corpus_name']} ({float(dataset.token_share):.1%} of its "
        "positions). Controls: order 0, which knows frequencies only, and shuffled, in which each "
        "token has the followers of another of like frequency"
        + ("; others: the mean of the other runs, a ceiling" * ("run" in dataset["twin"].values))
        + "; partial: of the highest order, without the change of order 0; visible: share of the "
        f"weights, stored as {dataset.attrs['stored_as']}, that changed at all"
    )

    def rounded(cells: dict[str, float]) -> dict[str, float]:
        return {name: round(value, 3) for name, value in cells.items()}

    steps = of["step"].values.tolist()
    rows = [
        {"step": step, "rate": f"{float(of.summed_rate.sel(step=step)):.2g}"}
        | rounded(_cells(of.sel(step=[step])))
        for step in steps
    ]
    title = "Medians over weights; rate: summed learning rate"
    report.table(title, rows, _medians(dataset, rows[-1]), narrow=_narrow(rows))
    last = of.sel(step=steps[-1])
    weights = of["weight"].values.tolist()
    rows = [{"weight": w} | rounded(_cells(last.sel(weight=[w]))) for w in weights]
    title = f"Weights at step {steps[-1]}, all layers together"
    report.table(title, rows, _verdict(last, steps[-1]), narrow=_narrow(rows))
    return report


def _medians(dataset: "xr.Dataset", last: dict[str, Any]) -> str:
    best, control = next(iter(_columns(dataset))), max(last[name] for name in _CONTROLS)
    if last[best] != last[best]:
        return f"Step {last['step']}: most weights have not changed."
    return f"Step {last['step']}: {best} {last[best]:.3f}, the better control {control:.3f}."


def _narrow(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without orders below the highest."""
    orders = [name for name in rows[0] if name.startswith("order ")]
    left_out = set(orders[1:]) - set(_CONTROLS)
    return [{name: v for name, v in row.items() if name not in left_out} for row in rows]


def _verdict(last: "xr.Dataset", step: int) -> str:
    """Signal where every single twin of the highest order is above every one of the controls."""
    ((_, best), *_) = _columns(last).values()
    draws = last["draw_cosine"]
    clear = draws.sel(twin=best).min("draw", skipna=False) > draws.sel(
        twin=list(_CONTROLS.values())
    ).max(("twin", "draw"))
    weights = last["weight"].values.tolist()
    signal = [w for w, yes in zip(weights, clear.values.tolist(), strict=True) if yes]
    none = [weight for weight in weights if weight not in signal]
    said = f"Step {step}: signal (every twin of {best} above every control) in "
    said += f"{len(signal)} of {len(weights)} weights"
    return f"{said}; none in {', '.join(none)}." if none else f"{said}."


def _draw(dataset: "xr.Dataset", folder: "Folder", over: str) -> list[Path]:
    from assocjax import figures

    plots = {"twins": figures.plot_twins(dataset.isel(step=[-1]))}
    if dataset.sizes["step"] > 1:
        plots["twins_by_step"] = figures.plot_twins_by_step(dataset, over=over)
    return [path for name, plot in plots.items() for path in figures.save(plot, name, into=folder)]

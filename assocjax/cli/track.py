"""Commands that follow associations over training: `track` and `explore`."""

import argparse
from typing import Any

from assocjax.cli._corpus import configure_jax, load_corpus
from assocjax.cli._terminal import progress_bar, show, show_table, show_written, status
from assocjax.errors import InputError
from assocjax.storage import check_claimable, claim, hold


def track(options: argparse.Namespace) -> None:
    """Train one run and record when associations form, and in which weight."""
    from assocjax import figures
    from assocjax.analysis.formations import formation
    from assocjax.experiments.tracking import track
    from assocjax.storage import results

    check_claimable(options.out, "track")
    configure_jax(options)
    data = load_corpus(options)
    for token in options.graph:
        data.token_id(token)  # fails before the work
    with hold(options.out):  # one writer from the first checkpoint to the last figure
        with progress_bar() as progress:
            dataset = track(
                data,
                learning_rate=options.learning_rate,
                steps=options.steps,
                num_layers=options.num_layers,
                record_at=options.record_at,
                k=options.top,
                seed=options.seed,
                init_scale=options.init_scale,
                optimizer=options.optimizer,
                batch_size=options.batch_size,
                microbatch_size=options.microbatch_size,
                truth=_known_truth(data) if options.corpus == "fables" else None,
                checkpoint=options.out,
                overwrite=options.overwrite,
                progress=progress,
            )
        rows = formation(dataset)
        content = {**results.decode(dataset.attrs), "formation": rows}
        with claim(options.out, "track", None) as folder:
            results.save_json_to(folder, "summary.json", content)
            with status("drawing"):
                paths = figures.save_track(dataset, folder)
                for token in options.graph:
                    name = "".join(c if c.isalnum() else "_" for c in token)
                    path = f"context_{data.token_id(token)}_{name}"
                    try:
                        graph = figures.plot_context_graph(dataset, token)
                    except InputError as error:  # a token without a context
                        show(f"no graph: {error}", soft_wrap=True)
                        continue
                    paths += figures.save(graph, path, into=folder)
    if dataset.attrs["incomplete"]:
        show(dataset.attrs["incomplete"])
    known = "precision_theory" in rows[0]
    show_table(
        f"Lists of up to {dataset.sizes['rank']} tokens, corrected for frequency: first recorded "
        "step at which weights have half of the theory's (formed; -: never), the share at best and "
        "at the end" + ("; the same of the planted associates, and the theory's share" * known),
        [_short(row) for row in rows if row["scoring"] == "corrected"],
    )
    show_written(options.out, ["track.nc", "summary.json", *(path.name for path in paths)])
    show(f"To look at it: assocjax explore {options.out / 'track.nc'}", soft_wrap=True)


def _known_truth(data) -> dict[str, Any] | None:
    """What the fables plant, as far as a small vocabulary holds it."""
    from assocjax.corpora import fables

    known = {
        kind: {query: found for query, of in truth.items() if (found := of & set(data.vocabulary))}
        for kind, truth in fables.ground_truth().items()
    }
    return {
        kind: truth for kind, truth in known.items() if truth.keys() & set(data.vocabulary)
    } or None


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """The row of a table that has to fit a terminal; names that occur twice differ by a space."""
    weights = (
        row["weights"] if row["layer"] is None else row["weights"].replace("l", str(row["layer"]))
    )
    names = {"formed": "formed", "best": "best", "end": "end", "precision_formed": "planted"}
    names |= {"precision_best": "best ", "precision_end": "end ", "precision_theory": "theory"}
    values = {short: row.get(name) for name, short in names.items()}
    rounded = {n: round(v, 2) if isinstance(v, float) else v for n, v in values.items()}
    if "precision_theory" not in row:
        rounded = {name: rounded[name] for name in ("formed", "best", "end")}
    return {"matrix": row["matrix"], "weights": weights} | rounded


def explore(options: argparse.Namespace) -> None:
    """Write a page that shows each token's associations over training."""
    from assocjax.explorer import write_explorer
    from assocjax.storage import results

    out = options.out or options.results.with_suffix(".html")
    dataset = results.load(options.results)
    with status("writing"):
        write_explorer(
            dataset,
            out,
            token=options.token,
            max_steps=options.max_steps,
            overwrite=options.overwrite,
        )
    show(f"written: {out}, {out.stat().st_size / 1e6:.1f} MB; open it in a browser", soft_wrap=True)

"""The command `reproduce`: the paper's tables and figures, and one report of them."""

import argparse
import time

from assocjax.arguments import check_choice
from assocjax.cli._corpus import configure_jax
from assocjax.cli._options.reproduce import ARTEFACTS
from assocjax.cli._terminal import several_bars, show, show_table, show_written
from assocjax.storage import check_claimable


def reproduce(options: argparse.Namespace) -> None:
    """Reproduce the paper's tables and figures beside its numbers, with controls, in one report."""
    for name in options.artefacts:
        check_choice("artefact", name, (*ARTEFACTS, "all"))
    configure_jax(options)
    from assocjax import reproduce as library

    check_claimable(options.out, "reproduce")
    began = time.monotonic()
    with several_bars() as progress:
        records = library.reproduce(
            options.artefacts,
            scale=options.scale,
            corpora=options.corpus or (),
            out=options.out,
            overwrite=options.overwrite,
            progress=progress,
            announce=lambda line: show(
                f"[{(time.monotonic() - began) / 60:.1f} min] {line}", soft_wrap=True
            ),
        )
    for record in records:
        if record["rows"]:
            title = f"{record['paper']['title']} ({record['corpus_name']})"
            show_table(title, [_short(row) for row in record["rows"]])
    folders = sorted({record["folder"] for record in records} - {""})  # of what was left out: none
    show_written(options.out, ["report.html", "report.json", *folders])


def _short(row: dict) -> dict:
    """The first columns, which have the paper's numbers and ours: the report has all."""
    from assocjax.reproduce.report import cell

    return {name: cell(value) for name, value in list(row.items())[:5]}

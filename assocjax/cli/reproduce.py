"""The command `reproduce`: reproduces the paper's tables and figures in one report."""

import time
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from assocjax import arguments
from assocjax.cli._corpus import configure_jax
from assocjax.cli._kinds import Precision, several
from assocjax.cli._options import Device, Results, arguments_of, options
from assocjax.cli._report import Finish, Report
from assocjax.cli._terminal import note, progress_bar
from assocjax.reproduce.paper import ARTEFACTS


@options("Artefacts")
class Reproduce(Device, Results):
    """Reproduce the paper's tables and figures in one report, with its numbers and controls."""

    artefacts: Annotated[tuple[str, ...], Parameter(choices=(*ARTEFACTS, "all"))] = field(
        kw_only=False
    )
    """tables and figures to reproduce"""
    scale: Annotated[str, Parameter(choices=arguments.SCALES)] = arguments.SCALE
    """the paper's sizes, smaller ones for two cores, or tiny ones that only test the code"""
    corpus: Annotated[tuple[str, ...], several("CORPUS")] = ()
    """texts to read besides the fables or, at the paper's sizes, instead of tinystories:
    python-docs, hf:owner/name[:split], or a .txt, .jsonl or .parquet file"""
    precision: Precision = "float32"
    """floating-point precision"""
    out: Path = Path("assocjax-reproduce")
    """folder for the results; existing results are not computed again"""

    @property
    def grows(self) -> bool:
        """Each artefact and corpus has files of its own, which the library compares."""
        return True

    def run(self, finish: Finish) -> Report:
        configure_jax(self.device, self.precision)
        from assocjax import reproduce as library
        from assocjax.storage import claim, hold

        began = time.monotonic()
        with hold(self.out), progress_bar(unit="") as bar:
            records = library.reproduce(
                **arguments_of(self, library.reproduce, corpora=self.corpus),
                progress=lambda what, done, total: bar(done, total, what),
                announce=lambda line: note(f"[{(time.monotonic() - began) / 60:.1f} min] {line}"),
            )
            report = _report(records)
            with claim(self.out, "reproduce", None) as folder:
                finish(folder, report, folder.files)
        return report


def _report(records: list[dict[str, Any]]) -> Report:
    report = Report()
    for record in records:
        if record["rows"]:
            title = f"{record['paper']['title']} ({record['corpus_name']})"
            report.table(title, [_short(row) for row in record["rows"]], record["verdict"])
    folders = sorted(
        {record["folder"] for record in records} - {""}
    )  # artefacts that were left out have no folder
    report.written(["report.html", "report.json", *folders])
    return report


def _short(row: dict) -> dict:
    """The columns up to the verdict, the paper's numbers and ours; the report has all columns."""
    from assocjax.reproduce.report import cell

    columns = list(row)
    return {name: cell(row[name]) for name in columns[: columns.index("reproduced") + 1]}

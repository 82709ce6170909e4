"""The command `merge`."""

from dataclasses import field
from pathlib import Path

from assocjax.cli._finished import told_if_unchanged
from assocjax.cli._matrices import folder_of_shards
from assocjax.cli._options import Results, options
from assocjax.cli._report import Finish, Report
from assocjax.cli._terminal import status


@options("Shards")
class Merge(Results):
    """Add up all shards of one pass of the sparse statistics.

    `assocjax statistics --help` explains shards and passes.
    """

    files: tuple[Path, ...] = field(kw_only=False)
    """files of all shards"""
    out: Path = Path("assocjax-statistics")

    @property
    def folder(self) -> None:
        """Merged files stand beside shards, as single files."""
        return None

    def run(self, finish: Finish) -> Report:
        from assocjax.statistics import shards
        from assocjax.storage import results

        with status("merging"):
            dataset = shards.merge(self.files)
            name = f"{dataset.attrs['kind']}.nc"
            path = folder_of_shards(self.out) / name
            with told_if_unchanged(path):
                results.save(dataset, path, overwrite=self.overwrite)
        report = Report()
        report.path(f"written to {self.out}: {name}")
        return report

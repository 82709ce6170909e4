"""The command `merge`."""

from dataclasses import field
from pathlib import Path
from typing import Any

from assocjax.cli._matrices import folder_of_shards
from assocjax.cli._options import Results, options
from assocjax.cli._report import Finish, Report
from assocjax.cli._terminal import note, status


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

        with results.open_dataset(self.files[0]) as first:
            kind = first.attrs.get("kind")
            path = self.out / f"{kind}.nc"
            known = not self.overwrite and path.is_file() and _is_merged_of(path, first.attrs)
        if known:
            note(f"already complete: {path}; --overwrite computes it again")
        else:
            with status("merging"):
                dataset = shards.merge(self.files)
                results.save(
                    dataset, folder_of_shards(self.out) / path.name, overwrite=self.overwrite
                )
        report = Report()
        report.path(f"written to {self.out}: {path.name}")
        return report


def _is_merged_of(path: Path, shard: dict[Any, Any]) -> bool:
    """Whether a file has the sum over all shards of the pass that a shard belongs to."""
    from assocjax.storage import results

    same = ["kind", "corpus", "config", "assocjax"]
    same += ["counts_sha256"] * (shard.get("kind") == "correlations")
    with results.open_dataset(path) as merged:
        found = merged.attrs
    return "merged" in found and all(found.get(name) == shard.get(name) for name in same)

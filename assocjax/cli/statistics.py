"""The command `statistics`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from assocjax.cli._corpus import configure_jax
from assocjax.cli._finished import told_if_unchanged
from assocjax.cli._matrices import Counted, folder_of_shards
from assocjax.cli._options import Drawn, options
from assocjax.cli._report import Finish, Report
from assocjax.cli._terminal import progress_bar, status
from assocjax.errors import InputError

if TYPE_CHECKING:
    from assocjax.corpora import TokenData, TokenFile

_DENSE = "statistics.nc"
_SPARSE = ("counts.nc", "correlations.nc")


@options("Shards")
class Statistics(Drawn, Counted):
    """Compute the basis functions of a corpus and the matrices composed from them.

    Sparse statistics can be computed in N shards, in any order and on any machines, in two passes:
    `statistics --shard I/N` for each I; `merge counts-*-of-N.nc`; `statistics --shard I/N --counts
    counts.nc` for each I; `merge correlations-*-of-N.nc`. `associations --statistics` then reads
    `counts.nc` and `correlations.nc`. An interrupted shard resumes when it is started again. The
    result has the same bits for every N.
    """

    out: Path = Path("assocjax-statistics")
    shard: Annotated[str | None, Parameter(metavar="I/N")] = None
    """compute only the I-th of N shards of the sequences, in sparse sums, for merge"""
    counts: Annotated[Path | None, Parameter(metavar="FILE")] = None
    """merged counts of the first pass; --shard is then a shard of the second pass"""

    @property
    def in_shards(self) -> bool:
        return self.shard is not None or self.counts is not None

    @property
    def folder(self) -> Path | None:
        """Shards are single files, which other processes may write beside each other."""
        return None if self.in_shards else self.out

    def run(self, finish: Finish) -> Report:
        from assocjax import figures
        from assocjax.statistics import datasets
        from assocjax.statistics.dense import corpus_statistics
        from assocjax.storage import claim, results

        if self.in_shards:
            _parse_shard(self.shard)
        configure_jax(self.device, self.precision)
        data = self.open()
        if self.in_shards:
            return _run_shard(self, data)
        if self.is_sparse(data):
            return _sparse_statistics(self, data, finish)
        decides = results.identity(data, {"matrices": "dense"})
        with claim(
            self.out, "statistics", decides, result=_DENSE, overwrite=self.overwrite
        ) as folder:
            if folder.complete:
                dataset = results.load(folder.path / _DENSE)
            else:
                tokens, mask = data.read(0, data.num_sequences)
                with status("counting"):
                    found = corpus_statistics(tokens, data.vocab_size, mask)
                    dataset = datasets.statistics_dataset(data, found)
                results.save_to(folder, _DENSE, dataset)
                folder.finish()
            rows = datasets.statistics_summary(dataset)
            content = {**results.decode(dataset.attrs), "summary": rows}
            results.save_json_to(folder, "summary.json", content)
            with self.drawing():
                paths = figures.save(figures.plot_statistics(dataset), "statistics", into=folder)
            files = [_DENSE, "summary.json", *(path.name for path in paths)]
            report = _report(data, int(dataset["num_positions"]), rows)
            report.written(files)
            finish(folder, report, files)
        return report


def _report(data: "TokenData | TokenFile", positions: int, rows: list[dict[str, Any]]) -> Report:
    report = Report()
    first = rows[0]
    report.table(
        f"Statistics of {data.name}, {positions} positions: Frobenius norm and largest entry",
        rows,
        f"Largest entry of {first['matrix']}: {first['column']!r} after {first['row']!r}.",
    )
    return report


def _run_shard(options: Statistics, data: "TokenData | TokenFile") -> Report:
    """Writes one shard of a pass."""
    from assocjax.statistics import shards

    shard, of = _parse_shard(options.shard)
    kind = "counts" if options.counts is None else "correlations"
    path = folder_of_shards(options.out) / f"{kind}-{shard}-of-{of}.nc"
    phase = "counting" if kind == "counts" else "correlating"
    with told_if_unchanged(path), progress_bar(phase, "sequences") as progress:
        shards.run_shard(
            data,
            path,
            shard=shard,
            shards=of,
            counts=options.counts,
            overwrite=options.overwrite,
            progress=progress,
        )
    report = Report()
    report.path(f"written to {options.out}: {path.name}")
    return report


def _parse_shard(text: str | None) -> tuple[int, int]:
    """The I and the N of I/N."""
    numbers = (text or "").split("/")
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        raise InputError(f"--shard: expected I/N such as 1/4, got {text!r}")
    shard, of = map(int, numbers)
    if not 1 <= shard <= of:
        raise InputError(f"--shard: expected I/N with I from 1 to N, got {text!r}")
    return shard, of


def _sparse_statistics(
    options: Statistics, data: "TokenData | TokenFile", finish: Finish
) -> Report:
    """Both passes, each as one shard, so that they can be stopped and resumed too."""
    from assocjax.statistics import shards
    from assocjax.statistics.sparse import sparse_summary
    from assocjax.storage import claim, results

    decides = results.identity(data, {"matrices": "sparse"})
    with claim(
        options.out, "statistics", decides, result=_SPARSE[1], overwrite=options.overwrite
    ) as folder:
        files = [folder.path / name for name in _SPARSE]
        if not folder.complete:
            counts = None
            for name, phase in zip(_SPARSE, ("counting", "correlating"), strict=True):
                part = folder.work("shards") / name
                with progress_bar(phase, "sequences") as progress:
                    shards.run_shard(
                        data, part, shard=1, shards=1, counts=counts, progress=progress
                    )
                with status("composing"):
                    results.save_to(folder, name, shards.merge([part]))
                counts = folder.path / name
            folder.finish()
        found = shards.load_statistics(*files)
        rows = sparse_summary(found, data.vocabulary)
        attributes = results.decode(results.provenance(data, {}))
        results.save_json_to(folder, "summary.json", {**attributes, "summary": rows})
        report = _report(data, found.num_positions, rows)
        report.written([*_SPARSE, "summary.json"])
        finish(folder, report, [*_SPARSE, "summary.json"])
    return report

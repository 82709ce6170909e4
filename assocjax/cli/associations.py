"""The command `associations`."""

import json
import os
import textwrap
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from assocjax import arguments
from assocjax.cli._corpus import READ_VOCAB_SIZE, by_default, configure_jax
from assocjax.cli._kinds import Count
from assocjax.cli._matrices import Counted
from assocjax.cli._options import Results, chosen, options
from assocjax.cli._report import Finish, Report
from assocjax.cli._terminal import status
from assocjax.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

    from assocjax.corpora import TokenData, TokenFile
    from assocjax.statistics.sparse import SparseStatistics


@options("Lists")
class Associations(Results, Counted):
    """Print the top tokens of some tokens under each basis function and composed matrix."""

    DEFAULT_VOCAB_SIZE = READ_VOCAB_SIZE

    tokens: tuple[str, ...] = field(kw_only=False)
    """tokens to look up"""
    vocab_size: Annotated[int | None, by_default(DEFAULT_VOCAB_SIZE)] = None
    statistics: Annotated[Path | None, Parameter(metavar="FOLDER")] = None
    """read the results of statistics or merge from this folder, instead of a corpus"""
    top: Count = arguments.TOP
    """number of associations to list for each matrix"""
    frequency_corrected: bool = False
    """correct for token frequencies, so that rare and frequent tokens are comparable"""

    def run(self, finish: Finish) -> Report:
        from assocjax.analysis import associations as library
        from assocjax.corpora.tokens import find_token
        from assocjax.storage import claim, results

        configure_jax(self.device, self.precision)
        config = chosen(self, "tokens", "top", "frequency_corrected")
        if self.statistics is None:
            data = self.open()
            name, vocabulary, attributes = (
                data.name,
                data.vocabulary,
                results.provenance(data, config),
            )
            for token in self.tokens:
                data.token_id(token)  # fails before the work
            with status("counting"):
                found = _find(self, data)
        else:
            found, vocabulary, attributes = _read_statistics(self.statistics, config)
            name = attributes["corpus_name"]
            for token in self.tokens:
                find_token(token, vocabulary, name)
        listing = {
            token: {
                matrix: library.top_associations(
                    getattr(found, matrix), vocabulary, token, self.top
                )
                for matrix in library.MATRICES
            }
            for token in self.tokens
        }
        report = Report()
        for token, matrices in listing.items():
            report.line(f"\n{token} in {name}")
            for matrix, best in matrices.items():
                report.line(f"  {matrix}: {library.MATRICES[matrix]}")
                line = "  ".join(f"{other} {score:.2g}" for other, score in best)
                line = line or "none: no entry is positive"
                report.line(
                    textwrap.fill(line, 76, initial_indent="    ", subsequent_indent="    ")
                )
        if self.out is not None:
            scores = {
                token: {name: [a._asdict() for a in best] for name, best in matrices.items()}
                for token, matrices in listing.items()
            }
            content = {**results.decode(attributes), "associations": scores}
            decides = {name: content[name] for name in ("config", "corpus")}
            decides |= chosen(self, "precision", "matrices")
            decides["assocjax"] = results.versions()["assocjax"]
            with claim(self.out, "associations", decides, overwrite=self.overwrite) as folder:
                results.save_json_to(folder, "associations.json", content)
                folder.finish()
                report.written(["associations.json"])
                finish(folder, report, ["associations.json"])
        return report


def _read_statistics(
    folder: Path, config: dict[str, Any]
) -> tuple["SparseStatistics | xr.Dataset", list[str], dict[str, Any]]:
    """The results of `statistics` or `merge` in a folder, their vocabulary and attributes."""
    from assocjax.analysis.associations import MATRICES
    from assocjax.statistics import shards
    from assocjax.storage import results

    if config["frequency_corrected"]:
        raise InputError("--frequency-corrected needs a corpus: it does not work with --statistics")
    dense, counts = folder / "statistics.nc", folder / "counts.nc"
    # os.path returns False for names that no file can have; Path raises.
    if not os.path.isfile(dense) and not os.path.isfile(counts):
        raise InputError(
            f"--statistics: {folder} has no results of statistics or merge: neither statistics.nc "
            "nor counts.nc and correlations.nc"
        )
    if os.path.isfile(dense) and os.path.isfile(counts):
        raise InputError(
            f"--statistics: {folder} has both statistics.nc and counts.nc; keep only one of them"
        )
    if os.path.isfile(dense):
        found = results.load(dense)
        if not found.data_vars.keys() >= MATRICES.keys() or "token" not in found.coords:
            raise InputError(f"--statistics: {dense} holds no statistics")
        attrs, vocabulary = found.attrs, found["token"].values.tolist()
    else:
        found = shards.load_statistics(counts, folder / "correlations.nc")
        with results.open_dataset(counts) as dataset:
            attrs, vocabulary = dataset.attrs, dataset["token"].values.tolist()
    names = ("corpus", "corpus_name", "corpus_sha256", "versions", "device")
    attributes = {name: attrs[name] for name in names}
    return found, vocabulary, attributes | {"config": json.dumps(config, sort_keys=True)}


def _find(options: Associations, data: "TokenData | TokenFile"):
    """The statistics of a corpus, dense or sparse."""
    from assocjax.analysis.associations import frequency_corrected
    from assocjax.statistics.dense import corpus_statistics
    from assocjax.statistics.sparse import sparse_statistics

    if options.is_sparse(data):
        return sparse_statistics(data, frequency_corrected=options.frequency_corrected)
    tokens, mask = data.read(0, data.num_sequences)
    found = corpus_statistics(tokens, data.vocab_size, mask)
    return frequency_corrected(found, tokens, mask) if options.frequency_corrected else found

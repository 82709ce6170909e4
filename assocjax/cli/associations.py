"""The command `associations`."""

import json
import os
import textwrap
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from assocjax import arguments
from assocjax.cli._corpus import configure_jax
from assocjax.cli._kinds import Count, unless_given
from assocjax.cli._matrices import Counted
from assocjax.cli._options import Results, chosen, options
from assocjax.cli._terminal import show, show_written, status
from assocjax.errors import InputError

if TYPE_CHECKING:
    import xarray as xr
    from jax import Array
    from scipy.sparse.linalg import LinearOperator

    from assocjax.analysis.associations import Association
    from assocjax.analysis.listings import Listing
    from assocjax.corpora import TokenData, TokenFile
    from assocjax.statistics.sparse import SparseStatistics


_JOIN = "\N{NO-BREAK SPACE}"  # where no line may be broken


@options("Lists")
class Associations(Results, Counted):
    """Print the top tokens of some tokens under each basis function and composed matrix."""

    tokens: tuple[str, ...] = field(kw_only=False)
    """tokens to look up"""
    statistics: Annotated[Path | None, Parameter(metavar="FOLDER")] = None
    """read the results of statistics or merge from this folder, instead of a corpus"""
    top: Count = arguments.TOP
    """number of associations to list for each matrix"""
    scoring: Annotated[
        Literal["corrected", "z-score", "raw"] | None,
        unless_given("corrected, or raw with --statistics"),
    ] = None
    """corrected for token frequencies (Pearson residuals), z-score (as track scores weights), or
    raw; --statistics has raw scores only"""

    def run(self) -> None:
        from assocjax.analysis.associations import MATRICES
        from assocjax.analysis.listings import list_associations
        from assocjax.corpora.fables import known_truth
        from assocjax.corpora.tokens import find_token
        from assocjax.statistics.occurrences import count_occurrences, observed
        from assocjax.storage import check_claimable, claim, results

        if self.out is not None:
            check_claimable(self.out, "associations")
        configure_jax(self.precision)
        counted = self.statistics is None
        scoring = self.scoring or ("corrected" if counted else "raw")
        config = chosen(self, "tokens", "top") | {"scoring": scoring}
        if self.statistics is None:
            data = self.open()
            name, vocabulary = data.name, data.vocabulary
            attributes = results.provenance(data, config)
            ids = [data.token_id(token) for token in self.tokens]  # fails before the work
            if scoring == "z-score" and self.is_sparse(data):
                raise InputError("--scoring z-score needs --matrices dense")
            with status("counting"):
                matrices = _find(self, data, scoring)
                occurrences = count_occurrences(data, tokens=ids)
        else:
            found, vocabulary, attributes = _read_statistics(self.statistics, config)
            name = attributes["corpus_name"]
            for token in self.tokens:
                find_token(token, vocabulary, name)
            matrices = {matrix: getattr(found, matrix) for matrix in MATRICES}
            occurrences = observed(found)
        truth = known_truth(name)
        planted = {
            token: {matrix: truth.get(matrix, {}).get(token, frozenset()) for matrix in MATRICES}
            for token in self.tokens
        }
        listing = {
            token: list_associations(
                matrices, occurrences, vocabulary, token, self.top, counted=counted
            )
            for token in self.tokens
        }
        for line in _lines(listing, planted, f"{name}, {scoring} scores", bool(truth)):
            show(line, soft_wrap=True)
        if self.out is not None:
            scores = {
                token: {
                    matrix: [
                        each._asdict() | {"planted": each.token in planted[token][matrix]}
                        if truth
                        else each._asdict()
                        for each in best
                    ]
                    for matrix, (best, _) in lists.items()
                }
                for token, lists in listing.items()
            }
            content = {**results.decode(attributes), "associations": scores}
            decides = {name: content[name] for name in ("config", "corpus")}
            decides |= chosen(self, "precision", "matrices")
            decides["assocjax"] = results.versions()["assocjax"]
            with claim(self.out, "associations", decides, overwrite=self.overwrite) as folder:
                results.save_json_to(folder, "associations.json", content)
                folder.finish()
            show_written(self.out, ["associations.json"])


def _lines(
    listing: dict[str, dict[str, "Listing"]],
    planted: dict[str, dict[str, frozenset[str]]],
    of: str,
    known: bool,
) -> Iterator[str]:
    """What is printed: the lists of each token, and what the numbers are."""
    from assocjax.analysis.associations import MATRICES

    for token, lists in listing.items():
        yield f"\n{token} in {of}"
        for matrix, (best, reason) in lists.items():
            yield f"  {matrix}: {MATRICES[matrix]}"
            shown = (_shown(each, each.token in planted[token][matrix]) for each in best)
            line = "  ".join(shown) or f"none: {reason}"
            text = textwrap.fill(line, 76, initial_indent="    ", subsequent_indent="    ")
            yield text.replace(_JOIN, " ")
    yield (
        "\nEach token with its score and (its number of occurrences with the token, of "
        "interchangeability and value through a third token)" + "; *: planted" * known
    )


def _shown(found: "Association", planted: bool) -> str:
    count = [] if found.occurrences is None else [f"({found.occurrences})"]
    return _JOIN.join([f"{found.token}{'*' * planted}", f"{found.score:.2g}", *count])


def _read_statistics(
    folder: Path, config: dict[str, Any]
) -> tuple["SparseStatistics | xr.Dataset", list[str], dict[str, Any]]:
    """The results of `statistics` or `merge` in a folder, their vocabulary and attributes."""
    from assocjax.analysis.associations import MATRICES
    from assocjax.statistics import shards
    from assocjax.storage import results

    if config["scoring"] != "raw":
        raise InputError(f"--scoring {config['scoring']} needs a corpus, not --statistics")
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


def _find(
    options: Associations, data: "TokenData | TokenFile", scoring: str
) -> dict[str, "Array | LinearOperator"]:
    """The matrices of a corpus with these scores, dense or sparse."""
    from assocjax.analysis import scorings
    from assocjax.analysis.associations import MATRICES, frequency_corrected
    from assocjax.statistics.dense import corpus_statistics
    from assocjax.statistics.occurrences import count_occurrences
    from assocjax.statistics.sparse import sparse_statistics

    if options.is_sparse(data):
        found = sparse_statistics(data, frequency_corrected=scoring == "corrected")
    else:
        tokens, mask = data.read(0, data.num_sequences)
        found = corpus_statistics(tokens, data.vocab_size, mask)
        if scoring == "corrected":
            found = frequency_corrected(found, tokens, mask)
        elif scoring == "z-score":
            occurrences = count_occurrences(data)
            counts = {matrix: occurrences.rows(matrix) for matrix in MATRICES}
            support = scorings.support_of(counts, data.vocabulary)
            return scorings.theory_scores(found, support, scoring=scoring)
    return {matrix: getattr(found, matrix) for matrix in MATRICES}

"""The command `attribute`: the passages that an association comes from."""

import warnings
from dataclasses import field
from typing import Annotated

from assocjax import arguments
from assocjax.cli._corpus import Corpus, configure_jax
from assocjax.cli._kinds import Count, Precision, several
from assocjax.cli._options import Results, chosen, options
from assocjax.cli._report import Finish, Report
from assocjax.cli._terminal import note, status

_MEANINGS = {
    "bigram": "{column} follows {row}",
    "context": "{column} stands anywhere before {row}",
    "interchangeability": "{row} and {column} follow the same tokens",
    "substitutability": "{row} and {column} are followed by the same tokens",
    "value": "{row}, anywhere before, announces what follows {column}",
    "composed": "{row}, anywhere before, predicts {column}",
    "query_key": "{row} should attend to {column}",
}


@options("Association")
class Attribute(Results, Corpus):
    """Print the passages that an association of two tokens comes from, and the share of each.

    Rows and columns are those of `assocjax associations`: bigram [bird, flew] is how often flew
    follows bird, context [flew, bird] how often bird stands before flew, both minus chance; value
    [bird, flew] is how strongly bird, anywhere before, announces the tokens that follow flew.
    """

    tokens: tuple[str, str] = field(kw_only=False)
    """the row and the column of the entry"""
    precision: Precision = "float64"
    weight: Annotated[tuple[str, ...], several("MATRIX", arguments.MATRICES)] = ("value",)
    """matrices whose entry is decomposed"""
    top: Count = arguments.TOP
    """number of documents to list for each matrix"""

    def run(self, finish: Finish) -> Report:
        from assocjax.analysis.associations import AbsentTokenWarning
        from assocjax.analysis.passages import find_passages, listing
        from assocjax.corpora.fables import known_truth
        from assocjax.storage import claim, results

        configure_jax(self.device, self.precision)
        data = self.load()
        row, column = self.tokens
        for token in self.tokens:
            data.token_id(token)  # fails before the work
        with status("attributing"), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", AbsentTokenWarning)
            dataset = find_passages(data, row, column, matrices=self.weight, top=self.top)
        for each in warned:
            note(f"warning: {each.message}")
        truth = known_truth(data.name)
        report, content = Report(), {}
        for matrix in self.weight:
            of_matrix = dataset.sel(matrix=matrix)
            rows, shares = listing(dataset, matrix), of_matrix["share"].values
            entry, degree = float(of_matrix["entry"]), int(of_matrix["degree"])
            number = int(of_matrix["occurrences"])
            content[matrix] = {
                "entry": entry,
                "occurrences": number,
                "degree": degree,
                "sum_of_shares": float(shares.sum()),
                "documents_for": int((shares > 0).sum()),
                "documents_against": int((shares < 0).sum()),
                "listed": rows,
            }
            listed = sum(row["share"] for row in rows) / entry if entry else 0
            meaning = _MEANINGS[matrix].format(row=repr(row), column=repr(column))
            less = ", less than chance, as for most pairs of rare tokens" if entry < 0 else ""
            report.line(f"\n{matrix} [{row}, {column}] = {entry:.4g}: {meaning}{less}")
            planted = column in truth.get(matrix, {}).get(row, ())
            report.line(f"occurrences of the pair: {number}{', planted' * planted}")
            report.line(
                f"the sum of {content[matrix]['documents_for']} positive and "
                f"{content[matrix]['documents_against']} negative shares of {len(shares)} "
                "documents"
            )
            if rows:
                twice = (
                    f" (not the share: the entry is a product of {degree} sums over documents)"
                    if degree > 1
                    else ""
                )
                title = f"change: the entry, less its value without the document{twice}"
                report.table(
                    title, rows, f"The documents of the table carry {listed:.1%} of the entry."
                )
        report.line(
            "« » mark the key and the target with the largest share in the document. Documents are "
            "counted from 0"
        )
        if self.out is not None:
            config = chosen(self, "tokens", "weight", "top")
            decides = results.identity(data, config)
            with claim(self.out, "attribute", decides, overwrite=self.overwrite) as folder:
                results.save_to(folder, "attribution.nc", dataset)
                attributes = results.decode(dataset.attrs)
                results.save_json_to(
                    folder, "attribution.json", {**attributes, "attribution": content}
                )
                folder.finish()
                files = ["attribution.nc", "attribution.json"]
                report.written(files)
                finish(folder, report, files)
        return report

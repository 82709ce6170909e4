"""Dense statistics as a Dataset with tokens as coordinates, and its summary."""

from typing import Any

import numpy as np
import xarray as xr

from assocjax.arguments import UNKNOWN, check_is
from assocjax.checks import CorpusLike
from assocjax.corpora import TokenFile
from assocjax.corpora.tokens import as_token_data
from assocjax.statistics.dense import Statistics
from assocjax.storage.results import describe, provenance

STATISTICS = {
    "bigram": "bigram matrix B = X^T R / M",
    "context": "context matrix Phi = R^T A_0 X / M",
    "interchangeability": "interchangeability B^T B",
    "substitutability": "substitutability B B^T",
    "value": "Phi^T B^T, leading term of a value matrix",
    "composed": "Phi^T Sigma, Sigma = B^T B",
    "query_key": "Q, leading term of a query-key matrix",
    "position": "Delta, leading term of a position vector",
}
_MARGINALS = {
    "input_frequency": "share of positions whose input is the token",
    "target_frequency": "share of positions whose target is the token",
    "context_frequency": "mean weight of the token under uniform attention",
    "num_positions": "number M of positions",
}


def statistics_dataset(data: CorpusLike, statistics: Statistics) -> xr.Dataset:
    """Statistics with tokens as coordinates: matrices over (`token`, `other_token`)."""
    data = data if isinstance(data, TokenFile) else as_token_data(data)
    check_is("statistics", statistics, Statistics)
    dims = {1: ("token",), 2: ("token", "other_token")}
    variables = {}
    for name in statistics.__dataclass_fields__:  # type: ignore[attr-defined]
        value = np.asarray(getattr(statistics, name))
        variables[name] = (("lag",) if name == "position" else dims.get(value.ndim, ()), value)
    vocabulary = np.array(data.vocabulary, dtype=object)
    coords = {"token": vocabulary, "other_token": vocabulary, "lag": np.arange(data.seq_len)}
    dataset = xr.Dataset(variables, coords, provenance(data, {}))
    return describe(dataset, STATISTICS | _MARGINALS)


def statistics_summary(dataset: xr.Dataset) -> list[dict[str, Any]]:
    """Frobenius norm and largest entry, not of `<unk>`, with its tokens, of each matrix."""
    rows, known = [], dataset["token"].values != UNKNOWN
    for name, variable in dataset.data_vars.items():
        if variable.dims == ("token", "other_token"):
            matrix = variable.values
            entries = np.where(np.outer(known, known), matrix, -np.inf)
            i, j = np.unravel_index(np.argmax(entries), matrix.shape)
            tokens = dataset["token"].values
            rows.append(
                {
                    "matrix": str(name),
                    "norm": float(np.linalg.norm(matrix)),
                    "largest": float(matrix[i, j]),
                    "row": str(tokens[i]),
                    "column": str(tokens[j]),
                }
            )
    return rows

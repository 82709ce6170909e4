"""The passages of a corpus that an association comes from, as a Dataset."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from assocjax.analysis.associations import AbsentTokenWarning
from assocjax.analysis.attribution import DEGREES, Summands
from assocjax.arguments import TOP, check_integer, check_names, check_string
from assocjax.checks import CorpusLike
from assocjax.corpora.tokens import TokenData, as_token_data
from assocjax.statistics.dense import Statistics, corpus_statistics
from assocjax.statistics.occurrences import count_occurrences
from assocjax.storage.results import describe, provenance

_NAMES = {
    "entry": "entry of the matrix",
    "share": "share of a document in the entry",
    "position_share": "share of a position in the entry",
    "occurrences": "number of occurrences of the pair of tokens",
    "listed_document": "document with the next largest share, counted from 0",
    "listed_share": "share of the listed document",
    "change": "entry with the document less the entry without it",
    "passage": "text around the largest part of the share",
    "degree": "number of sums over the text in a product that makes the entry",
    "document": "document, counted from 0",
    "document_of": "document of the sequence",
}

_AROUND = 4  # tokens shown before, after and between the two that are marked


def find_passages(
    data: CorpusLike,
    row: str,
    column: str,
    *,
    matrices: Sequence[str] = ("value",),
    top: int = TOP,
    statistics: Statistics | None = None,
) -> xr.Dataset:
    """The documents that an entry [row, column] of each matrix comes from, and their passages.

    A document consists of all its sequences; if `data.documents` is None, each sequence is a
    document. The `top` documents with the largest share in the direction of the entry's sign are
    listed. Their passage surrounds the pair of positions with the largest share, a key and a
    target, which are marked as in `the «bird» sat and «flew» away`; it is empty if no pair has a
    share of this sign.

    Args:
      data: the corpus, `TokenData` or `TokenFile`, or an integer array [N, T+1].
      row, column: two tokens of the vocabulary.
      matrices: names of `DEGREES`.
      top: number of documents to list.
      statistics: `corpus_statistics` of the corpus, if already computed.

    Returns:
      Over `matrix`: `entry`, and the `occurrences` of the pair in the text
      (`statistics.occurrences`). Over (`matrix`, `document`): `share`. Over (`matrix`, `sequence`,
      `position`): `position_share`. Over (`matrix`, `rank`): `listed_document`, `listed_share`,
      `change` (of the entry, if that document is left out: see `leave_out`) and `passage`. The
      document of each sequence is the coordinate `document_of`.

    Raises:
      InputError: a token is not in the vocabulary, or `matrices` or `top` is invalid.

    Warns:
      AbsentTokenWarning: a token does not occur in the sequences.

    Cost: `attribute` for each matrix, `leave_out` for the documents that are listed, and
    `count_occurrences` of one token.
    """
    top = check_integer("top", top, minimum=1)
    matrices = check_names("matrices", matrices, DEGREES)
    data = as_token_data(data)
    check_string("row", row)
    check_string("column", column)
    a, b = data.token_id(row), data.token_id(column)
    real = np.concatenate([data.tokens[:, :-1][data.mask], data.tokens[:, 1:][data.mask]])
    for token, i in ((row, a), (column, b)):
        if i not in real:
            warnings.warn(
                f"token {token!r} does not occur in the sequences of {data.name}: no passage can "
                "show it",
                AbsentTokenWarning,
                stacklevel=2,
            )
    occurrences = count_occurrences(data, tokens=[a])
    document_of = np.arange(data.num_sequences) if data.documents is None else data.documents
    ids, documents = np.unique(document_of, return_inverse=True)
    if statistics is None:
        statistics = corpus_statistics(data)
    found = [
        _of_matrix(data, Summands(statistics, data, None, name, a, b), documents, top)
        for name in matrices
    ]
    stacked = {name: np.stack([each[name] for each in found]) for name in found[0]}
    stacked["listed_document"] = ids[stacked["listed_document"]]
    dims = {"entry": (), "share": ("document",), "position_share": ("sequence", "position")}
    stacked["occurrences"] = np.array([occurrences.rows(of, [a])[0, b] for of in matrices])
    dims["occurrences"] = ()
    variables = {
        name: (("matrix", *dims.get(name, ("rank",))), values) for name, values in stacked.items()
    }
    coords = {
        "matrix": list(matrices),
        "degree": ("matrix", [DEGREES[name] for name in matrices]),
        "document": ids,
        "document_of": ("sequence", document_of),
        "rank": np.arange(1, 1 + min(top, len(ids))),
    }
    config = {"row": row, "column": column, "matrices": list(matrices), "top": top}
    return describe(xr.Dataset(variables, coords, provenance(data, config)), _NAMES)


def listing(dataset: xr.Dataset, matrix: str) -> list[dict[str, Any]]:
    """The listed documents whose share has the sign of the entry, as rows of a table."""
    of = dataset.sel(matrix=matrix)
    entry = float(of["entry"])
    columns = (of[name].values for name in ("listed_document", "listed_share", "change", "passage"))
    return [
        {
            "document": int(document),
            "share": float(share),
            "% of entry": 100 * float(share) / entry,
            "change": float(change),
            "passage": str(passage),
        }
        for document, share, change, passage in zip(*columns, strict=True)
        if share * entry > 0
    ]


def _of_matrix(data: TokenData, of: Summands, documents, top: int) -> dict[str, np.ndarray]:
    entry, shares, positions = of.attribute(documents)
    direction = -1 if entry < 0 else 1
    listed = np.argsort(-direction * np.asarray(shares), kind="stable")[:top]
    # For each listed document, the sequence with the largest part of its share.
    of_sequence = direction * np.sum(np.asarray(positions), axis=1)
    order = np.lexsort((-of_sequence, documents))
    first = np.searchsorted(documents[order], listed)
    sequences = order[first]
    pairs = direction * np.asarray(of.pair_shares(sequences))
    return {
        "entry": np.asarray(entry),
        "share": np.asarray(shares),
        "position_share": np.asarray(positions),
        "listed_document": listed,
        "listed_share": np.asarray(shares)[listed],
        "change": np.asarray(of.leave_out(documents, listed)),
        "passage": np.array(
            [
                _passage(data, sequence, shares) if shares.max() > 0 else ""
                for sequence, shares in zip(sequences, pairs, strict=True)
            ],
            object,
        ),
    }


def _passage(data: TokenData, sequence: int, shares: np.ndarray) -> str:
    """The text around the pair (target t + 1, key k) of the largest share, both marked."""
    t, k = np.unravel_index(np.argmax(shares), shares.shape)
    marked = {int(k), int(t) + 1}
    size = 1 + int(np.flatnonzero(data.mask[sequence])[-1]) + 1  # without padding on the right
    shown = [i for i in range(size) if min(abs(i - mark) for mark in marked) <= _AROUND]
    words = []
    for before, i in zip([-1, *shown], shown, strict=False):
        if i > before + 1:
            words.append("…")
        token = data.vocabulary[data.tokens[sequence, i]]
        words.append(f"«{token}»" if i in marked else token)
    return " ".join(words if shown[-1] + 1 == size else [*words, "…"])

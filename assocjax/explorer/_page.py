"""Writes the page of associations with its style, its scripts and the data."""

import os
from typing import NamedTuple

import numpy as np
import xarray as xr

from assocjax.analysis.formations import READ_AT, mean_overlap
from assocjax.analysis.scorings import LAYERED, MATRICES, SCORINGS, SIDES
from assocjax.arguments import PAGE_TEXT, check_integer
from assocjax.checks import CorpusLike, check_dataset
from assocjax.corpora.tokens import TokenData, as_token_data, find_token
from assocjax.errors import InputError, reading
from assocjax.explorer._packing import Lists, pack
from assocjax.explorer._template import fill, write
from assocjax.explorer._text import pack_text
from assocjax.storage import difference, results

_EXAMPLE = "bird"
_SCRIPTS = ("elements.js", "data.js", "text.js", "lists.js", "passages.js", "controls.js")


class _Reads(NamedTuple):
    """How the page reads a matrix: its symbol in theory, the titles of a token's row and column,
    and for both what an occurrence of an associate is: where it stands relative to the token, or
    "third" if the two are associated through a third token (`statistics.occurrences`)."""

    theory: str
    row: str
    column: str
    row_stands: str
    column_stands: str


_READS = {
    "bigram": _Reads("B", "Tokens that follow {}", "Tokens right before {}", "next", "last"),
    "interchangeability": _Reads(
        "B^T B", "Tokens used like {}", "Tokens used like {}", "third", "third"
    ),
    "composed": _Reads(
        "Φ^T Σ",
        "Tokens that {} predicts from afar",
        "Tokens that predict {} from afar",
        "after",
        "before",
    ),
    "value": _Reads(
        "Φ^T B^T",
        "Tokens whose followers {} announces",
        "Tokens that announce followers of {}",
        "third",
        "third",
    ),
    "query_key": _Reads(
        "Q", "Keys that {} attends to", "Queries that attend to {}", "key", "query"
    ),
    "context": _Reads(
        "Φ", "Tokens anywhere before {}", "Tokens with {} anywhere before", "before", "after"
    ),
}


@reading("track")
def write_explorer(
    dataset: xr.Dataset,
    path: str | os.PathLike,
    *,
    data: CorpusLike | None = None,
    token: str | None = None,
    max_steps: int | None = None,
    max_text: int = PAGE_TEXT,
    overwrite: bool = False,
) -> None:
    """Writes one HTML file in which any token of a `track` Dataset can be looked up.

    The file is self-contained: lists are packed into blocks, which the page unpacks when they are
    shown. The same arguments give the same bytes. Planted associations, of a Dataset that was
    recorded with a `truth`, are marked.

    Args:
      dataset: from `track`.
      path: path of the file.
      data: the corpus of the Dataset. With it the page shows the passages of an association.
      token: the token that is shown first; by default "bird", as in the documentation, or a word of
        medium frequency if the vocabulary has no "bird".
      max_steps: keep at most this many recorded steps, evenly spread; by default 24, or 12 for more
        than 1,500 tokens, to limit the size of the file.
      max_text: largest number of tokens of text in the page. Of a longer text the sequences whose
        bigrams have the highest scores are kept, and the page says so.
      overwrite: replace a page of other results that assocjax wrote.

    Raises:
      InputError: the Dataset is not from `track`, has over 65,536 tokens or lacks the token; `data`
        is another corpus; or the file cannot be written.
      InputTypeError: an argument has a wrong type.

    Cost: the file has about 25 bytes for each list of 10, of which there are 9 (2 L + 1) V for each
    step, and at most 3 bytes for each token of text: about 60 MB for V = 3,000, L = 3 and 12 steps.
    """
    page = explorer_page(dataset, data=data, token=token, max_steps=max_steps, max_text=max_text)
    write(path, page, overwrite)


@reading("track")
def explorer_page(
    dataset: xr.Dataset,
    *,
    data: CorpusLike | None = None,
    token: str | None = None,
    max_steps: int | None = None,
    max_text: int = PAGE_TEXT,
) -> str:
    """The page that `write_explorer` writes."""
    if max_steps is not None:
        max_steps = check_integer("max_steps", max_steps, minimum=2)
    max_text = check_integer("max_text", max_text, minimum=1)
    check_dataset(
        dataset, "track", ["composed_theory_id", "composed_theory_count"], "scoring token rank"
    )
    if dataset.sizes["token"] > 1 << 16:
        raise InputError(f"the explorer holds up to 65536 tokens; got {dataset.sizes['token']}")
    vocabulary = [str(word) for word in dataset["token"].values]
    if token is None and _EXAMPLE in vocabulary:
        token = _EXAMPLE
    if token is None:
        start = _middling(vocabulary, dataset["input_frequency"].values)
    else:
        start = find_token(token, vocabulary, dataset.attrs.get("corpus_name", "the results"))
    meta = {"start": start, "planted": _planted(dataset, vocabulary), "text": None}
    blocks = {}
    if data is not None:
        corpus = _same_corpus(dataset, as_token_data(data))
        rows = dataset.sel(scoring=SCORINGS[0], side="row")
        ids, scores = rows["bigram_theory_id"].values, rows["bigram_theory_score"].values
        blocks["text"], meta["text"] = pack_text(corpus, ids, scores, max_text)
    max_steps = max_steps or (24 if len(vocabulary) <= 1500 else 12)
    if dataset.sizes["step"] > max_steps:
        last = dataset.sizes["step"] - 1
        dataset = dataset.isel(step=np.rint(np.linspace(0, last, max_steps)).astype(int))
    blocks |= {
        f"{matrix}.{scoring}.{side}": _block(dataset.sel(scoring=scoring), matrix, side)
        for matrix in _READS
        for scoring in SCORINGS
        for side in (SIDES if matrix != "interchangeability" else SIDES[:1])
    }
    return fill("page.html", _SCRIPTS, _meta(dataset, vocabulary) | meta, blocks)


def _same_corpus(dataset: xr.Dataset, data: TokenData) -> TokenData:
    found = results.decode(dataset.attrs).get("corpus", {})
    if found.get("tokens_sha256") != data.tokens_sha256:
        # A file may have another name now; its content decides.
        other = difference(found, data.describe() | {"name": found.get("name")})
        raise InputError(f"data is not the corpus of the results: {other}")
    return data


def _planted(dataset: xr.Dataset, vocabulary: list[str]) -> dict[str, list[list[int]]]:
    """Pairs (row, column) of ids of each matrix in which the Dataset's truth has them."""
    ids = {word: i for i, word in enumerate(vocabulary)}
    planted = {}
    for kind, of in results.decode(dataset.attrs).get("truth", {}).items():
        pairs = [(ids[a], ids[b]) for a in of for b in of[a] if {a, b} <= ids.keys()]
        planted.setdefault(kind, []).extend(pairs)
        matrix, side = READ_AT[kind]
        if side == "column":  # Φ, which shows in the columns of another matrix
            planted.setdefault(matrix, []).extend((b, a) for a, b in pairs)
    return planted


def _meta(dataset: xr.Dataset, vocabulary: list[str]) -> dict:
    attributes = results.decode(dataset.attrs)
    names = ("corpus_name", "corpus_sha256", "corpus", "config", "versions", "device", "incomplete")
    return {
        "vocabulary": vocabulary,
        "frequency": _rounded(dataset["input_frequency"]),
        "steps": dataset["step"].values.tolist(),
        "layers": dataset["layer"].values.tolist(),
        "loss": _rounded(dataset["loss"]),
        "k": dataset.sizes["rank"],
        "scorings": list(SCORINGS),
        "matrices": [
            {
                "name": name,
                "theory": reads.theory,
                "weights": MATRICES.get(name),
                "layered": name in LAYERED,
                "sided": name != "interchangeability",
                "row": reads.row,
                "column": reads.column,
                "stands": {"row": reads.row_stands, "column": reads.column_stands},
            }
            for name, reads in _READS.items()
        ],
        # [scoring][side][matrix][layer][step]
        "mean": {
            scoring: {
                side: {name: _means(dataset.sel(scoring=scoring), name, side) for name in MATRICES}
                for side in SIDES
            }
            for scoring in SCORINGS
        },
        "provenance": {name: attributes[name] for name in names if attributes.get(name)},
    }


def _block(dataset: xr.Dataset, matrix: str, side: str) -> bytes:
    def values(what):
        found = dataset[f"{matrix}_{what}"]
        return (found.sel(side=side) if "side" in found.dims else found).values

    names = Lists._fields
    theory = Lists(*(values(f"theory_{name}".removesuffix("s")) for name in names))
    if matrix not in MATRICES:  # Phi, which no weight learns
        empty = np.zeros((0, 1, *theory.ids.shape))
        return pack(theory, Lists(empty, empty, empty), empty[..., 0])
    *lists, cosines = (values(name.removesuffix("s")) for name in (*names, "cosine"))
    if matrix in LAYERED:
        lists, cosines = [np.moveaxis(of, 1, 0) for of in lists], np.moveaxis(cosines, 1, 0)
    else:
        lists, cosines = [of[None] for of in lists], cosines[None]
    return pack(theory, Lists(*lists), cosines)


def _means(dataset: xr.Dataset, matrix: str, side: str) -> list:
    mean = mean_overlap(dataset, matrix, side).transpose(..., "step")
    return [_rounded(of) for of in mean.values.reshape(-1, mean.sizes["step"])]


def _rounded(values) -> list:
    return [None if not np.isfinite(v) else float(f"{v:.4g}") for v in np.asarray(values, float)]


def _middling(vocabulary: list[str], frequency: np.ndarray) -> int:
    """The id of a word of at least three letters whose frequency is in the middle of such words."""
    words = [i for i, word in enumerate(vocabulary) if word.isalpha() and len(word) > 2]
    words = words or list(range(len(vocabulary)))
    return sorted(words, key=lambda i: (-frequency[i], i))[len(words) // 2]

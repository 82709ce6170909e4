"""Writes the page with its style, its script and the data."""

import base64
import json
import os
import re
from importlib.resources import files

import numpy as np
import xarray as xr

from assocjax.analysis.formations import mean_overlap
from assocjax.analysis.scorings import LAYERED, MATRICES, SCORINGS, SIDES
from assocjax.arguments import check_integer
from assocjax.checks import check_dataset
from assocjax.corpora.tokens import find_token
from assocjax.errors import InputError, InputTypeError, reading
from assocjax.explorer._packing import pack
from assocjax.storage import SIGNATURE, results, whole_file

_EXAMPLE = "bird"
_READS = {  # symbol of the theory's matrix, title of a token's row list and of its column list
    "bigram": ("B", "Tokens that follow {}", "Tokens right before {}"),
    "interchangeability": ("B^T B", "Tokens used like {}", "Tokens used like {}"),
    "composed": ("Φ^T Σ", "Tokens that {} predicts from afar", "Tokens that predict {} from afar"),
    "value": (
        "Φ^T B^T",
        "Tokens whose followers {} announces",
        "Tokens that announce followers of {}",
    ),
    "query_key": ("Q", "Keys that {} attends to", "Queries that attend to {}"),
    "context": ("Φ", "Tokens anywhere before {}", "Tokens with {} anywhere before"),
}


@reading("track")
def write_explorer(
    dataset: xr.Dataset,
    path: str | os.PathLike,
    *,
    token: str | None = None,
    max_steps: int | None = None,
    overwrite: bool = False,
) -> None:
    """Writes one HTML file in which any token of a `track` Dataset can be looked up.

    The file is self-contained: lists are packed into blocks (see `packing`), which the page unpacks
    when they are shown. The same Dataset gives the same bytes.

    Args:
      dataset: from `track`.
      path: path of the file.
      token: the token that is shown first; by default "bird", as in the documentation, or a word of
        medium frequency if the vocabulary has no "bird".
      max_steps: keep at most this many recorded steps, evenly spread; by default 24, or 12 for more
        than 1,500 tokens, to limit the size of the file.
      overwrite: replace a page of other results that assocjax wrote.

    Raises:
      InputError: the Dataset is not from `track`, has over 65,536 tokens or lacks the token, or the
        file cannot be written.
      InputTypeError: dataset, path or number of steps has a wrong type.

    Cost: the file has about 17 bytes for each list of 10, and 9 (2 L + 1) V lists for each step:
    about 40 MB for V = 3,000, L = 3 and 12 steps.
    """
    if max_steps is not None:
        max_steps = check_integer("max_steps", max_steps, minimum=2)
    check_dataset(dataset, "track", ["composed_theory_id"], "scoring token rank")
    if not isinstance(path, str | os.PathLike):
        raise InputTypeError(f"path must be a path; got {path!r}")
    if dataset.sizes["token"] > 1 << 16:
        raise InputError(f"the explorer holds up to 65536 tokens; got {dataset.sizes['token']}")
    vocabulary = [str(word) for word in dataset["token"].values]
    if token is None and _EXAMPLE in vocabulary:
        token = _EXAMPLE
    if token is None:
        start = _middling(vocabulary, dataset["input_frequency"].values)
    else:
        start = find_token(token, vocabulary, dataset.attrs.get("corpus_name", "the results"))
    max_steps = max_steps or (24 if len(vocabulary) <= 1500 else 12)
    if dataset.sizes["step"] > max_steps:
        last = dataset.sizes["step"] - 1
        dataset = dataset.isel(step=np.rint(np.linspace(0, last, max_steps)).astype(int))
    blocks = {
        f"{matrix}.{scoring}.{side}": _block(dataset.sel(scoring=scoring), matrix, side)
        for matrix in _READS
        for scoring in SCORINGS
        for side in (SIDES if matrix != "interchangeability" else SIDES[:1])
    }
    scripts = (
        f'<script type="application/octet-stream" id="{name}">'
        f"{base64.b64encode(block).decode()}</script>"
        for name, block in blocks.items()
    )
    parts = {
        "SIGNATURE": SIGNATURE,
        "STYLE": _resource("style.css"),
        "SCRIPT": _resource("script.js"),
        "META": _json(_meta(dataset, vocabulary, start)),
        "BLOCKS": "\n".join(scripts),
    }
    page = re.sub(r"\[\[(\w+)\]\]", lambda place: parts[place[1]], _resource("page.html"))
    with whole_file(path, overwrite=overwrite) as part:
        part.write_text(page, "utf-8")


def _meta(dataset: xr.Dataset, vocabulary: list[str], start: int) -> dict:
    attributes = results.decode(dataset.attrs)
    names = ("corpus_name", "corpus_sha256", "corpus", "config", "versions", "device", "incomplete")
    return {
        "vocabulary": vocabulary,
        "start": start,
        "frequency": _rounded(dataset["input_frequency"]),
        "steps": dataset["step"].values.tolist(),
        "layers": dataset["layer"].values.tolist(),
        "loss": _rounded(dataset["loss"]),
        "k": dataset.sizes["rank"],
        "matrices": [
            {
                "name": name,
                "theory": theory,
                "weights": MATRICES.get(name),
                "layered": name in LAYERED,
                "sided": name != "interchangeability",
                "row": row,
                "column": column,
            }
            for name, (theory, row, column) in _READS.items()
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

    theory = values("theory_id"), values("theory_score")
    if matrix not in MATRICES:  # Phi, which no weight learns
        V, k = theory[0].shape
        empty = np.zeros((0, 1, V, k))
        return pack(*theory, empty, empty, empty[..., 0])
    found = [values(what) for what in ("id", "score", "cosine")]
    if matrix in LAYERED:
        found = [np.moveaxis(of, 1, 0) for of in found]
    else:
        found = [of[None] for of in found]
    return pack(*theory, *found)


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


def _json(content: dict) -> str:
    """JSON that is safe within a script element for any tokens."""
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _resource(name: str) -> str:
    return (files("assocjax.explorer") / name).read_text("utf-8")

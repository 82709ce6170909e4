"""Writes the page of a comparison of a language model with the theory."""

import gzip
import os

import numpy as np
import xarray as xr

from assocjax.checks import check_dataset
from assocjax.errors import reading
from assocjax.explorer._template import fill, write
from assocjax.storage import results

_SYMBOLS = {
    "bigram": "B",
    "context": "Φ",
    "interchangeability": "B^T B",
    "value": "Φ^T B^T",
    "composed": "Φ^T Σ",
    "query_key": "Q",
}
_SCRIPTS = ("elements.js", "comparison.js")


@reading("compare_revisions")
def write_comparison(
    dataset: xr.Dataset, path: str | os.PathLike, *, overwrite: bool = False
) -> None:
    """Writes one HTML file with every score of `llm.compare_revisions`.

    The page shows a score beside its controls, over revisions and over layers, and the tokens that
    add most to it. It is self-contained, and the same Dataset gives the same bytes.

    Args:
      dataset: from `llm.compare_revisions`, or its file `comparison.nc`.
      path: path of the file.
      overwrite: replace a page of other results that assocjax wrote.

    Raises:
      InputError: the Dataset is not from `compare_revisions`, or the file cannot be written.
      InputTypeError: an argument has a wrong type.

    Cost: the file has about 150 bytes for each score: 1 MB for 6 layers of 8 heads at 10 revisions.
    """
    write(path, comparison_page(dataset), overwrite)


@reading("compare_revisions")
def comparison_page(dataset: xr.Dataset) -> str:
    """The page that `write_comparison` writes."""
    names = ["similarity", "null_mean", "null_sd", "p", "top_token", "top_share"]
    check_dataset(dataset, "compare_revisions", names, "revision theory layer stream")
    check_dataset(dataset, "compare_revisions", ["token_count"], "token")
    blocks, dims = {}, {}
    for prefix in ("", "attention_"):
        for name in names:
            if prefix + name in dataset:
                values = dataset[prefix + name]
                last = [dim for dim in ("null", "rank") if dim in values.dims]
                values = values.transpose("revision", ..., *last)
                kind = "<i4" if name == "top_token" else "<f4"
                block = values.values.astype(kind).tobytes()
                blocks[prefix + name] = gzip.compress(block, 6, mtime=0)
                dims[prefix + name] = list(values.dims)
    attributes = results.decode(dataset.attrs)
    kept = ("model", "corpus_name", "corpus_sha256", "corpus", "config", "versions", "device")
    axes = ("revision", "residual", "theory", "centering", "layer", "stream", "null", "head")
    meta = {
        "axes": {name: dataset[name].values.tolist() for name in axes if name in dataset.coords},
        "dims": dims,
        "symbols": {name: _SYMBOLS.get(name, name) for name in dataset["theory"].values.tolist()},
        "vocabulary": [str(word) for word in dataset["token"].values],
        "counts": np.asarray(dataset["token_count"]).tolist(),
        "shared": [
            f"{', '.join(each['revisions'])}: {each['shared']} of {each['of']} {each['unit']}"
            for each in attributes.get("shared_weights", [])
        ],
        "provenance": {name: attributes[name] for name in kept if attributes.get(name)},
    }
    return fill("comparison.html", _SCRIPTS, meta, blocks)

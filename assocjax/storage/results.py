"""Results: files in standard formats that record their provenance."""

import contextlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from assocjax.arguments import check_is, check_path
from assocjax.errors import InputError
from assocjax.precision import chosen_precision
from assocjax.storage import (
    DECIDING,
    SIGNATURE,
    Folder,
    difference,
    flatten,
    version,
    whole_file,
)


class Corpus(Protocol):
    """The part of `TokenData` and `TokenFile` that results record."""

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    def describe(self) -> dict[str, object]: ...


Part = Callable[[str, Callable[[], xr.Dataset]], xr.Dataset]
"""Returns a named part of a result, given a function that computes it: see `parts_kept_in` and
`compute_anew`."""

LAYOUT = 4
"""Version of the layout of Datasets in files, part of a result's identity. To be raised when names
or dimensions change. Layout 1 had a variable for each weight and counted layers of language models
from 0; layout 2 did not say which weights have layers; layout 3 had no counts of associations and
no tokens that carry a score."""

_JSON = ("config", "corpus", "versions", "weights", "shared_weights", "truth")
_PACKAGES = ("assocjax", "jax", "jaxlib", "flax", "optax", "numpy", "xarray")


def provenance(data: Corpus, config: dict[str, Any]) -> dict[str, Any]:
    """Attributes that make a result reproducible: configuration, versions, device and corpus.

    `config`, `corpus` and `versions` are JSON, since NetCDF attributes are flat; see `decode`.
    There is no time stamp, so that the same computation gives the same file.
    """
    return {
        "config": json.dumps(config, sort_keys=True),
        "corpus": json.dumps(data.describe(), sort_keys=True),
        "corpus_name": data.name,
        "corpus_sha256": data.sha256,
        "versions": json.dumps(versions(), sort_keys=True),
        "device": jax.devices()[0].device_kind,
        "matmul_precision": chosen_precision() or "highest",
    }


_COORDINATES = {
    "learning_rate": "learning rate eta",
    "seed": "seed of the initial weights and of the order of batches",
    "init_scale": "standard deviation of the initial weights",
    "theory": "theory that the run is compared with",
    "quantity": "what is compared",
    "weight": "weight of the model",
    "has_layers": "whether the weight exists in every layer; otherwise it is at the last",
    "layer": "layer, from 1",
    "step": "number of updates made",
    "scoring": "how entries of a matrix are scored",
    "side": "row or column of a matrix, read as a list",
    "token": "token of the vocabulary",
    "other_token": "token of the vocabulary, of columns",
    "lag": "distance from a query back to its key, in positions",
    "matrix": "matrix of the theory",
    "rank": "place in a list, from 1",
    "epoch": "number of epochs made",
    "revision": "checkpoint of the language model",
    "text": "corpus",
}


def describe(dataset: xr.Dataset, names: Mapping[str, str] | None = None, units: str = "1"):
    """Gives variables and coordinates `long_name`, and numbers `units`, unless they have them.

    Args:
      dataset: is changed in place.
      names: `long_name` by variable or coordinate, besides the coordinates that results share.
      units: of those of `names` that are floating-point numbers.

    Returns:
      `dataset`.
    """
    names = names or {}
    for name, text in {**_COORDINATES, **names}.items():
        if name not in dataset.variables:
            continue
        variable = dataset.variables[name]
        variable.attrs.setdefault("long_name", text)
        if name == "step":
            variable.attrs.setdefault("units", "updates")
        elif variable.dtype.kind == "f":
            variable.attrs.setdefault("units", units if name in names else "1")
    return dataset


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version()} | {
        name: found for name in _PACKAGES if (found := version(name)) is not None
    }


def decode(attrs: dict[Any, Any]) -> dict[str, Any]:
    """Decodes the attributes that are JSON: see `provenance`."""
    return {name: json.loads(v) if name in _JSON else v for name, v in attrs.items()}


def save(dataset: xr.Dataset, path: str | os.PathLike, *, overwrite: bool = False) -> None:
    """Writes a Dataset as compressed NetCDF-4; a reader never sees a partly written file.

    Any text can be written. Strings that NetCDF cannot store, those with a NUL character or a lone
    surrogate, are escaped as in Python, and `load` restores them. For other readers the attribute
    `assocjax_escaped` lists them.

    An existing file is replaced only if assocjax wrote it and `overwrite` is true. If it has the
    same content already, nothing is done.

    Raises:
      InputError: the file exists with other content and `overwrite` is false, was not written by
        assocjax, or cannot be written.
    """
    check_is("dataset", dataset, xr.Dataset)
    with whole_file(path, overwrite=overwrite) as part:
        _write(dataset, part)


def save_to(folder: Folder, name: str, dataset: xr.Dataset) -> None:
    """As `save`, to a file of a claimed folder."""
    with folder.file(name) as part:
        _write(dataset, part)


def save_json_to(folder: Folder, name: str, content: Any) -> None:
    """Writes JSON; numbers that are not finite become null, since JSON has none."""
    with folder.file(name) as part:
        part.write_text(json.dumps(finite(content), indent=1, allow_nan=False) + "\n", "utf-8")


def _write(dataset: xr.Dataset, path: Path) -> None:
    encoding = {name: {"zlib": True} for name, v in dataset.data_vars.items() if v.ndim}
    signed = _encoded(dataset).assign_attrs(written_by=SIGNATURE)
    signed.to_netcdf(path, engine="netcdf4", encoding=encoding)


def load(path: str | os.PathLike) -> xr.Dataset:
    """Reads a file that `save` wrote, completely into memory.

    Raises:
      InputError: the file is missing, is not NetCDF, or has an earlier layout (`LAYOUT`).
    """
    with open_dataset(path) as dataset:
        return dataset.load()


def open_dataset(path: str | os.PathLike) -> xr.Dataset:
    """As `load`, but arrays are read when they are used; close it, or use it in a `with` block."""
    dataset = _open(path)
    found = [f"with a variable {name!r}" for name in _OF_LAYOUT_1 & dataset.variables.keys()]
    if {"weight", "layer"} <= set(dataset.dims) and "has_layers" not in dataset.coords:
        found.append("without a coordinate 'has_layers'")
    if found:
        dataset.close()
        raise InputError(
            f"{path} has an earlier layout, {min(found)}: compute it again (overwrite=True, "
            "--overwrite), or read it with xarray.open_dataset"
        )
    return dataset


_OF_LAYOUT_1 = {"output_cosine", "output_distance", "output_onset"}


def _open(path: str | os.PathLike) -> xr.Dataset:
    try:
        path = check_path("path", path)
        dataset = _decoded(xr.open_dataset(path, engine="netcdf4"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read results from {path}: {error}") from None
    dataset.attrs.pop("written_by", None)
    return dataset


_ESCAPED = "assocjax_escaped"


def _encoded(dataset: xr.Dataset) -> xr.Dataset:
    """Escapes the strings that NetCDF cannot store. Also drops the encoding of a file that was read
    before, such as the length of its strings, to which new strings would be cut."""
    dataset = dataset.drop_encoding()
    escaped = []  # [variable or None, attribute or None]
    for name, variable in dataset.variables.items():
        if variable.dtype.kind in "OU" and _cannot_be_held(variable.values):
            values = _each(_escape, variable.values)
            dataset[name] = (variable.dims, values, variable.attrs)
            escaped.append([name, None])
    for name in [None, *dataset.variables]:
        attrs = dataset.attrs if name is None else dataset[name].attrs
        for key in [key for key, value in attrs.items() if _cannot_be_held(value)]:
            attrs[key] = _each(_escape, attrs[key])
            escaped.append([name, key])
    return dataset.assign_attrs({_ESCAPED: json.dumps(escaped)}) if escaped else dataset


def _decoded(dataset: xr.Dataset) -> xr.Dataset:
    """The inverse of `_encoded`, in place, so that closing the Dataset closes its file."""
    for name, key in json.loads(dataset.attrs.pop(_ESCAPED, "[]")):
        if key is None:
            variable = dataset[name].variable
            dataset[name] = (variable.dims, _each(_unescape, variable.values), variable.attrs)
        else:
            attrs = dataset.attrs if name is None else dataset[name].attrs
            attrs[key] = _each(_unescape, attrs[key])
    for of in (dataset, *dataset.variables.values()):
        of.encoding = {}
    return dataset


def _each(change: Callable[[str], Any], value: Any) -> Any:
    """Applies `change` to a string, or to every string of a list or array."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "OU":
        changed = np.empty(value.shape, object)
        for place, element in np.ndenumerate(value):
            changed[place] = _each(change, element)
        return changed
    if isinstance(value, list | tuple):
        return [_each(change, element) for element in value]
    return change(value) if isinstance(value, str) else value


def _cannot_be_held(value: Any) -> bool:
    strings: list[str] = []
    _each(strings.append, value)
    return any("\0" in s or s.encode("utf-8", "ignore").decode() != s for s in strings)


def _escape(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")


def _unescape(text: str) -> str:
    return text.encode("ascii").decode("unicode_escape")


def identity(data: Corpus | None, config: dict[str, Any]) -> dict[str, Any]:
    """All that determines a result: configuration, corpus, precision, layout and versions."""
    corpus = {} if data is None else data.describe()
    return flatten(
        {
            "config": config,
            "corpus": corpus,
            "precision": str(jnp.result_type(float)),
            "matmul_precision": chosen_precision() or "highest",
            "layout of files": LAYOUT,
            "versions": {name: versions()[name] for name in DECIDING},
        }
    )


def compute_anew(name: str, compute: Callable[[], xr.Dataset]) -> xr.Dataset:
    """The `Part` that computes every part and keeps none."""
    return compute()


def reuse(path: Path, decides: Mapping[str, Any], *, overwrite: bool = False) -> xr.Dataset | None:
    """Loads a Dataset that `keep` wrote; None if there is none, or another one may be overwritten.

    Raises:
      InputError: the file has another configuration or corpus (the message names the difference)
        and `overwrite` is false.
    """
    if not os.path.exists(path):
        return None
    with _open(path) as opened:  # any layout: it is part of the identity compared below
        dataset = opened.load()
    try:
        theirs = json.loads(dataset.attrs.pop("decided_by"))
    except (KeyError, ValueError):
        raise InputError(f"out: {path} is not a result that can be reused") from None
    other = difference(theirs, decides)
    if other is not None and not overwrite:
        raise InputError(
            f"out: {path} is of another configuration: {other}; choose another folder, or replace "
            "it with overwrite=True (--overwrite)"
        )
    return None if other is not None else dataset


def keep(folder: Folder, name: str, dataset: xr.Dataset, decides: Mapping[str, Any]) -> None:
    """Saves a Dataset for `reuse`, with its identity, JSON values, as an attribute."""
    save_to(folder, name, dataset.assign_attrs(decided_by=json.dumps(decides, sort_keys=True)))


def parts_kept_in(folder: Folder) -> Part:
    """Returns a `Part` that keeps each computed part in a folder and loads it from there next time.

    The parts are removed when the whole result is finished (`Folder.finish`).
    """

    def part(name: str, compute: Callable[[], xr.Dataset]) -> xr.Dataset:
        file = f"{name.replace(' ', '-')}.nc"
        if not folder.has_work(file):
            dataset = compute()
            save_to(folder, folder.work_name(file), dataset)
        return load(folder.path / folder.work_name(file))

    return part


@contextlib.contextmanager
def stoppable(folder: Folder) -> Iterator[None]:
    """On Ctrl-C, adds to the KeyboardInterrupt where finished parts are kept, if there are any."""
    try:
        yield
    except KeyboardInterrupt:
        if not folder.files:
            raise
        raise KeyboardInterrupt(
            f"interrupted; finished parts are kept in {folder.path}: run the same again to resume"
        ) from None


def finite(content: Any) -> Any:
    """Converts to JSON values: None for numbers that are not finite, lists for tuples and arrays,
    Python numbers for NumPy numbers (as attributes read from a file are)."""
    if isinstance(content, np.generic | np.ndarray):
        content = content.tolist()
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    if isinstance(content, float) and not abs(content) < float("inf"):
        return None
    return content

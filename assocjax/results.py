"""Results are files in standard formats that say where they came from."""

import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from assocjax.corpora import TokenData, TokenFile
from assocjax.errors import InputError
from assocjax.linalg import chosen_precision
from assocjax.statistics import Statistics

Part = Callable[[str, Callable[[], xr.Dataset]], xr.Dataset]
"""Of a part's name and what computes it, the part: see `unfinished` and `compute_anew`."""

_JSON = ("config", "corpus", "versions", "weights", "identical_revisions")
_PACKAGES = ("assocjax", "jax", "jaxlib", "flax", "optax", "numpy", "xarray")


def provenance(data: TokenData | TokenFile, config: dict[str, Any]) -> dict[str, Any]:
    """Attributes that make a result reproducible: configuration, versions, device and corpus.

    `config`, `corpus` and `versions` are JSON, since NetCDF attributes are flat; see `decode`.
    No time of day is among them: the same computation gives the same file.
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


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    return {"python": platform.python_version(), **_packages()}


@functools.cache  # a search of every folder that is imported from
def _packages() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def decode(attrs: dict[Any, Any]) -> dict[str, Any]:
    """Attributes with their JSON decoded: see `provenance`."""
    return {name: json.loads(v) if name in _JSON else v for name, v in attrs.items()}


def statistics_dataset(data: TokenData | TokenFile, statistics: Statistics) -> xr.Dataset:
    """Statistics with tokens for coordinates: matrices over (`token`, `other_token`)."""
    dims = {1: ("token",), 2: ("token", "other_token")}
    variables = {}
    for name in statistics.__dataclass_fields__:  # type: ignore[attr-defined]
        value = np.asarray(getattr(statistics, name))
        variables[name] = (("lag",) if name == "position" else dims.get(value.ndim, ()), value)
    vocabulary = np.array(data.vocabulary, dtype=object)
    coords = {"token": vocabulary, "other_token": vocabulary, "lag": np.arange(data.seq_len)}
    return xr.Dataset(variables, coords, provenance(data, {}))


def statistics_summary(dataset: xr.Dataset) -> list[dict[str, Any]]:
    """Frobenius norm and largest entry, with its tokens, of each matrix."""
    rows = []
    for name, variable in dataset.data_vars.items():
        if variable.dims == ("token", "other_token"):
            matrix = variable.values
            i, j = np.unravel_index(np.argmax(matrix), matrix.shape)
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


def output_folder(path: str | os.PathLike) -> Path:
    """Makes a folder and proves that a file can be written in it, before any work is done.

    Raises:
      InputError: it cannot be made or written.
    """
    folder = Path(path)
    probe = folder / f".write-test-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # of two machines, processes may have one number
    except FileExistsError:
        raise InputError(f"output folder {folder} cannot be made: it is a file") from None
    except OSError as error:
        raise InputError(f"output folder {folder} cannot be written: {error.strerror}") from None
    return folder


def save(dataset: xr.Dataset, path: str | os.PathLike) -> None:
    """Writes NetCDF-4, compressed; a reader never sees a file that is half written.

    Text is written whatever it is. Strings that NetCDF cannot hold, with a NUL or a lone surrogate,
    are escaped as in Python, and `load` undoes it: other readers find their places in the attribute
    `assocjax_escaped`.

    Raises:
      InputError: the file cannot be written.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    encoding = {name: {"zlib": True} for name, v in dataset.data_vars.items() if v.ndim}
    try:
        _encoded(dataset).to_netcdf(part, engine="netcdf4", encoding=encoding)
        part.replace(path)
    except (OSError, RuntimeError) as error:  # HDF tells so of a full disk
        reason = getattr(error, "strerror", None) or f"{error} (is the disk full?)"
        raise InputError(f"cannot write results to {path}: {reason}") from None
    finally:
        part.unlink(missing_ok=True)


def load(path: str | os.PathLike) -> xr.Dataset:
    """Reads a file that `save` wrote, wholly into memory.

    Raises:
      InputError: the file is missing or no NetCDF.
    """
    with open_dataset(path) as dataset:
        return dataset.load()


def open_dataset(path: str | os.PathLike) -> xr.Dataset:
    """As `load`, but arrays are read when they are used; to be closed, as by `with`."""
    try:
        return _decoded(xr.open_dataset(path, engine="netcdf4"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read results from {path}: {error}") from None


_ESCAPED = "assocjax_escaped"


def _encoded(dataset: xr.Dataset) -> xr.Dataset:
    """What NetCDF can hold. How a file held it that was read before, such as the length of its
    strings, is forgotten: other strings would be cut to it."""
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
    """The inverse, in place, so that closing the Dataset closes its file."""
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
    """A string, or every string of a list or an array, changed."""
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


def identity(data: TokenData | None, config: dict[str, Any]) -> dict[str, Any]:
    """All that decides a result: flat, with values as JSON returns them."""
    versions = {name: importlib.metadata.version(name) for name in ("assocjax", "jax")}
    precision = {"precision": str(jnp.result_type(float))}
    corpus = {} if data is None else data.describe()
    of = {"corpus": corpus, **config, **precision, "versions": versions}
    return json.loads(json.dumps(dict(_flat(of))))


def _flat(tree: dict[str, Any], prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def compute_anew(name: str, compute: Callable[[], xr.Dataset]) -> xr.Dataset:
    """The `Part` that keeps nothing."""
    return compute()


def reuse(path: Path, decides: Mapping[str, Any], whole: Path | None = None) -> xr.Dataset | None:
    """The Dataset of a file that `keep` wrote, or None without one.

    `whole` is the folder of all that goes with it, if it does not stand alone.

    Raises:
      InputError: it is of another configuration or corpus; names what differs.
    """
    if not path.exists():
        return None
    dataset = load(path)
    try:
        theirs = json.loads(dataset.attrs.pop("decided_by"))
    except (KeyError, ValueError):
        raise InputError(f"out: {path} is no result that can be used again") from None
    for key in sorted(decides.keys() | theirs.keys()):
        if decides.get(key) != theirs.get(key):
            raise InputError(
                f"out: {path} is of another configuration: its {key} is {theirs.get(key)!r}, here "
                f"it is {decides.get(key)!r}; choose another folder, or delete {whole or path} to "
                "begin anew"
            )
    return dataset


def keep(dataset: xr.Dataset, path: Path, decides: Mapping[str, Any]) -> None:
    """Saves a Dataset for `reuse`, with all that decides it, as JSON can hold it."""
    save(dataset.assign_attrs(decided_by=json.dumps(decides, sort_keys=True)), path)


@contextlib.contextmanager
def unfinished(folder: Path, decides: Mapping[str, Any]) -> Iterator[Part]:
    """Keeps the parts of a result until all of them are there, so that a stopped run loses none.

    Yields a function of a part's name and of what computes its Dataset: it returns the one that is
    kept in the folder (see `reuse`), or computes and keeps it. At the end the folder goes.
    """
    folder = output_folder(folder)
    for path in folder.glob("*.nc"):  # before any work
        reuse(path, decides, whole=folder)

    def part(name: str, compute: Callable[[], xr.Dataset]) -> xr.Dataset:
        path = folder / f"{name.replace(' ', '-')}.nc"
        dataset = reuse(path, decides)
        if dataset is None:
            dataset = compute()
            keep(dataset, path, decides)
        return dataset

    try:
        yield part
    except BaseException as error:
        with contextlib.suppress(OSError):
            folder.rmdir()  # where nothing has been kept
        if isinstance(error, KeyboardInterrupt) and folder.exists():
            kept = f"interrupted; what is finished is in {folder}: run the same again to go on"
            raise KeyboardInterrupt(kept) from None
        raise
    shutil.rmtree(folder)


def save_json(content: Any, path: str | os.PathLike) -> None:
    """Writes JSON; numbers that are not finite become null, as the standard demands."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(finite(content), indent=1, allow_nan=False) + "\n", "utf-8")
    part.replace(path)


def finite(content: Any) -> Any:
    """The same lists and dicts with None for numbers that are not finite, and lists for tuples."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    if isinstance(content, float) and not abs(content) < float("inf"):
        return None
    return content

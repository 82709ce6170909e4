"""Datasets of the Hugging Face hub, and local folders in the same formats, streamed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from assocjax.arguments import printable
from assocjax.errors import InputError

_PROBE_SECONDS = 10


def open_dataset(source: str) -> tuple[str, Callable[[], Iterator[Any]]]:
    """Opens a dataset whose rows are streamed; only the rows that are read are downloaded.

    Args:
        source: `owner/name[:split]` of a dataset on the hub, or `folder[:split]` with local files
            that `datasets` can read (parquet, jsonl, csv, txt). The split is `train` by default.

    Returns:
        The dataset's name for results, `hf:owner/name:split`, and a function that returns an
        iterator over its rows.

    Raises:
        InputError: If `datasets` is not installed, the hub cannot be reached, or there is no such
            dataset or split. The iterator raises it too, if a download fails.
    """
    name, split = _split_name(source)
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"corpus: 'hf:{source}' needs the library datasets: pip install 'assocjax[data]'"
        ) from None

    label = f"hf:{name}:{split}"
    local = os.path.isdir(name)
    try:
        if not local:
            _probe(name)
        dataset = datasets.load_dataset(name, split=split, streaming=True)
    # Network, hub, file system and format errors have no common base class.
    except Exception as error:
        raise InputError(f"corpus: cannot read {label!r}: {_reason(error)}") from None
    if local:
        label = f"hf:{printable(os.path.basename(os.path.abspath(name)))}:{split}"
    return label, partial(_rows, dataset, label)


def commit_of(source: str) -> str | None:
    """The commit of a dataset on the hub, which decides its content, from one question to the hub.

    None for a local folder, and if the hub cannot be asked.
    """
    from huggingface_hub import HfApi, constants

    try:
        name, _ = _split_name(source)
        if os.path.isdir(name) or constants.HF_HUB_OFFLINE:
            return None
        return HfApi().dataset_info(name, timeout=_PROBE_SECONDS).sha
    except Exception:  # as in `open_dataset`; reading the dataset says what is wrong
        return None


def _split_name(source: str) -> tuple[str, str]:
    if os.path.isdir(source):  # the path of a folder may contain a colon
        return source, "train"
    name, colon, split = source.rpartition(":")
    if not colon:
        name, split = source, "train"
    is_dataset = re.fullmatch(r"[^./~:][^/:]*(/[^/:]+)?", name)
    if not split or not (os.path.isdir(name) or is_dataset):
        raise InputError(
            f"corpus: expected hf:owner/name[:split] or hf:FOLDER[:split] with an existing folder, "
            f"got 'hf:{source}'"
        )
    return name, split


def _probe(name: str) -> None:
    """Asks the hub once for the dataset, because `datasets` retries for half a minute."""
    from huggingface_hub import HfApi, constants

    # If the user chose offline mode, `datasets` fails at once, or finds the dataset in its cache.
    if not constants.HF_HUB_OFFLINE:
        HfApi().dataset_info(name, timeout=_PROBE_SECONDS)


def _reason(error: Exception) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return "access is restricted; accept its terms on the hub and log in"
    if "RepositoryNotFoundError" in kinds:
        return "no such dataset on the hub, or it is private"
    text = (str(error) or type(error).__name__).splitlines()[0]
    if kinds & {"ConnectionError", "TransportError", "TimeoutError", "Timeout"}:
        return f"the Hugging Face hub cannot be reached ({text})"
    return text


def _rows(dataset: Any, label: str) -> Iterator[Any]:
    try:
        yield from dataset
    except Exception as error:  # as in `open_dataset`
        raise InputError(f"corpus: cannot read {label!r}: {_reason(error)}") from None

"""Which checkpoints hold the same weights, tensor by tensor.

Names of checkpoints do not tell. Of hosted Pythia checkpoints several are another step's whole
(EleutherAI/pythia, issues 83, 195, 198 and 205), one shard of three is another step's (206), and
equal tensors lie in files that differ. Ask before you believe a curve over steps.
"""

import hashlib
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from assocjax.errors import InputError
from assocjax.llm.architectures import COMPUTED
from assocjax.llm.files import (
    ModelFiles,
    Part,
    find_model,
    is_local,
    of_every_revision,
    weight_parts,
)
from assocjax.llm.libraries import reason, require

_CHUNK = 1 << 22


class SharedWeights(NamedTuple):
    """What some revisions have in common.

    Attributes:
        revisions: Two or more, in the order asked for.
        unit: What is counted: "tensors"; "files", of models on the hub.
        shared: How many all of these revisions have, under the same name.
        of: How many there are, in the revision that has most.
        size: Parameters of the shared tensors, or bytes of the shared files.
        of_size: Parameters or bytes in all, in the revision that has most.
    """

    revisions: tuple[str, ...]
    unit: str
    shared: int
    of: int
    size: int
    of_size: int

    @property
    def identical(self) -> bool:
        """Whether the revisions have all in common."""
        return self.shared == self.of

    def __str__(self) -> str:
        names = ", ".join(self.revisions)
        if self.identical:
            return f"{names} have the same weights, all {self.of} {self.unit}"
        what = {"tensors": "parameters", "files": "bytes"}[self.unit]
        share = f"{self.size / self.of_size:.1%} of the {what}" if self.of_size else f"no {what}"
        return f"{names} share {self.shared} of {self.of} {self.unit}, {share}"


def shared_weights(
    name_or_path: str | os.PathLike[str], revisions: Sequence[str]
) -> list[SharedWeights]:
    """Revisions that have weights in common, all or some.

    Of folders, tensors are compared: by name, type, shape and values (0 equals -0), whatever files
    they lie in. Tables that old checkpoints hold, and that are the same for all, do not count. Of
    the hub, whole files are compared by its own hashes, and nothing is downloaded: two files that
    differ may hold equal tensors. `compare_revisions`, which loads every revision, compares tensors
    of the hub too.

    Args:
        name_or_path: A model, see `assocjax.llm.files`.
        revisions: Those to compare.

    Returns:
        Each set of revisions that have a tensor in common which no other revision has, or that have
        all in common; those that share most first. None if no two have any.

    Raises:
        InputError: As `find_model`, in one line for all revisions; if weights are corrupt or cut
            short, or the extra `llm` is not installed.

    Cost: of folders one reading of all weights, some 500 MB/s, with a few MB of memory (of
    PyTorch's old format, from before version 1.6, a whole file); of the hub a request a revision.
    """
    revisions = list(dict.fromkeys(revisions))
    local = is_local(name_or_path, next(iter(revisions), None))

    def parts(revision: str | None) -> dict[str, Part]:
        if local:
            return tensor_hashes(find_model(name_or_path, revision))
        # Under another name it is the same file.
        return {part.sha256: part for part in weight_parts(name_or_path, revision).values()}

    found = of_every_revision(parts, revisions)
    return group_shared(dict(zip(revisions, found, strict=True)), "tensors" if local else "files")


def group_shared(parts: Mapping[str, Mapping[str, Part]], unit: str) -> list[SharedWeights]:
    """As `shared_weights`, of revision -> name -> part."""
    holders: dict[Any, list[str]] = {}
    for revision, of in parts.items():
        for part in (*of.items(), frozenset(of.items())):  # each, and all of them
            holders.setdefault(part, []).append(revision)
    found = []
    for revisions in {tuple(names) for names in holders.values() if names[1:]}:
        of = [parts[revision] for revision in revisions]
        common = set.intersection(*(set(each.items()) for each in of))
        if common:
            size = sum(part.size for _, part in common)
            largest = max(sum(part.size for part in each.values()) for each in of)
            found.append(
                SharedWeights(revisions, unit, len(common), max(map(len, of)), size, largest)
            )
    order = {revision: place for place, revision in enumerate(parts)}
    return sorted(found, key=lambda s: (-s.shared, -s.size, [order[r] for r in s.revisions]))


def tensor_hashes(files: ModelFiles) -> dict[str, Part]:
    """Name of each tensor -> SHA-256 of type, shape and values, and its number of entries.

    Of a GGUF file, which has no revisions, none.
    """
    return {
        name: Part(_hash(tensor), tensor.numel())
        for name, tensor in read_tensors(files)
        if not name.endswith(COMPUTED)
    }


def read_tensors(files: ModelFiles) -> Iterator[tuple[str, Any]]:
    """Names and tensors, one at a time; of a GGUF file none.

    Raises:
        InputError: If a file is corrupt or cut short; names it.
    """
    for name in () if files.is_gguf else files.weights:
        path = files.folder / name
        try:
            yield from (_safetensors if name.endswith(".safetensors") else _pytorch)(path)
        except Exception as error:  # of many kinds
            raise InputError(
                f"model: the weights {str(path)!r} are corrupt or cut short ({reason(error)})"
            ) from None


def _safetensors(path: os.PathLike[str]) -> Iterator[tuple[str, Any]]:
    with require("safetensors").safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            yield name, file.get_tensor(name)


def _pytorch(path: os.PathLike[str]) -> Iterator[tuple[str, Any]]:
    torch = require("torch")
    # Only zip files can be mapped into memory.
    mapped = zipfile.is_zipfile(path)
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    yield from ((name, value) for name, value in state.items() if torch.is_tensor(value))


def _hash(tensor: Any) -> str:
    """By pieces, so that memory is bounded."""
    torch = require("torch")
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    signed = tensor.is_floating_point() and tensor.itemsize > 1
    for piece in tensor.reshape(-1).split(_CHUNK):
        piece = piece + 0 if signed else piece  # -0 becomes 0
        digest.update(piece.view(torch.uint8).numpy())
    return digest.hexdigest()

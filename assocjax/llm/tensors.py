"""Which checkpoints hold the same weights, tensor by tensor.

The names of checkpoints are not reliable. Several hosted Pythia checkpoints are copies of another
step (EleutherAI/pythia, issues 83, 195, 198 and 205), one has one of three shards from another step
(206), and equal tensors occur in different files. Check this before you trust a curve over steps.
"""

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from safetensors import safe_open

from assocjax.errors import InputError
from assocjax.llm._architectures import COMPUTED
from assocjax.llm.files import (
    ModelFiles,
    Part,
    check_list,
    find_model,
    is_embedding,
    is_local,
    of_every_revision,
    weight_parts,
)
from assocjax.llm.libraries import reason, require

_CHUNK = 1 << 22
_UNEMBEDDINGS = ("lm_head.weight", "embed_out.weight")


class SharedWeights(NamedTuple):
    """Weights that some revisions have in common.

    Attributes:
        revisions: Two or more revisions, in the given order.
        unit: The unit of `shared` and `of`: "tensors", or "files" for models on the hub.
        shared: Number of tensors or files that all of these revisions have.
        of: Number of tensors or files in the revision that has most.
        size: Parameters of the shared tensors, or bytes of the shared files.
        of_size: Total number of parameters or bytes in the revision that has most.
    """

    revisions: tuple[str, ...]
    unit: str
    shared: int
    of: int
    size: int
    of_size: int

    @property
    def identical(self) -> bool:
        """Whether the revisions have all weights in common."""
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
    """Revisions that have all or some of their weights in common.

    In folders, tensors are compared by name, type, shape and values (0 equals -0), in whichever
    files they are stored. Tables that old checkpoints contain, and that are the same for all, are
    ignored. On the hub, whole files are compared by the hub's hashes, and nothing is downloaded:
    two different files may contain equal tensors. `compare_revisions`, which loads every revision,
    compares tensors for models of the hub too.

    Args:
        name_or_path: A model, see `assocjax.llm.files`.
        revisions: The revisions to compare.

    Returns:
        Each set of revisions that share a tensor which no other revision has, or that share all
        tensors; sets that share most come first. Empty if no two revisions share any.

    Raises:
        InputError: As `find_model`, in one line for all revisions; if weights are corrupt or
            truncated, or the extra `llm` is not installed.
        InputTypeError: If an argument has another type.

    Cost: for folders, reading all weights once, about 500 MB/s, with a few MB of memory (for
    PyTorch's format before version 1.6, a whole file); for the hub, one request for each revision.
    """
    check_list(revisions)
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
    """Like `shared_weights`, from a mapping revision -> name -> part."""
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


def tensor_hashes(files: ModelFiles, *, only: str | None = None) -> dict[str, Part]:
    """Name of each tensor -> SHA-256 of type, shape and values, and its number of entries.

    Without tables that are computed, and an unembedding that equals the embedding: PyTorch's format
    stores tied weights twice, safetensors once. With `only`, as in `find_model`, embeddings alone.
    Empty for a GGUF file, which has no revisions.
    """

    def wanted(name: str) -> bool:
        return is_embedding(name) if only else not name.endswith(COMPUTED)

    parts = {
        name: Part(_hash(tensor), tensor.numel())
        for name, tensor in read_tensors(files, wanted=wanted)
    }
    embeddings = {part for name, part in parts.items() if is_embedding(name)}
    return {
        name: part
        for name, part in parts.items()
        if not (name.endswith(_UNEMBEDDINGS) and part in embeddings)
    }


def read_tensors(
    files: ModelFiles, framework: str = "pt", wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[str, Any]]:
    """Names and tensors, one at a time; none for a GGUF file.

    Args:
        files: Where they are.
        framework: Of the tensors: "pt", or "flax" if all files are in safetensors.
        wanted: Whether the tensor of a name is to be read.

    Raises:
        InputError: If a file is corrupt or truncated; the error names it.
    """
    for name in () if files.is_gguf else files.weights:
        path = files.folder / name
        try:
            if name.endswith(".safetensors"):
                yield from _safetensors(path, framework, wanted)
            else:
                yield from _pytorch(path, wanted)
        except Exception as error:  # the libraries raise many types
            raise InputError(
                f"model: the weights {str(path)!r} are corrupt or cut short ({reason(error)})"
            ) from None


def check_complete(
    files: ModelFiles, *, lacking: list[str], mismatched: list[str], superfluous: list[str]
) -> None:
    """Raises an InputError that names the first weight that does not fit the configuration."""
    wrong = {
        "lack": lacking,
        "have another shape in": mismatched,
        "hold besides": superfluous,
    }
    for what, names in wrong.items():
        if names:
            more = f" and {len(names) - 1} more" if names[1:] else ""
            raise InputError(
                f"model: the weights {', '.join(files.weights)} in {str(files.folder)!r} {what} "
                f"{min(names)!r}{more}, against their configuration"
            )


def _safetensors(
    path: os.PathLike[str], framework: str, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, Any]]:
    with safe_open(path, framework=framework) as file:
        for name in filter(wanted, file.keys()):
            yield name, file.get_tensor(name)


def _pytorch(path: os.PathLike[str], wanted: Callable[[str], bool]) -> Iterator[tuple[str, Any]]:
    torch = require("torch")
    # Only zip files can be mapped into memory.
    mapped = zipfile.is_zipfile(path)
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    for name, value in state.items():
        if torch.is_tensor(value) and wanted(name):
            yield name, value


def _hash(tensor: Any) -> str:
    """In chunks, so that memory is bounded."""
    torch = require("torch")
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    signed = tensor.is_floating_point() and tensor.itemsize > 1
    for piece in tensor.reshape(-1).split(_CHUNK):
        piece = piece + 0 if signed else piece  # -0 becomes 0
        digest.update(piece.view(torch.uint8).numpy())
    return digest.hexdigest()

"""Shared by the commands that count a corpus: dense or sparse matrices, and shards of them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from assocjax.cli._corpus import AnyCorpus
from assocjax.cli._options import options
from assocjax.errors import InputError

if TYPE_CHECKING:
    from assocjax.corpora import TokenData, TokenFile

DENSE_VOCAB_SIZE = 8192
"""Dense statistics of a larger vocabulary would take several GiB."""


@options("Tokens")
class Counted(AnyCorpus):
    """A corpus, and the form of its statistics."""

    matrices: Literal["auto", "dense", "sparse"] = "auto"
    """dense [V, V], about 12 of them in memory, or sparse (float64, on the CPU); auto is sparse for
    V above 8192 and for token files"""

    def is_sparse(self, data: "TokenData | TokenFile") -> bool:
        from assocjax.corpora import TokenFile

        if self.matrices != "auto":
            return self.matrices == "sparse"
        return data.vocab_size > DENSE_VOCAB_SIZE or isinstance(data, TokenFile)


def folder_of_shards(out: Path) -> Path:
    """A folder to which single files are added; it must not hold the results of a command."""
    from assocjax.storage import MARKER, check_claimable, make_folder

    if os.path.isfile(out / MARKER):
        check_claimable(out, "statistics")
        raise InputError(
            f"folder {out} holds complete statistics; shards, and what is merged from them, need a "
            "folder of their own: choose another with --out"
        )
    return make_folder(out)

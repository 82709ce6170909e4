"""Saving results and unfinished work: no file of the user is lost, and results are never mixed.

In reading order:

* `files`: `whole_file` writes a file atomically, and never replaces a file that is not ours.
* `_identity`: all that determines a result, and the first difference between two of them.
* `_locks`: only one process at a time writes in a folder or a file.
* `_folders`: `claim` reserves a folder for the results of one process. Its marker file names the
  computation and the files that assocjax wrote; only these are ever replaced or removed.
* `_interrupts`: the first Ctrl-C stops after the next save, the second one at once.
* `results`: Datasets and JSON with their provenance: configuration, versions, corpus.
* `checkpoints`: arrays of unfinished work, written atomically by one or several processes.
* `display`: how objects that hold arrays are shown: by shapes, dtypes and names.

`results` and `checkpoints` need xarray and JAX and are imported only where they are used.

Throughout this package, "ours" and "we" mean assocjax, and "atomically" means completely or not at
all.
"""

from assocjax.storage._folders import MARKER, Folder, check_claimable, claim
from assocjax.storage._identity import DECIDING, difference, flatten, version
from assocjax.storage._interrupts import Interrupts, deferred_interrupts
from assocjax.storage._locks import hold, locked
from assocjax.storage.files import SIGNATURE, is_ours, make_folder, whole_file

__all__ = [
    "DECIDING",
    "MARKER",
    "SIGNATURE",
    "Folder",
    "Interrupts",
    "check_claimable",
    "claim",
    "deferred_interrupts",
    "difference",
    "flatten",
    "hold",
    "is_ours",
    "locked",
    "make_folder",
    "version",
    "whole_file",
]

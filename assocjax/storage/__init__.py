"""How work is kept, in one way for everything: nothing of the user's is lost, nothing is mixed.

In reading order:

* `files`: `whole_file` writes a file whole or not at all, and never over one of somebody else's.
* `identity`: what decides a result, and the first difference of two of them, in words.
* `locks`: one process writes in a folder, or in a file, at a time.
* `folders`: `claim` makes a folder of results ours, for one process at a time: a marker file says
  which computation it holds and which files we wrote; only those are ever replaced or removed.
* `interrupts`: the first Ctrl-C stops after the next save, the second one at once.
* `results`: Datasets and JSON that say where they came from: configuration, versions, corpus.
* `checkpoints`: arrays of unfinished work, whole or not at all, of one process or several.

The last two need xarray and JAX, and are imported by those who use them.
"""

from assocjax.storage.files import SIGNATURE, is_ours, make_folder, whole_file
from assocjax.storage.folders import MARKER, Folder, check_claimable, claim
from assocjax.storage.identity import difference, flatten
from assocjax.storage.interrupts import Interrupts, deferred_interrupts
from assocjax.storage.locks import hold, locked

__all__ = [
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
    "whole_file",
]

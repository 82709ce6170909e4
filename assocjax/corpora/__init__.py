"""From the name of a corpus to arrays of token ids. Needs no JAX.

In reading order:

* `fables`: the built-in default corpus, with planted associations as ground truth.
* `sources`: `read_documents`, from a name, a path or a hub dataset to documents (`_files` and
  `_hub` read them in blocks).
* `compilation`: loops that Numba compiles.
* `tokenizers`: `words`, the paper's tokeniser (compiled in `_words`), and BPE; from documents to
  one stream of ids.
* `_layout`: from the stream to a vocabulary and to sequences, cut, windowed or padded.
* `tokens`: `load_tokens`, all of the above in one call, and its result, `TokenData`.
* `token_files`: the same on disk, for corpora larger than memory: `open_tokens`; files of other
  tools too (`_formats`).
* `writing`: `write_tokens`, which tokenises a corpus of any size to such a file, and can be
  resumed (`_numbers`).
"""

from assocjax.corpora import fables
from assocjax.corpora.sources import Documents, read_documents
from assocjax.corpora.token_files import TokenFile, open_tokens
from assocjax.corpora.tokenizers import train_bpe, words
from assocjax.corpora.tokens import TokenData, load_tokens
from assocjax.corpora.writing import write_tokens

__all__ = [
    "Documents",
    "TokenData",
    "TokenFile",
    "fables",
    "load_tokens",
    "open_tokens",
    "read_documents",
    "train_bpe",
    "words",
    "write_tokens",
]

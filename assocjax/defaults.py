"""What both the functions of the library and the options of the command line offer, stated once.

The names that an argument can have, and the defaults that are no plain 0, None or False. Imports
nothing heavy: `assocjax --help` does not wait for JAX.
"""

from typing import Literal

VOCAB_SIZE = 256
SEPARATOR = "<|endoftext|>"
TEXT_FIELD = "text"

Oov = Literal["unk", "drop"]
"""What becomes of a token outside the vocabulary: itself, or its whole document."""

Long = Literal["window", "cut"]
"""What becomes of documents that are longer than a sequence."""

Short = Literal["drop", "pad"]
"""What becomes of shorter ones."""

MATRICES: tuple[str, ...] = (
    "bigram",
    "context",
    "interchangeability",
    "value",
    "composed",
    "query_key",
)
"""The basis functions, and what they compose to."""

TOP = 10
"""Associations or documents in a list."""

EDITS = ("remove", "keep", "replace", "swap")
DRAWS = 16

THEORIES = ("leading", "effective")
GRADIENTS = ("exact", *THEORIES)
MEMORY_LIMIT = 4 << 30

THRESHOLD = 0.1
"""Relative error at which a theory has ended."""

TRACKED_INIT_SCALE = 1e-5
"""From a zero start the theory's associations are there at once, in no order."""

PROBES = ("single", "occurrence")
"""A token alone, as in the paper, or its mean over its occurrences in the text."""

MIN_COUNT = 10
NUM_SEQUENCES = 4000
NUM_TOKENS = 2000
NUM_SHUFFLES = 100
NUM_BINS = 10

SCALES: tuple[str, ...] = ("tiny", "small", "paper")
SCALE = "small"

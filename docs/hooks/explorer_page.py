"""The explorer page of the fables, trained and written while the site is built."""

import functools
import tempfile
from pathlib import Path

import assocjax as aj
from assocjax.corpora import fables

PAGE = "fables.html"


@functools.cache  # `mkdocs serve` builds again and again
def page() -> str:
    """A run of some seconds: the vocabulary of the fables, two layers, a few steps."""
    data = aj.load_tokens("fables", seq_len=24, num_sequences=400)
    associations = aj.track(
        data,
        learning_rate=2.0,
        steps=24,
        num_layers=2,
        record_at=[0, 1, 2, 4, 8, 16, 24],
        truth=fables.ground_truth(),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PAGE
        aj.write_explorer(associations, path, data=data, token="bird")
        return path.read_text("utf-8")

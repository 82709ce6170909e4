"""Shared by the artefacts of a corpus, in memory and on disk: tokens, runs, and reused files."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

from assocjax.corpora import TokenData, load_tokens
from assocjax.reproduce.following import follow
from assocjax.reproduce.scales import Run, Text
from assocjax.storage import Folder, results
from assocjax.storage.checkpoints import Checkpoints

Progress = Callable[[str, int, int], None]


class Work:
    """Tokens and runs of a corpus, each computed once.

    Args:
      corpus: as in `load_tokens`.
      folder: a claimed folder in which runs are saved and reused; None keeps them in memory only.
      name: name of the corpus's subfolder.
      overwrite: replace existing results of another configuration.
      progress: called with (current work, units done, units in total).
    """

    def __init__(
        self,
        corpus: str,
        folder: Folder | None = None,
        name: str = "",
        *,
        overwrite: bool = False,
        progress: Progress | None = None,
    ):
        self.corpus, self.claimed, self.name, self.overwrite = corpus, folder, name, overwrite
        self.progress = progress or (lambda what, done, total: None)
        self._tokens: dict[Text, TokenData] = {}
        self._runs: dict[tuple[Run, int], xr.Dataset] = {}

    @property
    def folder(self) -> Path | None:
        """The folder of the corpus."""
        return None if self.claimed is None else self.claimed.path / self.name

    def tokens(self, text: Text) -> TokenData:
        """The tokens of the corpus with the settings of a text."""
        if text not in self._tokens:
            options = dataclasses.asdict(text)
            size, exactly = options.pop("num_sequences"), options.pop("exactly")
            if not exactly:
                options["default_vocab_size"] = options.pop("vocab_size")
            data = load_tokens(self.corpus, num_sequences=size if exactly else None, **options)
            self._tokens[text] = first_sequences(data, size)
        return self._tokens[text]

    def run(self, name: str, run: Run, seed: int) -> xr.Dataset:
        """The Dataset of `follow`, read from the folder if it exists there."""
        if (run, seed) not in self._runs:
            data = self.tokens(run.text)
            kept = f"{self.name}/runs/{name}-seed{seed}"
            decides = results.identity(data, {"run": dataclasses.asdict(run), "seed": seed})
            found = checkpoints = None
            if self.claimed is not None:
                path = self.claimed.path / f"{kept}.nc"
                found = results.reuse(path, decides, overwrite=self.overwrite)
            if found is None:
                if self.claimed is not None:
                    checkpoints = Checkpoints(self.claimed, decides, name=kept)
                found = follow(
                    data,
                    run,
                    seed,
                    checkpoints=checkpoints,
                    progress=lambda done, total: self.progress(
                        f"{data.name}: {name.replace('_', ' ')}, seed {seed}", done, total
                    ),
                )
                if checkpoints is not None and self.claimed is not None:
                    checkpoints.close()
                    results.keep(self.claimed, f"{kept}.nc", found, decides)
                    self.claimed.remove(f"{self.claimed.work_name(kept)}/")
            self._runs[run, seed] = found
        return self._runs[run, seed]

    def runs(self, name: str, run: Run) -> xr.Dataset:
        """The runs of all seeds, over `seed`."""
        found = [self.run(name, run, seed) for seed in run.seeds]
        joined = xr.concat(found, "seed", combine_attrs="override")
        return results.describe(joined.assign_coords(seed=list(run.seeds)))


def first_sequences(data: TokenData, count: int) -> TokenData:
    """The first `count` sequences, or all if there are fewer."""
    if count >= data.num_sequences:
        return data
    tokens, mask = data.tokens[:count], data.mask[:count]
    unknown = data.vocabulary.index("<unk>") if "<unk>" in data.vocabulary else -1
    documents = None if data.documents is None else data.documents[:count]
    return dataclasses.replace(
        data,
        tokens=tokens,
        mask=mask,
        documents=documents,
        unk_fraction=float(np.mean(tokens[:, 1:][mask] == unknown)),
    )


def file_name(text: str) -> str:
    """A name as part of a path."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._") or "corpus"

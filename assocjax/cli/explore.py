"""The command `explore`."""

import contextlib
import os
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assocjax import arguments
from assocjax.cli._finished import key
from assocjax.cli._kinds import AtLeast2, Count, Seed
from assocjax.cli._options import Results, arguments_of, chosen, options
from assocjax.cli._report import Finish, Report
from assocjax.cli._terminal import note, status
from assocjax.errors import InputError

if TYPE_CHECKING:
    import xarray as xr


@options("Page")
class Explore(Results):
    """Write a page that shows associations over training, or a compared language model."""

    results: Path = field(kw_only=False)
    """track.nc, as written by track; or comparison.nc, as written by compare, of which the options
    other than --out and --overwrite do not apply"""
    out: Path | None = None
    """the HTML file (default: RESULTS with the ending .html)"""
    token: str | None = None
    """token that is shown first (default: bird, or a word of medium frequency)"""
    max_steps: AtLeast2 | None = None
    """keep at most N recorded steps, evenly spread (default: 24; 12 for over 1500 tokens)"""
    corpus: str | None = None
    """the text of the results, as it was given to track, for passages (default: none;
    for results of the fables, the fables)"""
    separator: str = arguments.SEPARATOR
    """string between documents of a .txt file, as it was given to track"""
    text_field: str = arguments.TEXT_FIELD
    """field or column with the text, as it was given to track"""
    corpus_seed: Seed = 0
    """seed of the fables, as it was given to track"""
    max_text: Count = arguments.PAGE_TEXT
    """keep at most N tokens of the text, those with the highest scores"""

    @property
    def folder(self) -> None:
        """The page is a single file, in any folder."""
        return None

    def run(self, finish: Finish) -> Report:
        out = self.out or self.results.with_suffix(".html")
        made = key(self)
        # The last line of the page, by which the same command finds it complete.
        mark = "" if made is None else f"<!-- {made} -->\n"
        if mark and not self.overwrite and _ends_with(out, mark):
            note(f"already complete: {out}; --overwrite computes it again")
        else:
            self._write(out, mark)
        report = Report()
        report.path(f"written: {out}, {out.stat().st_size / 1e6:.1f} MB; open it in a browser")
        return report

    def _write(self, out: Path, mark: str) -> None:
        from assocjax.explorer import comparison_page, explorer_page, write
        from assocjax.storage import results

        dataset = results.load(self.results)
        if "similarity" in dataset:
            with status("writing"):
                write(out, comparison_page(dataset) + mark, self.overwrite)
            return
        fables = dataset.attrs.get("corpus_name") == "fables"
        corpus = "fables" if self.corpus is None and fables else self.corpus
        data = None if corpus is None else self._read(corpus, dataset)
        with status("writing"):
            page = explorer_page(dataset, **arguments_of(self, explorer_page, data=data))
            write(out, page + mark, self.overwrite)
        if data is None:
            note("without passages: --corpus names the text of the results")

    def _read(self, corpus: str, dataset: "xr.Dataset") -> Any:
        """The corpus in the tokens of the results, which record how they were made."""
        from assocjax.corpora import load_tokens
        from assocjax.storage import results

        made = results.decode(dataset.attrs).get("corpus", {})
        names = ("vocab_size", "seq_len", "num_sequences", "num_documents")
        names += ("tokenizer", "oov", "long", "short")
        if not made.keys() >= set(names):
            raise InputError(f"{self.results} does not record how its text became tokens")
        with status("reading"):
            return load_tokens(
                corpus,
                **{name: made[name] for name in names},
                seed=self.corpus_seed,
                **chosen(self, "separator", "text_field"),
            )


def _ends_with(path: Path, text: str) -> bool:
    with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
        file.seek(-len(text), os.SEEK_END)
        return file.read() == text.encode()
    return False

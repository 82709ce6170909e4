"""The command `explore`."""

from dataclasses import field
from pathlib import Path

from assocjax.cli._finished import told_if_unchanged
from assocjax.cli._kinds import AtLeast2
from assocjax.cli._options import Results, arguments_of, options
from assocjax.cli._report import Finish, Report
from assocjax.cli._terminal import status


@options("Page")
class Explore(Results):
    """Write a page that shows each token's associations over training."""

    results: Path = field(kw_only=False)
    """track.nc, as written by track"""
    out: Path | None = None
    """the HTML file (default: RESULTS with the ending .html)"""
    token: str | None = None
    """token that is shown first (default: bird, or a word of medium frequency)"""
    max_steps: AtLeast2 | None = None
    """keep at most N recorded steps, evenly spread (default: 24; 12 for over 1500 tokens)"""

    @property
    def folder(self) -> None:
        """The page is a single file, in any folder."""
        return None

    def run(self, finish: Finish) -> Report:
        from assocjax.explorer import write_explorer
        from assocjax.storage import results

        out = self.out or self.results.with_suffix(".html")
        dataset = results.load(self.results)
        with told_if_unchanged(out), status("writing"):
            write_explorer(dataset, out, **arguments_of(self, write_explorer))
        report = Report()
        report.path(f"written: {out}, {out.stat().st_size / 1e6:.1f} MB; open it in a browser")
        return report

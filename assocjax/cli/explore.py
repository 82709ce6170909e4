"""The command `explore`."""

from dataclasses import field
from pathlib import Path

from assocjax.cli._kinds import AtLeast2
from assocjax.cli._options import Results, arguments_of, options
from assocjax.cli._terminal import show, status


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

    def run(self) -> None:
        from assocjax.explorer import write_explorer
        from assocjax.storage import results

        out = self.out or self.results.with_suffix(".html")
        dataset = results.load(self.results)
        with status("writing"):
            write_explorer(
                dataset,
                out,
                **arguments_of(self, write_explorer),
            )
        show(
            f"written: {out}, {out.stat().st_size / 1e6:.1f} MB; open it in a browser",
            soft_wrap=True,
        )

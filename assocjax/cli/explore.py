"""The command `explore`."""

from dataclasses import field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from assocjax.cli._options import AtLeast2, Results, options
from assocjax.cli._terminal import show, status


@options("Page")
class Explore(Results):
    """Write a page that shows each token's associations over training."""

    results: Path = field(kw_only=False)
    """track.nc of a track"""
    out: Path | None = None
    """the page (default: RESULTS with the ending .html)"""
    token: str | None = None
    """what is shown first (default: bird, or a word of middling frequency)"""
    max_steps: Annotated[AtLeast2 | None, Parameter(metavar="N")] = None
    """of more recorded steps, N that are evenly spread (default: 24; 12 of over 1500 tokens)"""

    def run(self) -> None:
        from assocjax.explorer import write_explorer
        from assocjax.storage import results

        out = self.out or self.results.with_suffix(".html")
        dataset = results.load(self.results)
        with status("writing"):
            write_explorer(
                dataset,
                out,
                token=self.token,
                max_steps=self.max_steps,
                overwrite=self.overwrite,
            )
        show(
            f"written: {out}, {out.stat().st_size / 1e6:.1f} MB; open it in a browser",
            soft_wrap=True,
        )

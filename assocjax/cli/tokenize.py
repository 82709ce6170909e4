"""The command `tokenize`."""

from pathlib import Path
from typing import Annotated

from assocjax.cli._corpus import Sizes, Tokens, by_default, show_corpus
from assocjax.cli._options import Results, options
from assocjax.cli._terminal import show_written


@options("Tokens")
class Tokenize(Results, Sizes, Tokens):
    """Write a corpus as a token file, for statistics of corpora that do not fit in memory."""

    DEFAULT_VOCAB_SIZE = 50_000

    vocab_size: Annotated[int | None, by_default(DEFAULT_VOCAB_SIZE)] = None
    out: Path = Path("assocjax-tokens")

    def run(self) -> None:
        from assocjax.corpora import write_tokens
        from assocjax.storage import check_claimable

        check_claimable(self.out, "tokenize")
        size = self.DEFAULT_VOCAB_SIZE
        file = self.read(write_tokens, folder=self.out, default_vocab_size=size)
        show_corpus(file)
        show_written(self.out, sorted(path.name for path in self.out.glob("tokens.*")))

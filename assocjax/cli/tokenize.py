"""The command `tokenize`."""

from pathlib import Path
from typing import Annotated

from assocjax.cli._corpus import Sizes, Tokens, by_default, describe_corpus
from assocjax.cli._options import Results, options
from assocjax.cli._report import Finish, Report


@options("Tokens")
class Tokenize(Results, Sizes, Tokens):
    """Write a corpus as a token file, for statistics of corpora that do not fit in memory."""

    DEFAULT_VOCAB_SIZE = 50_000

    vocab_size: Annotated[int | None, by_default(DEFAULT_VOCAB_SIZE)] = None
    out: Path = Path("assocjax-tokens")

    def run(self, finish: Finish) -> Report:
        from assocjax.corpora import write_tokens
        from assocjax.storage import claim, hold

        size = self.DEFAULT_VOCAB_SIZE
        report = Report()
        with hold(self.out):
            file = self.read(write_tokens, folder=self.out, default_vocab_size=size)
            report.line(describe_corpus(file))
            with claim(self.out, "tokenize", None) as folder:
                report.written(sorted(folder.files))
                finish(folder, report, folder.files)
        return report

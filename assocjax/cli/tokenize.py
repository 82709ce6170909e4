"""The command `tokenize`."""

from pathlib import Path
from typing import Annotated

from assocjax.cli._corpus import Sizes, Tokens, by_default, describe_corpus
from assocjax.cli._options import Results, arguments_of, options
from assocjax.cli._report import Finish, Report
from assocjax.cli._terminal import progress_bar


@options("Tokens")
class Tokenize(Results, Sizes, Tokens):
    """Write a corpus as a token file, for statistics of corpora that do not fit in memory.

    The corpus is read in blocks, in bounded memory, and tokenised on all cores. A run that was
    stopped continues when the same command is run again, and gives the same bits.
    """

    DEFAULT_VOCAB_SIZE = 50_000

    vocab_size: Annotated[int | None, by_default(DEFAULT_VOCAB_SIZE)] = None
    out: Path = Path("assocjax-tokens")

    def run(self, finish: Finish) -> Report:
        from assocjax.corpora import write_tokens
        from assocjax.storage import claim, hold

        size = self.DEFAULT_VOCAB_SIZE
        report = Report()
        with hold(self.out):
            with progress_bar("tokenizing", "bytes", first="reading") as progress:
                given = arguments_of(self, write_tokens, seed=self.corpus_seed, folder=self.out)
                given |= {"default_vocab_size": size, "progress": progress}
                file = write_tokens(**given)
            report.line(describe_corpus(file))
            with claim(self.out, "tokenize", None) as folder:
                report.written(sorted(folder.files))
                finish(folder, report, folder.files)
        return report

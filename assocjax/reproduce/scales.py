"""Sizes at which the artefacts are reproduced: the paper's, and smaller ones.

`paper` is exactly the paper's protocol as far as it is known; `small` has the same training times
s eta and is made for two cores; `tiny` takes seconds and is only for tests of the code.
"""

import dataclasses

from assocjax import arguments
from assocjax.llm.configuration import PretrainConfig


@dataclasses.dataclass(frozen=True)
class Text:
    """How a corpus becomes tokens: arguments of `load_tokens`. Unless `exactly`, `num_sequences`
    and `vocab_size` are upper bounds."""

    vocab_size: int
    seq_len: int
    num_sequences: int
    tokenizer: str = "word"
    oov: str = "unk"
    long: str = "window"
    short: str = "drop"
    num_documents: int | None = None
    exactly: bool = False


@dataclasses.dataclass(frozen=True)
class Run:
    """Gradient descent from zero, compared with the theories at the end of each epoch.

    batch_size: sequences in a minibatch; None is the full batch, with which an epoch is one step.
    seeds: seeds of the order of batches; one run for each.
    effective_epochs: epochs at which the run is compared with the effective theory too.
    """

    text: Text
    learning_rate: float
    epochs: int
    batch_size: int | None
    num_layers: int = 3
    seeds: tuple[int, ...] = (0,)
    effective_epochs: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Lists:
    """Lists of the `top` tokens, and `shuffles` texts with shuffled tokens as a control."""

    text: Text
    top: int = 10
    shuffles: int = 3


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A model, and the texts and tokens for its comparison.

    model: a model of the hub, or a folder; None trains a small Pythia on the corpus, with the
      configuration `pretraining`.
    revisions: its checkpoints; None means those of the pretraining.
    corpus: the text of the statistics; None means that of the other artefacts.
    other_corpus: another text, for Figure 8; None leaves it out.
    num_tokens: number of most frequent tokens, each with at least `min_count` occurrences; None
      means all of them, up to 2,000.
    heads_at: layers whose heads are drawn (Figure 7), counted from 1.
    """

    text: Text
    other_corpus: str | None
    num_tokens: int | None
    heads_at: tuple[int, ...]
    model: str | None = None
    revisions: tuple[str, ...] | None = None
    pretraining: PretrainConfig | None = None
    corpus: str | None = None
    min_count: int = 5
    num_shuffles: int = 20


@dataclasses.dataclass(frozen=True)
class Scale:
    """Settings of all artefacts; `corpora` are read by default, or in addition to those given."""

    corpora: tuple[str, ...]
    small_step: Run
    full_batch: Run
    smaller_step: Run
    """Like `full_batch`, for a tenth of the training time."""
    subwords: Run
    subwords_full_batch: Run
    large_step: Run
    draws: int
    """Number of random directions of each control of Table 3."""
    lists: Lists
    language_model: LanguageModel
    judged: bool = True
    """Whether results are large enough to say how much of the paper they reproduce."""


def _small() -> Scale:
    words = Text(256, 32, 1024)
    subwords = dataclasses.replace(words, tokenizer="bpe")
    # s eta of 16, 1.6 and 160, as in the paper, with equal numbers of steps: one compilation.
    run = Run(words, 0.1, 20, 128, seeds=(0, 1))
    return Scale(
        corpora=("fables",),
        small_step=run,
        full_batch=Run(words, 0.4, 40, None),
        smaller_step=Run(words, 0.04, 40, None),
        subwords=dataclasses.replace(run, text=subwords, learning_rate=0.01),
        subwords_full_batch=Run(subwords, 0.04, 40, None),
        large_step=dataclasses.replace(
            run, learning_rate=1.0, seeds=(0,), effective_epochs=(1, 2, 4, 6, 8, 12, 16, 20)
        ),
        draws=4,
        lists=Lists(Text(1024, 48, 8192)),
        language_model=LanguageModel(
            Text(512, 64, 4096),
            other_corpus="python-docs",
            num_tokens=None,
            heads_at=(1, 2, 4),
            pretraining=PretrainConfig(
                vocab_size=512, seq_len=64, batch_size=16, steps=64, num_layers=4, width=64
            ),
        ),
    )


def _paper() -> Scale:
    words = Text(
        3000, 200, 65_536, oov="drop", long="cut", num_documents=2_200_000, exactly=True
    )  # all documents, since few consist only of words of the vocabulary
    subwords = dataclasses.replace(words, vocab_size=10_000, tokenizer="bpe")
    run = Run(words, 0.005, 100, 2048)
    return Scale(
        corpora=("tinystories",),
        small_step=run,
        full_batch=Run(words, 0.4, 40, None),
        smaller_step=Run(words, 0.04, 40, None),
        subwords=dataclasses.replace(run, text=subwords, epochs=10),
        subwords_full_batch=Run(subwords, 0.04, 40, None),
        large_step=dataclasses.replace(
            run, learning_rate=0.05, effective_epochs=(1, 5, 10, 20, 30, 50, 70, 100)
        ),
        draws=4,
        lists=Lists(words),
        language_model=LanguageModel(
            Text(0, 128, 1_000_000, tokenizer="", num_documents=100_000),
            other_corpus="hf:HuggingFaceFW/fineweb:train",
            num_tokens=10_000,
            heads_at=(2, 13, 24),
            model="EleutherAI/pythia-1.4b",
            corpus="hf:Skylion007/openwebtext:train",
            revisions=tuple(f"step{2**k}" for k in range(10)),
            num_shuffles=100,
        ),
    )


def _tiny() -> Scale:
    words = Text(96, 8, 32)
    subwords = dataclasses.replace(words, tokenizer="bpe")
    run = Run(words, 0.5, 3, 8, num_layers=1)
    return Scale(
        corpora=("fables",),
        small_step=dataclasses.replace(run, seeds=(0, 1)),
        full_batch=dataclasses.replace(run, batch_size=None, epochs=3),
        smaller_step=dataclasses.replace(run, learning_rate=0.05, batch_size=None, epochs=3),
        subwords=dataclasses.replace(run, text=subwords),
        subwords_full_batch=dataclasses.replace(run, text=subwords, batch_size=None, epochs=3),
        large_step=dataclasses.replace(run, learning_rate=2.0),
        draws=2,
        lists=Lists(words, top=5, shuffles=2),
        language_model=LanguageModel(
            Text(128, 16, 64),
            other_corpus=None,
            num_tokens=30,
            heads_at=(1, 2),
            min_count=1,
            num_shuffles=4,
            pretraining=PretrainConfig(
                vocab_size=128,
                seq_len=16,
                batch_size=4,
                steps=2,
                num_layers=2,
                width=16,
                num_heads=2,
            ),
        ),
        judged=False,
    )


SCALES = dict(zip(arguments.SCALES, (_tiny(), _small(), _paper()), strict=True))

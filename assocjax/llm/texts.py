"""A text in a model's tokens, and the theory's matrices for its most frequent tokens."""

import dataclasses
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from assocjax.arguments import MIN_COUNT, NUM_SEQUENCES, NUM_TOKENS, check_integer, check_is
from assocjax.checks import Sequences
from assocjax.corpora import TokenData, TokenFile, load_tokens, open_tokens
from assocjax.corpora.token_files import is_token_file
from assocjax.errors import InputError
from assocjax.llm.files import find_model
from assocjax.llm.models import load_tokenizer
from assocjax.llm.theory import basis_matrices
from assocjax.statistics.counting import count
from assocjax.statistics.sparse import RESIDUALS


class TokenTheory(NamedTuple):
    """The theory of the n most frequent tokens of a text.

    Attributes:
        ids: Their ids, the most frequent first; equal counts are in the order of ids.
        counts: Number of occurrences of each as an input.
        matrices: Residual ("uniform", "unigram") -> name of `MATRICES` -> matrix [n,n].
    """

    ids: Int[np.ndarray, " n"]
    counts: Int[np.ndarray, " n"]
    matrices: dict[str, dict[str, Float[np.ndarray, "n n"]]]


def tokens_of_model(
    name_or_path: str | os.PathLike[str],
    revision: str | None,
    corpus: str | os.PathLike[str],
    *,
    seq_len: int,
    num_sequences: int | None = None,
    at_most: int = NUM_SEQUENCES,
    **reading: Any,
) -> TokenData | TokenFile:
    """Reads a corpus in the tokens of a model, without loading the model.

    Args:
        name_or_path, revision: As in `load_model`. Ids are those of its tokeniser. Its special
            tokens are not used: their names in a text are tokenised like other text.
        corpus: As in `load_tokens`; or a token file, which has to be in the same tokens.
        seq_len: T. Longer documents are divided into windows, and shorter ones are padded and
            masked, so that every bigram of the text counts once.
        num_sequences: Keep only the first `num_sequences`; by default the first `at_most`, or all
            if the text has fewer.
        at_most: See `num_sequences`.
        reading: Options for reading documents, as in `load_tokens`.

    Raises:
        InputError: If the model has no tokeniser, a token file has another vocabulary, or the
            corpus gives fewer sequences than requested; and as `load_tokens`, `find_model`.
        InputTypeError: As `load_tokens`.
    """
    at_most = check_integer("at_most", at_most, minimum=1)
    files = find_model(name_or_path, revision, only="tokenizer")
    tokenizer = load_tokenizer(files)
    if is_token_file(corpus):
        data = open_tokens(corpus, seq_len, num_sequences=num_sequences)
        if tokenizer is not None:
            check_vocabulary(data, tokenizer, files.name)
        return data.first(min(num_sequences or at_most, data.num_sequences))
    if tokenizer is None:
        raise InputError(
            f"tokenizer: model {files.name!r} has none to read {str(corpus)!r} by; give a token "
            "file in its vocabulary"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        tokenizer.backend_tokenizer.save(str(path))
        data = load_tokens(
            corpus,
            seq_len=seq_len,
            num_sequences=num_sequences,
            tokenizer=path,
            short="pad",
            **reading,
        )
    kept = slice(None if num_sequences is not None else at_most)
    return dataclasses.replace(
        data,
        tokenizer=files.name,
        tokens=data.tokens[kept],
        mask=data.mask[kept],
        documents=None if data.documents is None else data.documents[kept],
    )


def theory_of_tokens(
    source: Sequences,
    num_tokens: int | None = None,
    *,
    min_count: int = MIN_COUNT,
    progress: Callable[[int, int], None] | None = None,
) -> TokenTheory:
    """Counts a text, and composes the theory's matrices for its most frequent tokens.

    Args:
        source: The text.
        num_tokens: n, at least 2; by default 2,000, or all that occur `min_count` times if fewer.
        min_count: Smallest number of occurrences of a token.
        progress: Called with (sequences read, sequences to read); each sequence is read three
            times.

    Raises:
        InputError: If fewer than `num_tokens` tokens occur `min_count` times; and as
            `basis_matrices`.

    Cost: as `basis_matrices`, with one more pass over the text.
    """
    min_count = check_integer("min_count", min_count, minimum=1)
    if num_tokens is not None:
        num_tokens = check_integer("num_tokens", num_tokens, minimum=2)
    check_is("source", source, Sequences)
    report = progress or (lambda done, total: None)
    every = range(source.num_sequences)
    N = len(every)
    found = count(source, every, after_block=lambda done, _: report(done, 3 * N))
    occurrences = np.asarray(found.bigram.sum(axis=1))
    available = int(np.sum(occurrences >= min_count))
    n = min(NUM_TOKENS, available) if num_tokens is None else num_tokens
    if n > available or n < 2:
        raise InputError(
            f"num_tokens: {available} different tokens occur {min_count} times or more in the "
            f"{N} sequences (min_count); got {max(n, 2)}"
        )
    ids = np.argsort(-occurrences, kind="stable")[:n]
    matrices = {}
    for i, residual in enumerate(RESIDUALS):
        matrices[residual] = basis_matrices(
            source,
            ids,
            residual=residual,
            counts=found,
            progress=lambda done, _, i=i: report((1 + i) * N + done, 3 * N),
        )
    return TokenTheory(ids, occurrences[ids], matrices)


def check_vocabulary(data: TokenData | TokenFile, tokenizer: Any, model: str) -> None:
    """Checks that a text and a model's tokeniser have the same ids for the same tokens.

    Raises:
        InputError: If not; the error calls the model `model`.
    """
    own = sorted((i, token) for token, i in tokenizer.get_vocab().items())
    size = 1 + max((i for i, _ in own), default=-1)
    if data.vocab_size != size:
        raise InputError(
            f"corpus: {data.name} is in {data.vocab_size} tokens, those of model {model!r} are "
            f"{size}"
        )
    for i, token in own:
        if data.vocabulary[i] not in (token, str(i)):
            raise InputError(
                f"corpus: {data.name} is in tokens of another vocabulary than model {model!r}: "
                f"token {i} is {data.vocabulary[i]!r}, not {token!r}"
            )

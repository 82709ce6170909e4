"""How fast is a text tokenised to a file, against what `tokenizers` takes for the same text?

    python benchmarks/tokenize_text.py --corpus FILE.txt

A .jsonl file is made by repeating the documents of a corpus, each with a running number. Ours is
`write_tokens`: it reads the file, tokenises, chooses the vocabulary and writes the sequences and
all hashes. Theirs is `encode_batch_fast` of the library `tokenizers` alone, of all documents at
once, which are in memory already. Both run in turn, on all cores. For words, theirs is a tokeniser
with the same tokens (for ASCII text) and a vocabulary that it is given.

Prints millions of tokens a second, the ratio of the times (the goal is at most 1.3), whether both
have as many tokens, and the memory at the peak of a process that does only this.
"""

import functools
import tempfile
import time
from pathlib import Path

from harness import device, finish, in_turn, parser, peak_memory, ratio, repeated_text
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from assocjax.corpora import open_tokens, read_documents, train_bpe, write_tokens


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--corpus", default="fables", help="whose documents are repeated")
    options.add_argument("--tokenizer", type=Path, help="a tokenizer.json, beside words and BPE")
    options.add_argument("--vocab-size", type=int, default=8000, help="of BPE")
    options.add_argument("--megabytes", type=float, default=30, help="size of the file")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument(
        "--of-all-cores", action="store_true", help="seconds of all cores, not of the clock"
    )
    options = options.parse_args(arguments)
    megabytes, repeats, vocab_size = options.megabytes, options.repeats, options.vocab_size
    if options.small:
        megabytes, repeats, vocab_size = 0.02, 1, 300
    result: dict = {"megabytes": megabytes, "corpus": options.corpus}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "text.jsonl"
        # Each in a process of its own, before this one grows.
        prepare = _prepare if options.small else functools.partial(peak_memory, _prepare)
        prepare(options.corpus, text, megabytes, vocab_size)
        pairs = {
            "words": ("word", folder / "words.json"),
            "BPE": (folder / "bpe.json", folder / "bpe.json"),
        }
        if options.tokenizer is not None:
            pairs["loaded"] = (options.tokenizer, options.tokenizer)
        memory = {
            what: (
                peak_memory(_write, text, ours, folder / what),
                peak_memory(_encode_file, text, theirs),
            )
            for what, (ours, theirs) in (() if options.small else pairs.items())
        }
        print(f"{megabytes:g} MB of {options.corpus} on {device()}")
        print(
            f"{'':10} {'ours':>8} {'theirs':>8}  Mtokens/s   ratio   {'ours':>6} {'theirs':>6}  GiB"
        )
        clock = time.process_time if options.of_all_cores else time.perf_counter
        for what, (ours, theirs) in pairs.items():
            row = _compare(text, ours, theirs, folder / what, repeats, clock)
            row["ours_gib"], row["theirs_gib"] = memory.get(what, (float("nan"),) * 2)
            result[what] = row
            agree = "same tokens" if row["same"] else "OTHER TOKENS"
            print(
                f"{what:10} {row['ours']:8.2f} {row['theirs']:8.2f} {row['ratio']:18.2f}   "
                f"{row['ours_gib']:6.2f} {row['theirs_gib']:6.2f}       {agree}"
            )
    return finish(result, options.out)


def _prepare(corpus: str, text: Path, megabytes: float, vocab_size: int) -> None:
    documents = read_documents(corpus).documents
    repeated_text(text, documents, megabytes)
    train_bpe(documents, vocab_size).save(str(text.with_name("bpe.json")))
    _words(text).save(str(text.with_name("words.json")))


def _compare(text: Path, ours, theirs, folder: Path, repeats: int, clock) -> dict:
    documents = read_documents(text).documents
    tokenizer = Tokenizer.from_file(str(theirs))
    count = sum(map(len, tokenizer.encode_batch_fast(documents, add_special_tokens=False)))
    _write(text, ours, folder)
    # Every bigram of every document is in one sequence.
    sizes = open_tokens(folder).sizes
    bigrams = 0 if sizes is None else int(sizes.astype(int).sum()) - len(sizes)
    sides = {
        "ours": functools.partial(_write, text, ours, folder),
        "theirs": functools.partial(
            tokenizer.encode_batch_fast, documents, add_special_tokens=False
        ),
    }
    times = in_turn(sides, repeats, clock)
    return {
        "ours": count / times["ours"].min() / 1e6,
        "theirs": count / times["theirs"].min() / 1e6,
        "ratio": ratio(times["ours"], times["theirs"]),
        "same": bigrams == count - len(documents),
    }


def _write(text: Path, tokenizer, folder: Path) -> None:
    write_tokens(text, folder, seq_len=128, short="pad", tokenizer=tokenizer, overwrite=True)


def _encode_file(text: Path, tokenizer: Path) -> None:
    documents = read_documents(text).documents
    Tokenizer.from_file(str(tokenizer)).encode_batch_fast(documents, add_special_tokens=False)


def _words(text: Path) -> Tokenizer:
    """The word tokens of ASCII text, by the library."""
    made = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\W\d_]+|\S"), "removed", invert=True)
    seen: dict[str, int] = {"<unk>": 0}
    for document in read_documents(text).documents:
        for token, _ in made.pre_tokenizer.pre_tokenize_str(document.lower()):
            seen.setdefault(token, len(seen))
    made.model = models.WordLevel(seen, unk_token="<unk>")
    return made


if __name__ == "__main__":
    main()

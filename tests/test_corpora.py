"""From corpora to token arrays: formats, tokenisers, vocabulary, windows, and every error."""

import bz2
import collections
import functools
import gzip
import hashlib
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assocjax.cli import main
from assocjax.corpora import (
    TokenData,
    fables,
    load_tokens,
    open_tokens,
    read_documents,
    train_bpe,
    words,
    write_tokens,
)
from assocjax.corpora import _files as files_module
from assocjax.corpora import sources as sources_module
from assocjax.corpora._layout import default_size, gather, lay_out
from assocjax.corpora._words import number_words
from assocjax.errors import InputError, InputTypeError
from assocjax.statistics import shards
from assocjax.storage import results

STORIES = ["The bird flew.", "The fish swam!", "A bird sang, a fish swam."]


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "stories.txt"
    path.write_text("<|endoftext|>".join(STORIES), encoding="utf-8")
    return path


def write(path, *documents):
    path.write_text("<|endoftext|>".join(documents), encoding="utf-8")
    return path


def decode(data, row):
    """The real tokens of a sequence, as strings."""
    size = 1 + int(data.mask[row].sum())
    return [data.vocabulary[i] for i in data.tokens[row, :size]]


# The word tokeniser


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\t ", []),
        ("The bird flew.", ["the", "bird", "flew", "."]),
        ("Don't! 42", ["don", "'", "t", "!", "4", "2"]),
        ("snake_case", ["snake", "_", "case"]),
        ("Élan über naïve", ["élan", "über", "naïve"]),
        ("x² ½cup", ["x", "²", "½", "cup"]),
        ("a1b", ["a", "1", "b"]),
        ("“Привет, мир”", ["“", "привет", ",", "мир", "”"]),
        ("..\u00a0--", [".", ".", "-", "-"]),
        ("日本 語", ["日本", "語"]),
        ("a^b]c\\d", ["a", "^", "b", "]", "c", "\\", "d"]),
    ],
)
def test_words_by_hand(text, expected):
    assert words(text) == expected


@given(st.text(max_size=60))
def test_words_against_a_character_loop(text):
    expected, in_word = [], False
    for character in text.lower():
        if character.isalpha() and in_word:
            expected[-1] += character
        elif not character.isspace():
            expected.append(character)
        in_word = character.isalpha()
    assert words(text) == expected


@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_compiled_words_are_words(documents):
    ids, lengths, types = number_words(documents)
    expected = [words(document) for document in documents]
    assert [types[i] for i in ids] == list(itertools.chain(*expected))
    assert lengths.tolist() == [len(tokens) for tokens in expected]
    assert types == list(dict.fromkeys(itertools.chain(*expected)))


def test_compiled_words_of_many_kinds(data_dir):
    """More of them than the loop has room for at its start."""
    text = (data_dir / "brown.txt").read_text("utf-8")
    ids, _, types = number_words([text])
    assert len(types) > 40_000
    assert [types[i] for i in ids] == words(text)


# Files in blocks


def as_txt(path, documents):
    path.write_bytes("||".join(documents).encode())


def as_jsonl(path, documents):
    lines = (json.dumps({"text": text}, ensure_ascii=False) for text in documents)
    path.write_bytes("\n".join(lines).encode())


def as_parquet(path, documents):
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pa.table({"text": documents}), path)


def as_zst(data):
    pa = pytest.importorskip("pyarrow")
    return pa.compress(data, codec="zstd", asbytes=True)


FORMATS = {"txt": as_txt, "jsonl": as_jsonl, "parquet": as_parquet}
COMPRESSED = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".zst": as_zst}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("end", COMPRESSED)
@pytest.mark.parametrize("block", [1, 5, 2**20])
def test_files_are_read_in_blocks_of_any_size(form, end, block, tmp_path, monkeypatch):
    documents = ["", "one | two", "trés long\r\n文章 🐦 bon", "x" * 30]
    path = tmp_path / f"a.{form}{end.upper()}"
    FORMATS[form](path, documents)
    path.write_bytes(COMPRESSED[end](path.read_bytes()))
    if end in (".gz", ".bz2"):  # of several parts, as pigz and cat make them
        half = len(gzip.decompress(path.read_bytes())) // 2 if end == ".gz" else 9
        whole = gzip.decompress if end == ".gz" else bz2.decompress
        content, pack = whole(path.read_bytes()), COMPRESSED[end]
        path.write_bytes(pack(content[:half]) + pack(content[half:]))
    monkeypatch.setattr(files_module, "_BLOCK", block)
    source = sources_module.open_source(path, separator="||")
    for _ in range(2):
        assert list(source.read()) == documents[1:]
        assert source.position.done == source.position.total == path.stat().st_size


@settings(deadline=None, max_examples=50)
@given(
    text=st.text("ab |\n", max_size=80),
    block=st.integers(1, 20),
    longest=st.integers(1, 15),
    form=st.sampled_from(["txt", "jsonl"]),
)
def test_long_documents_are_cut_at_white_space(tmp_path_factory, text, block, longest, form):
    documents = text.split("||")
    expected = []
    for document in documents:
        while len(document) > longest:
            spaces = [i for i in range(1, longest) if document[i].isspace()]
            stop = max(spaces, default=longest)
            expected.append(document[:stop])
            document = document[stop:]
        expected.append(document)
    expected = [piece for piece in expected if piece.strip()]
    path = tmp_path_factory.mktemp("cut") / f"a.{form}"
    FORMATS[form](path, documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files_module, "_BLOCK", block)
        patch.setattr(files_module, "LONGEST", longest)
        if expected:
            assert read_documents(path, separator="||").documents == expected
        else:
            with pytest.raises(InputError, match="holds no document"):
                read_documents(path, separator="||")


def test_folders_and_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "stories"
    (folder / "more").mkdir(parents=True)
    as_jsonl(folder / "b.jsonl", STORIES[:1])
    as_txt(folder / "a.txt", [""])
    (folder / "c.txt.gz").write_bytes(gzip.compress(STORIES[1].encode()))
    as_txt(folder / "more" / "a.txt", STORIES[2:])
    for name in ("README.md", ".hidden.txt", ".DS_Store"):
        (folder / name).write_text("no story")
    found = read_documents("stories")
    assert found == read_documents(folder) == read_documents(str(folder) + os.sep)
    assert (found.name, found.documents) == ("stories", STORIES)
    assert read_documents("stories/*").documents == STORIES[:2]
    assert read_documents("stories/**/a.txt").documents == STORIES[2:]
    write(tmp_path / "a[1].txt", "the file of this name")
    assert read_documents("a[1].txt").documents == ["the file of this name"]
    with pytest.raises(InputError, match=r"no file matches 'stories/x\*\.txt'"):
        read_documents("stories/x*.txt")
    with pytest.raises(InputError, match=r"b\.jsonl', line 1: no field 'body'"):
        read_documents("stories", text_field="body")


@pytest.mark.parametrize("end", [".gz", ".bz2", ".zst"])
@pytest.mark.parametrize("form", ["txt", "parquet"])
@pytest.mark.parametrize("damage", ["other", "cut"])
def test_damaged_files_are_refused(end, form, damage, tmp_path):
    path = tmp_path / f"a.{form}{end}"
    FORMATS[form](path, STORIES * 50)
    packed = COMPRESSED[end](path.read_bytes())
    path.write_bytes(b"no compressed file" if damage == "other" else packed[: len(packed) // 2])
    with pytest.raises(InputError, match=rf"a\.{form}{end}'") as caught:
        read_documents(path)
    assert "\n" not in str(caught.value)


def test_lines_that_are_too_long_for_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "LONGEST_LINE", 50)
    monkeypatch.setattr(files_module, "_BLOCK", 20)
    as_jsonl(tmp_path / "a.jsonl", ["a", "b" * 60])
    with pytest.raises(InputError, match="line 2: expected lines of at most 50 characters"):
        read_documents(tmp_path / "a.jsonl")


# Layout: cut, windows, padding


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    seq_len=st.integers(1, 6),
    long=st.sampled_from(["window", "cut"]),
    short=st.sampled_from(["drop", "pad"]),
    data=st.data(),
)
def test_layout_against_brute_force(lengths, seq_len, long, short, data):
    usable = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    ids = np.arange(sum(lengths), dtype=np.int32)
    expected, per_document, start = [], [], 0
    for length, use in zip(lengths, usable, strict=True):
        document = ids[start : start + length].tolist()
        start += length
        pieces = [document[k : k + seq_len + 1] for k in range(0, length, seq_len)]
        if long == "cut":
            pieces = pieces[:1]
        least = seq_len + 1 if short == "drop" else 2
        pieces = [piece for piece in pieces if use and len(piece) >= least]
        expected += pieces
        per_document.append(len(pieces))
    layout = lay_out(np.array(lengths), np.array(usable), seq_len, long=long, short=short)
    assert layout.per_document.tolist() == per_document
    if not expected:
        assert layout.starts.size == 0
        return
    tokens, real = gather(ids, layout, seq_len)
    assert tokens.shape == real.shape == (len(expected), seq_len + 1)
    assert [row[keep].tolist() for row, keep in zip(tokens, real, strict=True)] == expected
    assert not tokens[~real].any()


@given(
    documents=st.lists(
        st.lists(st.sampled_from("abcde"), min_size=2, max_size=30), min_size=1, max_size=5
    ),
    seq_len=st.integers(1, 8),
)
@settings(deadline=None, max_examples=50)
def test_windows_hold_every_bigram_once(tmp_path_factory, documents, seq_len):
    documents[0] += ["a", "b"]  # two types, whatever is drawn
    path = write(tmp_path_factory.mktemp("windows") / "a.txt", *(" ".join(d) for d in documents))
    data = load_tokens(path, seq_len=seq_len, long="window", short="pad")
    found = collections.Counter()
    for row in range(data.num_sequences):
        sequence = decode(data, row)
        found.update(itertools.pairwise(sequence))
    expected = collections.Counter()
    for document in documents:
        expected.update(itertools.pairwise(document))
    assert found == expected
    assert data.mask.sum() == expected.total()


def test_cut_window_drop_and_pad(tmp_path):
    path = write(tmp_path / "a.txt", "a b c d e", "a b", "a")
    rows = {
        (long, short): [
            decode(data, row)
            for data in [load_tokens(path, seq_len=2, long=long, short=short)]
            for row in range(data.num_sequences)
        ]
        for long in ("cut", "window")
        for short in ("drop", "pad")
    }
    abc, cde, ab = ["a", "b", "c"], ["c", "d", "e"], ["a", "b"]
    assert rows["cut", "drop"] == [abc]
    assert rows["cut", "pad"] == [abc, ab]
    assert rows["window", "drop"] == [abc, cde]
    assert rows["window", "pad"] == [abc, cde, ab]


def test_padding_is_masked(tmp_path):
    path = write(tmp_path / "a.txt", "b b b a", "b a")
    data = load_tokens(path, seq_len=3, short="pad")
    assert data.vocabulary == ("b", "a")
    assert data.tokens.tolist() == [[0, 0, 0, 1], [0, 1, 0, 0]]
    assert data.mask.tolist() == [[True, True, True], [True, False, False]]
    assert data.tokens.dtype == np.int32
    assert data.mask.dtype == np.bool_


def test_num_sequences_keeps_the_first(text_file):
    everything = load_tokens(text_file, seq_len=2)
    first = load_tokens(text_file, seq_len=2, num_sequences=3)
    assert first.tokens.tolist() == everything.tokens[:3].tolist()
    assert first.vocabulary == everything.vocabulary


# Vocabulary


def test_most_frequent_first_ties_in_alphabetical_order(tmp_path):
    path = write(tmp_path / "a.txt", "d c b a c d z z z")
    assert load_tokens(path, seq_len=2).vocabulary == ("z", "c", "d", "a", "b")
    cut = load_tokens(path, seq_len=2, vocab_size=3)
    assert cut.vocabulary == ("z", "c", "<unk>")
    assert load_tokens(path, seq_len=8, vocab_size=3).tokens.tolist() == [
        [2, 1, 2, 2, 1, 2, 0, 0, 0]
    ]


def test_unknown_only_where_needed(tmp_path):
    path = write(tmp_path / "a.txt", "a a a b b c")
    whole = load_tokens(path, seq_len=5, vocab_size=3)
    assert whole.vocabulary == ("a", "b", "c")
    assert whole.unk_fraction == 0
    less = load_tokens(path, seq_len=5, vocab_size=2)
    assert less.vocabulary == ("a", "<unk>")
    assert less.tokens.tolist() == [[0, 0, 0, 1, 1, 1]]
    assert less.unk_fraction == 0.5


def test_unknown_fraction_leaves_padding_out(tmp_path):
    path = write(tmp_path / "a.txt", "a a a a", "b c")
    data = load_tokens(path, seq_len=3, vocab_size=2, short="pad")
    assert data.unk_fraction == pytest.approx(2 / 6)


@pytest.mark.parametrize(
    ("counts", "oov", "largest", "size"),
    [
        ([1000] * 10 + [1] * 300, "unk", 3000, 256),  # 11 would do
        ([1000] * 10 + [1] * 50, "unk", 3000, 60),  # all of them
        # 5 % of 6,300 are 315: all but these are 300 tokens, and <unk> is one more.
        ([20] * 300 + [1] * 300, "unk", 3000, 301),
        ([20] * 300 + [1] * 300, "unk", 50, 50),
        ([20] * 300 + [1] * 300, "drop", 3000, 600),
    ],
)
def test_the_default_vocabulary_covers_the_text(counts, oov, largest, size):
    counts = np.random.default_rng(0).permutation([0, *counts])
    assert default_size(counts, largest, oov) == size


def test_the_default_of_a_text_with_many_tokens(tmp_path):
    # Letters only, or digits would be tokens of their own.
    many = [chr(97 + i // 26) + chr(97 + i % 26) for i in range(300)]
    data = load_tokens(write(tmp_path / "a.txt", " ".join(many)), seq_len=299)
    assert data.vocab_size == 286
    assert data.vocabulary[-1] == "<unk>"
    assert data.unk_fraction == pytest.approx(0.05)


def test_the_covering_size_leaves_few_unknown(text_file):
    read = functools.partial(load_tokens, text_file, seq_len=20, short="pad")  # whole documents
    data = read()
    known, less = (read(vocab_size=data.covering_size - n) for n in (0, 1))
    assert known.unk_fraction <= 0.05 < less.unk_fraction
    assert "covering_size" not in data.describe()


def test_drop_policy(tmp_path):
    path = write(tmp_path / "a.txt", "a b a b", "a b c a", "b a b", "b a")
    data = load_tokens(path, seq_len=2, vocab_size=2, oov="drop", long="cut")
    assert data.vocabulary == ("a", "b")
    assert data.tokens.tolist() == [[0, 1, 0], [1, 0, 1]]
    assert (data.num_documents, data.dropped_oov, data.dropped_short) == (4, 1, 1)


def test_token_id(text_file):
    data = load_tokens(text_file, seq_len=2)
    assert data.vocabulary[data.token_id("bird")] == "bird"
    with pytest.raises(InputError, match=r"'birds'.*close to it are 'bird'"):
        data.token_id("birds")


# Corpora


def test_fables_are_enough():
    data = load_tokens("fables", seq_len=32, num_sequences=2100, long="cut")
    assert data.tokens.shape == (2100, 33)
    assert data.name == "fables"
    assert data.unk_fraction == 0
    long = load_tokens("fables", seq_len=200, num_sequences=64, num_documents=64)
    assert long.tokens.shape == (64, 201)
    assert long.mask.all()


def test_fables_vocabulary_is_the_same_however_many_sequences():
    few = load_tokens("fables", seq_len=16, num_sequences=2)
    assert few.vocabulary == load_tokens("fables", seq_len=16).vocabulary
    assert set(fables.PLANTED.names) <= set(few.vocabulary)


def test_fables_seed():
    first, again, other = (load_tokens("fables", seq_len=16, seed=s) for s in (0, 0, 1))
    assert first.sha256 == again.sha256 != other.sha256
    assert np.array_equal(first.tokens, again.tokens)


def test_python_docs():
    corpus = read_documents("python-docs")
    assert corpus.name == "python-docs"
    assert len(corpus.documents) > 50
    assert load_tokens("python-docs", seq_len=24).num_sequences > 1000


def test_txt(tmp_path):
    path = tmp_path / "A.TXT"
    path.write_bytes("\ufeffone two|| \n||trés\r\nbon||".encode())
    corpus = read_documents(str(path), separator="||")
    assert corpus.documents == ["one two", "trés\r\nbon"]
    assert corpus.name == "A.TXT"
    assert read_documents(path, separator="||", num_documents=1).documents == ["one two"]


def test_jsonl(tmp_path):
    path = tmp_path / "a.jsonl"
    # U+2028 is a line break to str.splitlines, but not to JSON.
    lines = [json.dumps({"body": text}, ensure_ascii=False) for text in ("a\u2028b", "", "c")]
    path.write_text("\n".join([*lines[:1], "", *lines[1:]]) + "\n", encoding="utf-8")
    assert read_documents(path, text_field="body").documents == ["a\u2028b", "c"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "hf"])
def test_rows_without_text_are_left_out_of_every_format(tmp_path, kind):
    rows: list[str | None] = ["a b", None, "", " \n", "c d"]
    if kind == "parquet":
        pa = pytest.importorskip("pyarrow")
        path = tmp_path / "a.parquet"
        pytest.importorskip("pyarrow.parquet").write_table(pa.table({"text": rows}), path)
    else:
        path = tmp_path / "train.jsonl"
        path.write_text("\n".join(json.dumps({"text": row}) for row in rows), encoding="utf-8")
    if kind == "hf":
        pytest.importorskip("datasets")
        path = f"hf:{tmp_path}"
    assert read_documents(path).documents == ["a b", "c d"]


@pytest.mark.parametrize("kind", ["txt", "jsonl", "escaped", "parquet", "hf"])
def test_byte_order_marks_are_no_text_wherever_they_stand(tmp_path, kind):
    marked = ["\ufeffa b", "\ufeff", "c\ufeff d"]
    path = tmp_path / f"a.{'jsonl' if kind == 'escaped' else kind}"
    if kind == "txt":
        path.write_bytes("||".join(marked).encode())
    elif kind == "jsonl":  # files with a mark each, one after another
        path.write_bytes("".join(f'\ufeff{{"text": "{text}"}}\n' for text in marked).encode())
    elif kind == "escaped":
        path.write_text("\n".join(json.dumps({"text": text}) for text in marked), encoding="utf-8")
    else:
        pa = pytest.importorskip("pyarrow")
        file = tmp_path / "a.parquet"
        pytest.importorskip("pyarrow.parquet").write_table(pa.table({"text": marked}), file)
    if kind == "hf":
        pytest.importorskip("datasets")
        path = f"hf:{tmp_path}"
    found = read_documents(path, separator="||")
    assert found.documents == ["a b", "c d"]
    assert found.sha256 == sources_module.hash_documents(["a b", "c d"])


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", r"not UTF-8 \(byte 0xff at offset 0\); convert it to UTF-8"),
        ("utf-32", r"not UTF-8 \(byte 0xff at offset 0\); convert it to UTF-8"),
        ("utf-16-le", "not UTF-8: .* are NUL, as in UTF-16 or UTF-32; convert"),
        ("utf-16-be", "not UTF-8: .* are NUL, as in UTF-16 or UTF-32; convert"),
        ("utf-32-le", "not UTF-8: .* are NUL, as in UTF-16 or UTF-32; convert"),
    ],
)
@pytest.mark.parametrize("text", ["The bird flew. " * 9, "Птица улетела, рыба уплыла. " * 9])
def test_other_encodings_are_refused(tmp_path, name, encoding, message, text):
    path = tmp_path / name
    content = json.dumps({"text": text}, ensure_ascii=False) if name == "a.jsonl" else text
    path.write_bytes(content.encode(encoding))
    with pytest.raises(InputError, match=message) as caught:
        read_documents(path)
    assert "\n" not in str(caught.value)


def test_a_text_taken_for_another_encoding_is_refused_within_any_format(tmp_path):
    wrong = "The bird flew over the pond.".encode("utf-16-le").decode()
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": wrong}), encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.jsonl', line 1: .* is not UTF-8: 28 of 56"):
        read_documents(path)
    few = "The bird \0 flew."  # odd, but text
    path.write_text(json.dumps({"text": few}), encoding="utf-8")
    assert read_documents(path).documents == [few]


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": [*STORIES, None, ""], "n": range(5)}), path)
    assert read_documents(path).documents == STORIES
    assert read_documents(path, num_documents=2).documents == STORIES[:2]
    with pytest.raises(InputError, match=r"one column 'body'.*'text', 'n'"):
        read_documents(path, text_field="body")
    with pytest.raises(InputError, match=r"row 1: expected a string, got int"):
        read_documents(path, text_field="n")
    parquet.write_table(pa.Table.from_arrays([pa.array(STORIES)] * 2, ["text", "text"]), path)
    with pytest.raises(InputError, match=r"one column 'text' .*'text', 'text'"):
        read_documents(path)
    broken = pa.Array.from_buffers(pa.string(), 1, [None, *pa.array([b"\xff"]).buffers()[1:]])
    parquet.write_table(pa.table({"text": broken}), path)
    with pytest.raises(InputError, match=r"column 'text' is not UTF-8 \(.*0xff"):
        read_documents(path)
    path.write_bytes(b"no parquet at all")
    with pytest.raises(InputError, match=r"a\.parquet' is no parquet file"):
        read_documents(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"no parquet file .*0 bytes"):
        read_documents(path)


@pytest.mark.parametrize(
    "kind", ["string", "large_string", "string_view", "dictionary", "dictionary of large strings"]
)
def test_parquet_strings_of_every_layout(tmp_path, kind):
    pa = pytest.importorskip("pyarrow")
    texts = pa.array([*STORIES, None, STORIES[0]])
    if kind == "dictionary of large strings":
        texts = texts.cast(pa.large_string())
    dictionary = kind.startswith("dictionary")
    texts = texts.dictionary_encode() if dictionary else texts.cast(getattr(pa, kind)())
    path = tmp_path / "a.parquet"
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"text": texts}), path)
    kept = parquet.ParquetFile(path).schema_arrow.field("text").type
    assert str(kept).startswith(kind.split()[0])  # as it was written
    assert read_documents(path).documents == [*STORIES, STORIES[0]]


def test_parquet_of_nothing_but_nulls(tmp_path):
    pa = pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(pa.table({"text": [None, None]}), path)
    with pytest.raises(InputError, match="holds no document"):
        read_documents(path)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "txt"])
def test_hub_loader_on_a_local_folder(tmp_path, kind):
    pytest.importorskip("datasets")
    folder = tmp_path / "stories"
    folder.mkdir()
    if kind == "parquet":
        pa = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.table({"text": STORIES}), folder / "train.parquet")
        parquet.write_table(pa.table({"text": STORIES[:1]}), folder / "test.parquet")
    else:
        as_line = {"jsonl": lambda text: json.dumps({"text": text}), "txt": str}[kind]
        for split, stories in (("train", STORIES), ("test", STORIES[:1])):
            lines = "\n".join(map(as_line, stories))
            (folder / f"{split}.{kind}").write_text(lines, encoding="utf-8")
    corpus = read_documents(f"hf:{folder}")
    assert corpus.documents == STORIES
    assert corpus.name == "hf:stories:train"
    assert read_documents(f"hf:{folder}:test").documents == STORIES[:1]
    assert read_documents(f"hf:{folder}", num_documents=2).documents == STORIES[:2]
    with pytest.raises(InputError, match=r"stories:nosuch.*[Bb]ad split"):
        read_documents(f"hf:{folder}:nosuch")
    with pytest.raises(InputError, match=r"no field 'body'.*'text'"):
        read_documents(f"hf:{folder}", text_field="body")


def test_hub_reads_ten_thousand_documents_by_default(tmp_path):
    pytest.importorskip("datasets")
    folder = tmp_path / "many"
    folder.mkdir()
    (folder / "train.txt").write_text("\n".join(["a b"] * 10_050), encoding="utf-8")
    assert len(read_documents(f"hf:{folder}").documents) == 10_000
    assert len(read_documents(f"hf:{folder}", num_documents=10_020).documents) == 10_020


@pytest.mark.parametrize("corpus", ["tinystories", "hf:roneneldan/TinyStories:train"])
def test_unreachable_hub(monkeypatch, corpus):
    pytest.importorskip("datasets")
    hub = pytest.importorskip("huggingface_hub")

    def fail(self, name, timeout):
        assert name == "roneneldan/TinyStories"
        raise ConnectionError("no route to host")

    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.HfApi, "dataset_info", fail)
    message = r"hf:roneneldan/TinyStories:train'.*cannot be reached \(no route to host\)"
    with pytest.raises(InputError, match=message):
        read_documents(corpus)


@pytest.mark.parametrize(
    ("module", "corpus"), [("datasets", "tinystories"), ("pyarrow", "a.parquet")]
)
def test_missing_extra(monkeypatch, tmp_path, module, corpus):
    monkeypatch.setitem(sys.modules, module, None)  # makes its import fail
    if corpus.endswith(".parquet"):
        corpus = tmp_path / corpus
        corpus.write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"pip install 'assocjax\[data\]'"):
        read_documents(corpus)


def test_hash_depends_on_where_documents_end(tmp_path):
    hashes = {
        read_documents(write(tmp_path / "a.txt", *documents)).sha256
        for documents in (["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"])
    }
    assert len(hashes) == 4
    # By hand: the bytes "2:ab" and "1:c".
    assert sources_module.hash_documents(["ab", "c"]) == hashlib.sha256(b"2:ab1:c").hexdigest()


def test_real_text(data_dir):
    path = data_dir / "tinystories_sample.txt"
    data = load_tokens(path, vocab_size=500, seq_len=64)
    tokens = [token for text in read_documents(path).documents for token in words(text)]
    frequent = [token for token, _ in collections.Counter(tokens).most_common(20)]
    assert set(frequent) <= set(data.vocabulary)
    assert data.num_documents == 1889
    assert data.unk_fraction < 0.2
    # The paper's protocol leaves no other word.
    dropped = load_tokens(path, vocab_size=3000, seq_len=64, oov="drop", long="cut")
    assert "<unk>" not in dropped.vocabulary
    assert (
        dropped.num_sequences == dropped.num_documents - dropped.dropped_oov - dropped.dropped_short
    )


# BPE


def test_bpe_round_trip(tmp_path):
    pytest.importorskip("tokenizers")
    stories = fables.generate(100)
    path = write(tmp_path / "fables.txt", *stories)
    data = load_tokens(path, vocab_size=300, seq_len=40, tokenizer="bpe", short="pad", long="cut")
    assert data.vocab_size == 300
    text = "".join(decode(data, 0)).replace("Ġ", " ")
    assert stories[0].startswith(text)
    saved = tmp_path / "tokenizer.json"
    train_bpe(stories, 300).save(str(saved))
    again = load_tokens(path, seq_len=40, tokenizer=saved, short="pad", long="cut")
    assert again.vocabulary == data.vocabulary
    assert np.array_equal(again.tokens, data.tokens)


def test_bpe_training_is_deterministic():
    pytest.importorskip("tokenizers")
    # In processes of their own: the library's hash maps are seeded anew in each.
    code = (
        "import hashlib; from assocjax.corpora import fables, train_bpe; "
        "print(hashlib.sha256(train_bpe(fables.generate(200), 280).to_str().encode()).hexdigest())"
    )
    run = [sys.executable, "-c", code]
    hashes = {subprocess.run(run, capture_output=True, check=True).stdout for _ in range(2)}
    assert len(hashes) == 1


def test_bpe_vocabulary_of_a_loaded_tokenizer(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    saved = tmp_path / "tokenizer.json"
    train_bpe(fables.generate(50), 200).save(str(saved))
    path = write(tmp_path / "a.txt", *fables.generate(3, seed=5))
    whole = load_tokens(path, seq_len=20, tokenizer=saved)
    assert whole.vocab_size == 200
    small = load_tokens(path, seq_len=20, tokenizer=saved, vocab_size=20)
    assert small.vocab_size == 20
    assert small.vocabulary[-1] == "<unk>"
    tokenizer = tokenizers.Tokenizer.from_file(str(saved))
    counts = collections.Counter()
    for encoding in tokenizer.encode_batch(read_documents(path).documents):
        counts.update(encoding.tokens)
    ranked = sorted(counts, key=lambda token: (-counts[token], token))
    assert small.vocabulary == (*ranked[:19], "<unk>")
    with pytest.raises(InputError, match=r"has \d+ different tokens.*201"):
        load_tokens(path, seq_len=20, tokenizer=saved, vocab_size=201)


def test_bpe_that_runs_out_of_merges(tmp_path):
    pytest.importorskip("tokenizers")
    path = write(tmp_path / "a.txt", "abab abab abab")
    with pytest.raises(InputError, match=r"reaches \d+ tokens.*got 500"):
        load_tokens(path, seq_len=1, vocab_size=500, tokenizer="bpe")
    assert load_tokens(path, seq_len=1, tokenizer="bpe").vocab_size < 20
    with pytest.raises(InputError, match="at least 3 for BPE"):
        load_tokens(path, seq_len=1, vocab_size=2, tokenizer="bpe")


def test_bad_tokenizer_file(tmp_path, text_file):
    pytest.importorskip("tokenizers")
    path = tmp_path / "tokenizer.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"is no tokenizer\.json"):
        load_tokens(text_file, seq_len=2, tokenizer=path)
    with pytest.raises(InputError, match="tokenizer: no file 'words'"):
        load_tokens(text_file, seq_len=2, tokenizer="words")


def changed_tokenizer(path, stories, change):
    """A tokenizer.json of BPE on some stories, its JSON changed."""
    content = json.loads(train_bpe(stories, 150, special_tokens=["<|endoftext|>"]).to_str())
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_two_tokens_of_one_id_are_refused(tmp_path, text_file):
    def double(content):
        vocabulary = content["model"]["vocab"]
        vocabulary["t"] = vocabulary["s"]

    path = changed_tokenizer(tmp_path / "tokenizer.json", fables.generate(9), double)
    with pytest.raises(InputError, match=r"two tokens the id \d+: 's' and 't'; expected") as caught:
        load_tokens(text_file, seq_len=2, tokenizer=path)
    assert str(path) in str(caught.value)


def test_dropout_of_bpe_is_off(tmp_path):
    stories = fables.generate(9)
    plain = changed_tokenizer(tmp_path / "plain.json", stories, lambda content: None)
    noisy = changed_tokenizer(
        tmp_path / "noisy.json", stories, lambda content: content["model"].update(dropout=0.5)
    )
    text = write(tmp_path / "a.txt", *stories)
    expected, one, other = (
        load_tokens(text, seq_len=9, tokenizer=path) for path in (plain, noisy, noisy)
    )
    assert np.array_equal(one.tokens, other.tokens)
    assert np.array_equal(one.tokens, expected.tokens)


@pytest.mark.parametrize("file", [False, True])
def test_a_special_token_written_in_a_text_is_text(tmp_path, file):
    said = "the token <|endoftext|> ends a text"
    stories = [*fables.generate(9), said]
    path = changed_tokenizer(tmp_path / "tokenizer.json", stories, lambda content: None)
    text = tmp_path / "a.jsonl"
    text.write_text(json.dumps({"text": said}), encoding="utf-8")
    if file:
        data = write_tokens(text, tmp_path / "out", seq_len=60, tokenizer=path, short="pad")
    else:
        data = load_tokens(text, seq_len=60, tokenizer=path, short="pad")
    assert data.vocabulary[0] == "<|endoftext|>"
    tokens, mask = data.read(0, 1)
    ids = tokens[0, : 1 + int(mask.sum())]
    assert 0 not in ids
    assert "".join(data.vocabulary[i] for i in ids).replace("Ġ", " ") == said


def test_a_tokenizer_without_a_token_for_the_text(tmp_path, text_file):
    tokenizers = pytest.importorskip("tokenizers")
    path = tmp_path / "tokenizer.json"
    model = tokenizers.models.WordLevel({"bird": 0, "flew": 1}, unk_token="<unk>")
    tokenizers.Tokenizer(model).save(str(path))
    with pytest.raises(InputError, match=r"tokenizer: cannot encode the text \(.*UNK"):
        load_tokens(text_file, seq_len=2, tokenizer=path)


def test_ids_out_of_all_bounds_are_refused_before_their_names_are_made(tmp_path, text_file):
    path = changed_tokenizer(
        tmp_path / "tokenizer.json",
        STORIES,
        lambda content: content["model"]["vocab"].update(x=2**32 - 2),
    )
    with pytest.raises(InputError, match="expected ids below 16777216, got 4294967294"):
        load_tokens(text_file, seq_len=2, tokenizer=path)


# What a corpus is identified by


def test_identity_is_of_tokens_and_vocabulary(tmp_path):
    text = write(tmp_path / "a.txt", *fables.generate(9))
    path = tmp_path / "tokenizer.json"
    readings = []
    for stories in (fables.generate(9), fables.generate(9, seed=1), fables.generate(9)):
        train_bpe(stories, 150).save(str(path))
        readings.append(load_tokens(text, seq_len=9, num_sequences=4, tokenizer=path))
    one, other, again = (results.identity(data, {"steps": 3}) for data in readings)
    assert one == again
    differs = {key for key in one if one[key] != other[key]}
    assert differs == {"corpus.tokens_sha256"}


def test_shards_of_two_vocabularies_are_not_added(tmp_path):
    text = write(tmp_path / "a.txt", *fables.generate(9))
    path = tmp_path / "tokenizer.json"
    for shard in (1, 2):
        train_bpe(fables.generate(9, seed=shard), 150).save(str(path))
        data = load_tokens(text, seq_len=9, num_sequences=4, tokenizer=path)
        shards.run_shard(data, tmp_path / f"{shard}.nc", shard=shard, shards=2)
    with pytest.raises(InputError, match=r"1\.nc and .*2\.nc are of different corpus"):
        shards.merge([tmp_path / "1.nc", tmp_path / "2.nc"])


def test_the_hash_of_tokens_is_of_all_that_is_computed_with():
    tokens, mask = np.zeros((2, 4), np.int32), np.ones((2, 3), bool)
    documents = np.array([0, 1], np.int32)

    def hashed(tokens=tokens, mask=mask, vocabulary=("a", "b"), documents=documents):
        data = TokenData(tokens, mask, vocabulary, "mine", "", documents=documents)
        return data.describe()["tokens_sha256"]

    less = mask.copy()
    less[1, 2] = False
    hashes = [
        hashed(),
        hashed(tokens=tokens + np.eye(2, 4, dtype=np.int32)),
        hashed(mask=less),
        hashed(vocabulary=("a", "c")),
        hashed(vocabulary=("b", "a")),
        hashed(documents=np.array([0, 0], np.int32)),
        hashed(documents=None),
        hashed(tokens=tokens[:1], mask=mask[:1], documents=documents[:1]),
    ]
    assert len(set(hashes)) == len(hashes)
    assert hashed(tokens.copy(), mask.copy()) == hashes[0]


# Names of files that are not UTF-8


@pytest.fixture
def odd_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"caf\xe9.txt")
    try:
        return write(tmp_path / name, *fables.generate(9)).name
    except OSError:
        pytest.skip("this file system takes no names that are not UTF-8")


@pytest.mark.parametrize(
    "command", ["statistics --matrices sparse", "tokenize", "associations the"]
)
def test_names_that_are_not_utf8_are_escaped_in_every_result(odd_file, command):
    main([*command.split(), "--corpus", odd_file, "--seq-len", "4", "--out", "out"])
    jsons = list(Path("out").glob("*.json"))
    assert jsons
    for path in jsons:
        assert r"caf\\udce9.txt" in path.read_text("utf-8")  # as JSON writes a backslash


def test_a_tokenizer_of_a_name_that_is_not_utf8(odd_file):
    tokenizer = os.fsdecode(b"\xe9.json")
    train_bpe(fables.generate(9), 150).save("tokenizer.json")
    Path("tokenizer.json").rename(tokenizer)
    main(["tokenize", "--corpus", odd_file, "--seq-len", "4", "--tokenizer", tokenizer])
    about = json.loads(Path("assocjax-tokens/tokens.json").read_text("utf-8"))
    assert about["tokenizer"] == r"\udce9.json"


def test_an_output_folder_whose_name_is_not_utf8_is_refused_before_any_work(odd_file, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["statistics", "--corpus", odd_file, "--out", os.fsdecode(b"out\xe9")])
    assert "its name must be UTF-8" in capsys.readouterr().err
    assert os.listdir() == [odd_file]


def test_lines_of_what_a_command_prints_hold_no_surrogates(odd_file, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["statistics", "--corpus", odd_file[:-1], "--out", "out"])
    assert r"caf\udce9.tx'" in capsys.readouterr().err


# Texts in memory


def texts(rows):
    return [row["text"] for row in rows]


FORMS = {  # of a library, or none, and rows
    "list": (None, lambda _, rows: texts(rows)),
    "tuple": (None, lambda _, rows: tuple(texts(rows))),
    "generator": (None, lambda _, rows: (row["text"] for row in rows)),
    "null": (None, lambda _, rows: [None, *texts(rows), math.nan]),
    "rows": (None, lambda _, rows: rows),
    "columns": (None, lambda _, rows: {"id": [1], "text": texts(rows)}),
    "array": ("numpy", lambda np, rows: np.array(texts(rows))),
    "frame": ("pandas", lambda pd, rows: pd.DataFrame(rows)),
    "column": ("pandas", lambda pd, rows: pd.DataFrame(rows)["text"]),
    "NA": ("pandas", lambda pd, rows: pd.Series([pd.NA, *texts(rows)], dtype=object)),
    "polars frame": ("polars", lambda pl, rows: pl.DataFrame(rows)),
    "polars column": ("polars", lambda pl, rows: pl.DataFrame(rows)["text"]),
    "Arrow table": ("pyarrow", lambda pa, rows: pa.Table.from_pylist(rows)),
    "Arrow column": ("pyarrow", lambda pa, rows: pa.Table.from_pylist(rows)["text"]),
    "dataset": ("datasets", lambda hf, rows: hf.Dataset.from_list(rows)),
    "dataset's column": ("datasets", lambda hf, rows: hf.Dataset.from_list(rows)["text"]),
    "stream": ("datasets", lambda hf, rows: hf.Dataset.from_list(rows).to_iterable_dataset()),
}


@pytest.mark.parametrize("form", FORMS)
def test_texts_in_memory_are_read_as_those_of_a_file(form, tmp_path):
    name, make = FORMS[form]
    library = name and pytest.importorskip(name)
    rows = [{"id": i, "text": story} for i, story in enumerate(fables.generate(12))]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    options = {"vocab_size": 50, "seq_len": 9, "short": "pad", "num_documents": 11}
    found, expected = load_tokens(make(library, rows), **options), load_tokens(path, **options)
    for name in ("tokens", "mask", "documents"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.vocabulary == expected.vocabulary
    assert found.describe() == expected.describe() | {"name": "texts"}
    file = write_tokens(make(library, rows), tmp_path / "out", **options)
    np.testing.assert_array_equal(file.read(0, file.num_sequences)[0], expected.tokens)
    assert (file.name, file.sha256) == ("texts", expected.sha256)


def test_a_dataset_has_its_own_name(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "train.txt").write_text("\n".join(STORIES), encoding="utf-8")
    dataset = datasets.load_dataset(str(tmp_path), split="train", cache_dir=tmp_path / "cache")
    found = read_documents(dataset)
    assert found.documents == STORIES
    assert found.name == dataset.info.dataset_name != "texts"


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
def test_endless_texts_are_read_as_far_as_asked(tokenizer, tmp_path):
    stories = fables.generate(5)
    taken = []

    def endless():
        for story in itertools.cycle(stories):
            taken.append(story)
            yield story

    data = load_tokens(endless(), seq_len=4, num_documents=7, tokenizer=tokenizer)
    assert (data.num_documents, len(taken)) == (7, 7)
    write_tokens(endless(), tmp_path, seq_len=4, num_documents=7)
    assert len(taken) == 14


@pytest.mark.parametrize(
    ("corpus", "error", "message"),
    [
        (["a b", 3], InputError, "index 1: expected a string, got int"),
        ([b"a b"], InputError, "index 0.*expected a string, got bytes"),
        (b"a b", InputTypeError, "a name, a path or an iterable of strings; got bytes"),
        ([{"body": "a b"}], InputError, "index 0.*: no field 'text'.*it has 'body'"),
        ([{"text": 1.5}], InputError, "index 0.*field 'text'.*expected a string, got float"),
        (["\ud800"], InputError, "index 0.* is not text"),
        ({"body": ["a b"]}, InputError, "no column 'text' .*it has .*body"),
        ([], InputError, "'texts' holds no document"),
        (iter([" ", None]), InputError, "'texts' holds no document"),
        (None, InputTypeError, "an iterable of strings; got NoneType None"),
        ("The bird flew. " * 9, InputError, r"unknown corpus 'The .*given in a list, as \[text\]"),
    ],
)
def test_what_holds_no_texts(corpus, error, message):
    with pytest.raises(error, match=message) as caught:
        load_tokens(corpus, seq_len=2)
    assert len(str(caught.value)) < 400


# Errors


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "holds no document"),
        ("a.txt", b" \n ", "holds no document"),
        ("a.txt", b"<|endoftext|>\n<|endoftext|>", "holds no document"),
        ("a.txt", b"abc\xffdef", r"not UTF-8 \(byte 0xff at offset 3\)"),
        ("a.jsonl", b"", "holds no document"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', "line 3: not JSON"),
        ("a.jsonl", b'["text"]', "line 1: expected a JSON object, got list"),
        ("a.jsonl", b'{"text": "a"}\n{"body": "a"}', "line 2: no field 'text'.*has 'body'"),
        ("a.jsonl", b'{"text": 3}', "line 1: field 'text'.*expected a string, got int"),
        ("a.jsonl", b'{"text": "\\ud800"}', "line 1: field .text. .text_field. is not text"),
        ("a.csv", b"text", "unknown corpus.*end in .txt, .jsonl, .parquet"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_documents(path)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ("fabels", "unknown corpus 'fabels'.*did you mean 'fables'.*python-docs, tinystories"),
        ("", "unknown corpus"),
        ("nowhere/a.txt", "no file 'nowhere/a.txt'"),
        ("a" * 5000 + ".txt", "no file 'aaa"),  # longer than a name can be
        ("a\0b.txt", "corpus must be a name or a path, which holds no NUL character"),
        ("hf:", "expected hf:owner/name"),
        ("hf:a/b/c", "expected hf:owner/name"),
        ("hf:owner/name:", "expected hf:owner/name"),
        ("hf:/no/such/folder", "with an existing folder"),
    ],
)
def test_unknown_corpora(corpus, message):
    with pytest.raises(InputError, match=message):
        read_documents(corpus)


def test_files_that_may_not_be_read(text_file, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"cannot read '.*stories\.txt' \(Permission denied\)"):
        read_documents(text_file)


def test_folder_is_no_file(tmp_path):
    folder = tmp_path / "stories.txt"
    folder.mkdir()
    with pytest.raises(InputError, match=r"is a folder without a text.*hf:"):
        read_documents(folder)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seq_len": 0}, InputError, "seq_len must be at least 1; got 0"),
        ({"seq_len": 2.0}, InputTypeError, "seq_len must be an integer; got float"),
        ({"seq_len": True}, InputTypeError, "seq_len"),
        ({"seq_len": 10**20}, InputError, "seq_len must be at most 1048576; got 10{20}"),
        ({"vocab_size": 10**20}, InputError, "vocab_size must be at most 16777216"),
        ({"vocab_size": 10**9, "tokenizer": "bpe"}, InputError, "vocab_size must be at most"),
        ({"default_vocab_size": 10**20}, InputError, "default_vocab_size must be at most"),
        ({"num_documents": 10**20}, InputError, "num_documents must be at most"),
        ({"num_sequences": 10**9}, InputError, "gives 5 sequences of 3 tokens.*got 10{9}"),
        ({"tokenizer": "a\0b"}, InputError, "tokenizer must be .* which holds no NUL character"),
        ({"tokenizer": "a" * 5000}, InputError, "tokenizer: no file 'aaa"),
        ({"vocab_size": 1}, InputError, "vocab_size must be at least 2; got 1"),
        ({"vocab_size": 13}, InputError, "has 10 different tokens, got 13"),
        ({"vocab_size": "3"}, InputTypeError, "vocab_size"),
        ({"num_sequences": 0}, InputError, "num_sequences must be at least 1"),
        ({"num_sequences": 50}, InputError, "gives 5 sequences of 3 tokens.*got 50"),
        ({"num_documents": 0}, InputError, "num_documents"),
        ({"seed": -1}, InputError, "seed"),
        ({"oov": "keep"}, InputError, "oov must be one of 'unk', 'drop'; got 'keep'"),
        ({"long": "split"}, InputError, "long must be one of"),
        ({"short": None}, InputTypeError, "short must be a string"),
        ({"tokenizer": 3}, InputTypeError, "tokenizer must be"),
        ({"separator": ""}, InputError, "separator must not be empty"),
        ({"text_field": 3}, InputTypeError, "text_field must be a string"),
        ({"seq_len": 99}, InputError, "no sequence of 100 tokens.* 3 as too short.*has 8 tokens"),
        (
            {"vocab_size": 2, "oov": "drop"},
            InputError,
            "of 3 documents 3 were dropped for a token outside the vocabulary",
        ),
    ],
)
def test_bad_options(text_file, options, error, message):
    with pytest.raises(error, match=message) as caught:
        load_tokens(text_file, **({"seq_len": 2} | options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"num_documents": 2 * 10**9}, {"min_words": 2 * 10**9}])
def test_fables_that_nobody_could_tell(options):
    with pytest.raises(InputError, match=r"fables: .* more than the 1,000,000,000 words"):
        read_documents("fables", **options)


@pytest.mark.parametrize("integer", [np.int64, np.int32, np.array])
def test_sizes_may_be_of_numpy(text_file, tmp_path, integer):
    sizes = {"seq_len": 2, "vocab_size": 5, "num_documents": 2, "default_vocab_size": 4, "seed": 0}
    given = {name: integer(size) for name, size in sizes.items()}
    data = load_tokens(text_file, num_sequences=integer(2), **given)
    expected = load_tokens(text_file, num_sequences=2, **sizes)
    assert data.describe() == expected.describe()
    assert json.dumps(data.describe()) == json.dumps(expected.describe())
    file = write_tokens(text_file, tmp_path / "out", **given)
    assert open_tokens(tmp_path / "out", num_sequences=integer(2)).num_sequences == 2
    assert json.dumps(file.describe())
    bpe = load_tokens(text_file, seq_len=2, vocab_size=integer(20), tokenizer="bpe")
    assert bpe.vocab_size == 20
    assert fables.generate(integer(2), integer(1)) == fables.generate(2, 1)


def test_bad_corpus_type():
    with pytest.raises(
        InputTypeError, match="corpus must be a name, a path or an iterable of strings; got int 3"
    ):
        load_tokens(3, seq_len=2)  # pyright: ignore[reportArgumentType]


def test_one_type_is_too_few(tmp_path):
    with pytest.raises(InputError, match="1 different token; at least 2"):
        load_tokens(write(tmp_path / "a.txt", "a a a a"), seq_len=2)


# TokenData


def test_token_data_checks_what_it_is_given():
    tokens, mask = np.zeros((2, 4), np.int32), np.ones((2, 3), bool)

    def make(tokens: Any = tokens, mask: Any = mask, vocabulary: Any = ("a", "b"), **others: Any):
        return TokenData(tokens, mask, vocabulary, "mine", "", **others)

    data = make()
    assert (data.num_sequences, data.seq_len, data.vocab_size) == (2, 3, 2)
    with pytest.raises(InputTypeError, match="tokens: expected a NumPy array of int32, got int64"):
        make(tokens=tokens.astype(np.int64))
    with pytest.raises(InputTypeError, match="mask: expected a NumPy array of bool, got list"):
        make(mask=mask.tolist())
    with pytest.raises(InputError, match=r"mask: expected shape \[2, 3\].*got \[2, 4\]"):
        make(mask=np.ones((2, 4), bool))
    with pytest.raises(InputError, match=r"tokens: expected shape .*got \[2, 1\]"):
        make(tokens=tokens[:, :1], mask=mask[:, :0])
    with pytest.raises(InputError, match=r"documents: expected shape \[2\].*got \[3\]"):
        make(documents=[0, 1, 2])
    for vocabulary in (None, "ab", 2, {"a": 0, "b": 1}):
        with pytest.raises(InputTypeError, match="vocabulary must be a sequence of strings"):
            make(vocabulary=vocabulary)
    with pytest.raises(InputTypeError, match="vocabulary must be strings; one is 3"):
        make(vocabulary=("a", 3))
    with pytest.raises(InputError, match="ids from 0 to 1, got 0 to 2"):
        make(tokens=np.full((2, 4), 2, np.int32) * np.arange(2, dtype=np.int32)[:, None])


def test_corpora_need_no_jax():
    code = "import sys, assocjax.corpora; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

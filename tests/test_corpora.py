"""From corpora to token arrays: formats, tokenisers, vocabulary, windows, and every error."""

import collections
import hashlib
import itertools
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assocjax.corpora import TokenData, fables, load_tokens, read_documents, train_bpe, words
from assocjax.corpora import sources as sources_module
from assocjax.corpora.layout import gather, lay_out
from assocjax.errors import InputError, InputTypeError

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


def test_default_vocabulary_is_at_most_256(tmp_path):
    # Letters only, or digits would be tokens of their own.
    many = [chr(97 + i // 26) + chr(97 + i % 26) for i in range(300)]
    data = load_tokens(write(tmp_path / "a.txt", " ".join(many)), seq_len=4)
    assert data.vocab_size == 256
    assert data.vocabulary[-1] == "<unk>"


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


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": [*STORIES, None, ""], "n": range(5)}), path)
    assert read_documents(path).documents == STORIES
    assert read_documents(path, num_documents=2).documents == STORIES[:2]
    with pytest.raises(InputError, match=r"no column 'body'.*'text', 'n'"):
        read_documents(path, text_field="body")
    with pytest.raises(InputError, match=r"'n'.*expected strings, got int64"):
        read_documents(path, text_field="n")
    path.write_bytes(b"no parquet at all")
    with pytest.raises(InputError, match=r"a\.parquet' is no parquet file"):
        read_documents(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
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
    with pytest.raises(InputError, match=r"no column 'body'.*'text'"):
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


# Errors


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n ", "is empty"),
        ("a.txt", b"<|endoftext|>\n<|endoftext|>", "holds no document"),
        ("a.txt", b"abc\xffdef", r"not UTF-8 \(byte 0xff at offset 3\)"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', "line 3: not JSON"),
        ("a.jsonl", b'["text"]', "line 1: expected a JSON object, got list"),
        ("a.jsonl", b'{"text": "a"}\n{"body": "a"}', "line 2: no field 'text'.*has 'body'"),
        ("a.jsonl", b'{"text": 3}', "line 1: field 'text'.*expected a string, got int"),
        ("a.jsonl", b'{"text": "\\ud800"}', "line 1: field 'text' is not text"),
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
        ("hf:", "expected hf:owner/name"),
        ("hf:a/b/c", "expected hf:owner/name"),
        ("hf:owner/name:", "expected hf:owner/name"),
        ("hf:/no/such/folder", "with a folder that is there"),
    ],
)
def test_unknown_corpora(corpus, message):
    with pytest.raises(InputError, match=message):
        read_documents(corpus)


def test_folder_is_no_file(tmp_path):
    folder = tmp_path / "stories.txt"
    folder.mkdir()
    with pytest.raises(InputError, match=r"is a folder.*hf:"):
        read_documents(folder)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seq_len": 0}, InputError, "seq_len must be at least 1; got 0"),
        ({"seq_len": 2.0}, InputTypeError, "seq_len must be an integer; got float"),
        ({"seq_len": True}, InputTypeError, "seq_len"),
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


def test_bad_corpus_type():
    with pytest.raises(InputTypeError, match="corpus must be a name or a path; got int 3"):
        load_tokens(3, seq_len=2)  # pyright: ignore[reportArgumentType]


def test_one_type_is_too_few(tmp_path):
    with pytest.raises(InputError, match="1 different token; at least 2"):
        load_tokens(write(tmp_path / "a.txt", "a a a a"), seq_len=2)


# TokenData


def test_token_data_checks_what_it_is_given():
    tokens, mask = np.zeros((2, 4), np.int32), np.ones((2, 3), bool)

    def make(tokens: Any = tokens, mask: Any = mask):
        return TokenData(tokens, mask, ("a", "b"), "mine", "")

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
    with pytest.raises(InputError, match="ids from 0 to 1, got 0 to 2"):
        make(tokens=np.full((2, 4), 2, np.int32) * np.arange(2, dtype=np.int32)[:, None])


def test_corpora_need_no_jax():
    code = "import sys, assocjax.corpora; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

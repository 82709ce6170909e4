"""Token files: written, read by ranges, and what does not fit."""

import contextlib
import functools
import itertools
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import random_tokens

import assocjax as aj
from assocjax import cli
from assocjax.corpora import _numbers, fables, read_documents, tokenizers, train_bpe, writing


def assert_same(file, data):
    tokens, mask = file.read(0, file.num_sequences)
    np.testing.assert_array_equal(tokens, data.tokens)
    np.testing.assert_array_equal(mask, data.mask)
    assert tokens.dtype == data.tokens.dtype
    for name in ("vocabulary", "name", "sha256", "num_sequences", "seq_len", "vocab_size"):
        assert getattr(file, name) == getattr(data, name), name
    part, valid = file.read(1, 2)
    np.testing.assert_array_equal(part, data.tokens[1:2])
    np.testing.assert_array_equal(valid, data.mask[1:2])


@pytest.fixture
def small_blocks(monkeypatch):
    """Fifty documents are no whole number of batches, of saved blocks, or of blocks written."""
    monkeypatch.setattr(tokenizers, "BATCH_DOCUMENTS", 7)
    monkeypatch.setattr(_numbers, "_KEPT", 1000)
    monkeypatch.setattr(_numbers, "CHUNK", 640)
    monkeypatch.setattr(writing, "CHUNK", 640)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"short": "pad"},
        {"short": "pad", "long": "cut", "oov": "drop", "vocab_size": 190},
        {"vocab_size": 20, "seq_len": 100, "short": "pad"},
        {"tokenizer": "bpe", "vocab_size": 120},
    ],
)
def test_written_are_the_sequences_of_load_tokens(options, tmp_path, small_blocks):
    options = {"corpus": "fables", "seq_len": 9, "num_documents": 50} | options
    file = aj.write_tokens(folder=tmp_path / "new" / "tokens", **options)
    data = aj.load_tokens(**options)
    assert_same(file, data)
    assert file.ids.dtype == np.uint16
    names = {".assocjax.json", "tokens.bin", "tokens.json"}
    names |= set() if data.mask.all() else {"tokens.sizes.bin"}
    names |= {"tokenizer.json"} if options.get("tokenizer") == "bpe" else set()
    assert {p.name for p in (tmp_path / "new" / "tokens").iterdir()} == names


@pytest.mark.parametrize("vocab_size", [None, 60])
def test_a_loaded_tokenizer(vocab_size, tmp_path, small_blocks):
    path = tmp_path / "tokenizer.json"
    train_bpe(read_documents("fables", num_documents=50).documents, 100).save(str(path))
    options = {"seq_len": 9, "num_documents": 50, "tokenizer": path, "vocab_size": vocab_size}
    file = aj.write_tokens("fables", tmp_path / "tokens", **options)
    assert_same(file, aj.load_tokens("fables", **options))


def describe(path, **about):
    path.with_suffix(".json").write_text(json.dumps(about), "utf-8")
    return path


def test_streams_and_arrays(tmp_path):
    T, V = 4, 7
    stream = random_tokens(0, 1, 4 * 30 + 2, V)[0]
    # Windows share a token, so that every bigram occurs once; two tokens are left over.
    expected = np.stack([stream[n * T : n * T + T + 1] for n in range(30)])
    files = {}
    for dtype in ("uint16", "int32", "uint32", "int64"):
        files[dtype] = describe(tmp_path / f"{dtype}.bin", dtype=dtype, vocab_size=V)
        stream.astype(dtype).tofile(files[dtype])
    files["npy"] = describe(tmp_path / "stream.npy", vocabulary=list("abcdefg"), sha256="5")
    np.save(files["npy"], stream)
    for path in files.values():
        file = aj.open_tokens(path, T)
        tokens, mask = file.read(0, file.num_sequences)
        np.testing.assert_array_equal(tokens, expected)
        assert mask.all()
        np.testing.assert_array_equal(file.read(7, 9)[0], expected[7:9])
        assert aj.open_tokens(path, 100).num_sequences == 1
        first = aj.open_tokens(path, T, num_sequences=5)
        assert first.num_sequences == 5
        np.testing.assert_array_equal(first.read(0, 5)[0], expected[:5])
    assert file.token_id("c") == 2
    assert (file.sha256, file.name) == ("5", "stream.npy")
    assert aj.open_tokens(files["uint16"], T).vocabulary == tuple("0123456")
    assert len(aj.open_tokens(files["uint16"], T).sha256) == 64
    rows = describe(tmp_path / "rows.npy", vocab_size=V)
    np.save(rows, expected.astype(np.int64))
    np.testing.assert_array_equal(aj.open_tokens(rows).read(0, 30)[0], expected)
    # Statistics read any of them.
    found = aj.sparse_statistics(aj.open_tokens(rows))
    dense = aj.corpus_statistics(expected, V)
    np.testing.assert_allclose(found.query_key @ np.eye(V), dense.query_key, rtol=0, atol=1e-6)


# Files of other tools, as their formats are specified


DOCUMENTS = [[5, 1, 2, 3, 4], [6, 0], [], [2, 2, 3, 1, 0, 4, 5, 6, 1], [3]]
LONG = [[3, 1, 4, 1, 5], [2, 6]]
END = 65535


def separated(end, dtype):
    """Every document begins with the id that stands between them."""
    return np.array([i for document in DOCUMENTS for i in (end, *document)], dtype)


def llm_c(path, stream, magic, version):
    header = struct.pack("<3i", magic, version, stream.size).ljust(1024, b"\0")
    path.write_bytes(header + stream.tobytes())


def megatron(path, documents, code, dtype):
    """Two sequences make a document, as sentences do."""
    halves = [half for d in documents for half in (d[: len(d) // 2], d[len(d) // 2 :])]
    np.concatenate([np.array(half, dtype) for half in halves]).tofile(path)
    sizes = [len(half) for half in halves]
    pointers = [np.dtype(dtype).itemsize * sum(sizes[:n]) for n in range(len(sizes))]
    first = range(0, len(halves) + 1, 2)
    index = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, len(halves), len(first))
    index += np.array(sizes, "<i4").tobytes() + np.array(pointers, "<i8").tobytes()
    path.with_suffix(".idx").write_bytes(index + np.array(first, "<i8").tobytes())


def arrow(path, documents, kind="int32"):
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"input_ids": pa.array(documents, pa.list_(getattr(pa, kind)()))})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=2):
            writer.write_batch(batch)


def dataset(path, documents):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"input_ids": documents, "id": range(len(documents))})
    rows.save_to_disk(path, num_shards=2)


FOREIGN = {
    "nanoGPT": ("a.bin", lambda p: separated(END, "<u2").tofile(p), {"dtype": "uint16"}),
    "int32": ("a.bin", lambda p: separated(-1, "<i4").tofile(p), {"dtype": "int32", "end_id": -1}),
    "uint32": ("a.bin", lambda p: separated(9, "<u4").tofile(p), {"dtype": "uint32", "end_id": 9}),
    "headerless npy": ("a.npy", lambda p: separated(END, "<u2").tofile(p), {"dtype": "uint16"}),
    "npy": ("a.npy", lambda p: np.save(p, separated(END, "<i8")), {}),
    "GPT-2 of llm.c": ("a.bin", lambda p: llm_c(p, separated(END, "<u2"), 20240520, 1), {}),
    "Llama of llm.c": ("a.bin", lambda p: llm_c(p, separated(END, "<u4"), 20240801, 7), {}),
    "Megatron": ("a.bin", lambda p: megatron(p, DOCUMENTS, 4, "<i4"), {"end_id": None}),
    "Megatron's index": ("a.idx", lambda p: megatron(p.with_suffix(".bin"), DOCUMENTS, 8, "<u2"),
                         {"end_id": None}),
    "Megatron with ends": ("a.bin", lambda p: megatron(p, [[*d, 9] for d in DOCUMENTS], 8, "<u2"),
                           {"end_id": 9}),
    "Arrow": ("a.arrow", lambda p: arrow(p, DOCUMENTS), {"end_id": None}),
    "Arrow, padded": ("a.arrow", lambda p: arrow(p, [[*d, 9, 9] for d in DOCUMENTS], "int64"),
                      {"end_id": 9}),
    "dataset on disk": ("a", lambda p: dataset(p, DOCUMENTS), {"end_id": None}),
}  # fmt: skip


def of_documents(documents, T, long, short):
    """Their sequences, by the words of the documentation."""
    found = []
    for document in documents:
        pieces = [document[k : k + T + 1] for k in range(0, max(1, len(document) - 1), T)]
        pieces = pieces[:1] if long == "cut" else pieces
        found += [piece for piece in pieces if len(piece) >= (2 if short == "pad" else T + 1)]
    return found


def rows_of(file):
    tokens, mask = file.read(0, file.num_sequences)
    sizes = 1 + mask.sum(axis=1)
    assert not tokens[:, 1:][~mask].any()
    return [row[:size].tolist() for row, size in zip(tokens, sizes, strict=True)]


@pytest.mark.parametrize("form", FOREIGN)
@pytest.mark.parametrize(("long", "short"), [("window", "drop"), ("cut", "pad"), ("window", "pad")])
def test_files_of_other_tools(form, long, short, tmp_path):
    name, make, options = FOREIGN[form]
    path = tmp_path / name
    make(path)
    options = {"vocabulary": 7, "end_id": END, "long": long, "short": short} | options
    file = aj.open_tokens(path, 3, **options)
    expected = of_documents(DOCUMENTS, 3, long, short)
    assert rows_of(file) == expected
    part = file.read(1, 2)[0]
    np.testing.assert_array_equal(part[0, : len(expected[1])], expected[1])
    assert rows_of(file.first(2)) == expected[:2]
    assert file.vocabulary == tuple("0123456")
    other = aj.open_tokens(path, 3, **options | {"short": "drop" if short == "pad" else "pad"})
    assert file.tokens_sha256 != other.tokens_sha256
    with pytest.raises(aj.InputError, match=r"vocabulary: .*give the number of tokens") as caught:
        aj.open_tokens(path, 3, **options | {"vocabulary": None})
    assert "\n" not in str(caught.value)
    if "dtype" in options:
        with pytest.raises(aj.InputError, match=r"dtype: .* give one of uint16, int32"):
            aj.open_tokens(path, 3, **options | {"dtype": None})
    else:
        with pytest.raises(aj.InputError, match=r"dtype: .* holds u?int"):
            aj.open_tokens(path, 3, **options | {"dtype": "float32"})


def test_several_files_and_statistics_of_their_documents(tmp_path):
    llm_c(tmp_path / "train_1.bin", separated(END, "<u2"), 20240520, 1)
    llm_c(tmp_path / "train_2.bin", np.array([i for d in LONG for i in d], "<u2"), 20240520, 1)
    options = {"vocabulary": list("abcdefg"), "end_id": END, "short": "pad"}
    file = aj.open_tokens(tmp_path / "train_*.bin", 3, **options)
    documents = [*DOCUMENTS, [i for d in LONG for i in d]]  # nothing goes on into the next file
    expected = of_documents(documents, 3, "window", "pad")
    assert rows_of(file) == expected
    assert file.token_id("c") == 2
    found = aj.sparse_statistics(file)
    tokens, mask = file.read(0, file.num_sequences)
    dense = aj.corpus_statistics(tokens, 7, mask)
    np.testing.assert_allclose(found.query_key @ np.eye(7), dense.query_key, rtol=0, atol=1e-6)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_what_has_been_read_of_a_file_is_not_kept_in_memory(tmp_path):
    def megabytes_of_files():
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssFile:")[1].split()[0]) / 1000

    path = tmp_path / "a.bin"
    np.zeros(2**24, "<u4").tofile(path)  # 64 MiB
    file = aj.open_tokens(path, 255, dtype="uint32", vocabulary=2, end_id=1)
    before = megabytes_of_files()
    kept = np.asarray(file.ids).sum()  # what is only mapped stays
    assert megabytes_of_files() - before > 60
    for start in range(0, file.num_sequences - 4096, 4096):
        kept += file.read(start, start + 4096)[0].sum()
        assert megabytes_of_files() - before < 10
    assert kept == 0


def test_names_of_tokens_by_a_tokenizer(tmp_path):
    path = tmp_path / "tokenizer.json"
    train_bpe(["a b a b c"], 20).save(str(path))
    np.arange(6, dtype="<u2").tofile(tmp_path / "a.bin")
    file = aj.open_tokens(tmp_path / "a.bin", 2, dtype="uint16", vocabulary=path)
    vocabulary = json.loads(path.read_text("utf-8"))["model"]["vocab"]
    assert {token: i for i, token in enumerate(file.vocabulary)} == vocabulary


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        ("cut", {}, r"expected 19 tokens, as its header says, got 18"),
        ("described", {"vocabulary": 7}, r"vocabulary: not allowed, since .*a\.json tells it"),
        ("rows", {"vocabulary": 7, "end_id": 1}, r"end_id: .* holds sequences of 4 tokens"),
        ("index", {"vocabulary": 7}, r"a\.idx: cannot read the index of a\.bin \(its sequences"),
        ("no index", {"vocabulary": 7}, r"a\.idx: cannot read the index of a\.bin"),
        ("other column", {"vocabulary": 7}, r"a column 'input_ids'.* it has \['a_text_id'\]"),
        ("floats", {"vocabulary": 7}, r"lists of integers in 'input_ids', got list<"),
        ("nulls", {"vocabulary": 7}, "'input_ids' has missing values"),
        ("no arrow", {"vocabulary": 7}, r"a\.arrow: cannot read an Arrow table"),
        ("splits", {"vocabulary": 7}, r"holds several datasets; give one of .*a/train, .*a/test"),
        ("selected", {"vocabulary": 7}, r"save dataset\.flatten_indices\(\)"),
        ("none", {"vocabulary": 7}, r"\*\.bin: cannot read tokens \(no such file\)"),
        ("float16", {"vocabulary": 7, "dtype": "float16"}, "dtype: .*a.bin cannot have 'float16'"),
        ("stream", {"vocabulary": "nowhere.json", "dtype": "uint16"}, "no file 'nowhere.json'"),
        ("stream", {"vocabulary": ["a"], "dtype": "uint16"}, "vocabulary must be two or more"),
        ("stream", {"vocabulary": 7, "dtype": "uint16", "end_id": 0}, "at least 4 tokens in a doc"),
    ],
)
def test_files_of_other_tools_that_are_not_read(damage, options, message, tmp_path):
    path = tmp_path / "a.bin"
    stream = np.zeros(18, "<u2")
    if damage == "cut":
        llm_c(path, separated(END, "<u2")[:19], 20240520, 1)
        path.write_bytes(path.read_bytes()[:-2])
        options = {"vocabulary": 7}
    elif damage == "described":
        stream.tofile(describe(path, dtype="uint16", vocab_size=7))
    elif damage == "rows":
        path = tmp_path / "a.npy"
        np.save(path, np.zeros((3, 4), int))
    elif damage == "index":
        megatron(path, DOCUMENTS, 8, "<u2")
        path.write_bytes(path.read_bytes()[:-2])
    elif damage == "no index":
        path = tmp_path / "a.idx"
        path.write_bytes(b"MMIDIDX")
    elif damage in ("floats", "nulls", "other column"):
        path = tmp_path / "a.arrow"
        documents = [[1, None]] if damage == "nulls" else DOCUMENTS
        arrow(path, documents, "float32" if damage == "floats" else "int32")
        if damage == "other column":
            path.write_bytes(path.read_bytes().replace(b"input_ids", b"a_text_id"))
    elif damage == "no arrow":
        path = tmp_path / "a.arrow"
        path.write_bytes(b"no table")
    elif damage == "splits":
        path = tmp_path / "a"
        datasets = pytest.importorskip("datasets")
        rows = datasets.Dataset.from_dict({"input_ids": DOCUMENTS})
        datasets.DatasetDict(train=rows, test=rows).save_to_disk(path)
    elif damage == "selected":
        path = tmp_path / "a"
        path.mkdir()
        state = {"_data_files": [{"filename": "a.arrow"}], "_indices_files": [{"filename": "b"}]}
        (path / "state.json").write_text(json.dumps(state))
    elif damage == "none":
        path = tmp_path / "*.bin"
    else:
        stream.tofile(path)
    with pytest.raises(aj.InputError, match=message) as caught:
        aj.open_tokens(path, 3, **options)
    assert "\n" not in str(caught.value)


def test_statistics_of_a_file_are_those_of_the_text(tmp_path):
    options = {"seq_len": 9, "num_documents": 50, "short": "pad"}
    file = aj.write_tokens("fables", tmp_path, **options)
    data = aj.load_tokens("fables", **options)
    one, other = aj.sparse_statistics(file), aj.sparse_statistics(data)
    np.testing.assert_array_equal(one.position, other.position)
    X = np.eye(file.vocab_size)
    np.testing.assert_array_equal(one.query_key @ X, other.query_key @ X)


def test_what_does_not_fit(tmp_path):
    path = tmp_path / "a.bin"
    np.arange(8, dtype=np.uint16).tofile(path)
    for about, seq_len, message in (
        (
            None,
            2,
            r"vocabulary: .*a\.bin does not tell it; give the number .* or describe .* in a\.json",
        ),
        ({}, 2, r"a\.json: expected a JSON object with vocabulary or vocab_size"),
        (
            {"vocab_size": 8},
            2,
            "dtype: .*a.bin does not tell it; give one of uint16, int32, uint32, int64",
        ),
        ({"vocab_size": 8, "dtype": "uint16"}, None, "seq_len must be given: .*a.bin is a stream"),
        (
            {"vocab_size": 8, "dtype": "uint16"},
            8,
            "expected at least 9 tokens in a document, got 8",
        ),
        ({"vocab_size": 8, "dtype": "uint16", "seq_len": 2}, None, r"of 3 tokens .*shape \[8\]"),
        ({"vocab_size": 1, "dtype": "uint16"}, 2, "vocab_size must be at least 2; got 1"),
    ):
        if about is not None:
            describe(path, **about)
        with pytest.raises(aj.InputError, match=message):
            aj.open_tokens(path, seq_len)
    describe(path, vocab_size=6, dtype="uint16")
    with pytest.raises(aj.InputError, match=r"a\.bin has 3 sequences .* got 4"):
        aj.open_tokens(path, 2, num_sequences=4)
    message = "got 4 to 6 in sequences 2 to 3; if 6 stands between documents, give it as end_id"
    with pytest.raises(aj.InputError, match=message):
        aj.open_tokens(path, 2).read(2, 3)
    describe(path, vocab_size=6, dtype="int32")
    np.array([0, 1, -100], np.int32).tofile(path)
    with pytest.raises(aj.InputError, match=r"got -100 to 1 .*; if -100 stands between documents"):
        aj.open_tokens(path, 2).read(0, 1)
    np.arange(8, dtype=np.uint16).tofile(path)
    describe(path, vocab_size=8, dtype="uint16", seq_len=3)
    np.array([4], np.uint32).tofile(tmp_path / "a.sizes.bin")
    with pytest.raises(aj.InputError, match=r"a\.sizes\.bin: expected 2 sizes, got 1"):
        aj.open_tokens(path)
    describe(tmp_path / "no.bin", vocab_size=8, dtype="uint16")
    with pytest.raises(aj.InputError, match=r"no\.bin: cannot read tokens"):
        aj.open_tokens(tmp_path / "no.bin", 2)
    np.save(describe(tmp_path / "f.npy", vocab_size=8), np.zeros((2, 3)))
    with pytest.raises(aj.InputError, match=r"expected integers, .* got float64 of shape"):
        aj.open_tokens(tmp_path / "f.npy")
    path.with_suffix(".json").write_text("{", "utf-8")
    with pytest.raises(aj.InputError, match=r"a\.json: not JSON"):
        aj.open_tokens(path)
    with pytest.raises(aj.InputError, match="cannot read tokens; a folder of assocjax tokenize"):
        aj.open_tokens(tmp_path)


@pytest.mark.parametrize(
    ("about", "error", "message"),
    [
        ({"vocab_size": 10**12}, aj.InputError, "vocab_size must be at most 16777216; got 10{12}"),
        ({"vocab_size": None}, aj.InputTypeError, "vocab_size must be an integer; got NoneType"),
        ({"vocabulary": 3}, aj.InputError, "vocabulary must be a list of strings"),
        ({"vocabulary": ["a", 3]}, aj.InputError, "vocabulary must be a list of strings"),
        (
            {"vocab_size": 8, "dtype": ["uint16"]},
            aj.InputError,
            r"dtype: .*a\.bin cannot have \['uint16'\]; give one",
        ),
        ({"vocab_size": 8, "name": 3}, aj.InputError, "name must be a string; got 3"),
        ({"vocab_size": 8, "sha256": {}}, aj.InputError, "sha256 must be a string; got {}"),
        ({"vocab_size": 8, "seq_len": "2"}, aj.InputTypeError, "seq_len must be an integer"),
        ({"vocab_size": 8, "seq_len": 10**9}, aj.InputError, r"of 10+1 tokens .*shape \[8\]"),
    ],
)
def test_descriptions_that_make_no_sense(tmp_path, about, error, message):
    path = describe(tmp_path / "a.bin", **({"dtype": "uint16"} | about))
    np.arange(8, dtype=np.uint16).tofile(path)
    with pytest.raises(error, match=message) as caught:
        aj.open_tokens(path, 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            np.arange(64, dtype=np.uint16).tobytes(),
            "dtype: .* has no header of a .npy .* give one of",
        ),
        (b"", "has no header of a .npy"),
        (b"PK\x03\x04" + bytes(60), "has no header of a .npy"),  # an archive of arrays
        (pickle.dumps([1, 2, 3]), "has no header of a .npy"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "cannot read tokens .*array header"),
        (b"\x93NUMPY\x01\x00\x04\x00{'\x1d\n", "cannot read tokens"),
    ],
)
def test_what_is_no_npy_is_called_so(tmp_path, content, message):
    path = describe(tmp_path / "a.npy", vocab_size=64)
    path.write_bytes(content)
    with pytest.raises(aj.InputError, match=message) as caught:
        aj.open_tokens(path, 2)
    assert "pickle" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_arrays_of_objects_are_not_loaded(tmp_path):
    path = describe(tmp_path / "a.npy", vocab_size=64)
    np.save(path, np.array([1, None, 3]))
    with pytest.raises(aj.InputError, match=r"cannot read tokens .*Python objects"):
        aj.open_tokens(path, 2)


@pytest.mark.parametrize("function", [aj.open_tokens, aj.write_tokens])
def test_paths_that_are_none(function, tmp_path):
    options = {} if function is aj.open_tokens else {"corpus": "fables", "seq_len": 4}
    name = "path" if function is aj.open_tokens else "folder"
    with pytest.raises(aj.InputTypeError, match=f"{name} must be a path; got int 3"):
        function(**{name: 3}, **options)
    with pytest.raises(aj.InputError, match=f"{name} must be a path, which holds no NUL"):
        function(**{name: "a\0.bin"}, **options)


# Files that belong together


def padded(folder, seed):
    """A token file with sizes."""
    return aj.write_tokens(
        "fables",
        folder,
        seq_len=50,
        num_documents=5,
        short="pad",
        seed=seed,
        long="window",
        overwrite=True,
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["tokens.bin", "tokens.sizes.bin"])
@pytest.mark.parametrize("change", ["another's", "cut", "lost", "one byte"])
def test_files_that_do_not_fit_their_description_are_refused(tmp_path, name, change):
    padded(tmp_path / "one", 0)
    padded(tmp_path / "other", 1)
    path = tmp_path / "one" / name
    if change == "another's":
        (tmp_path / "other" / name).replace(path)
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    elif change == "lost":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[0] ^= 1
        path.write_bytes(content)
    with pytest.raises(aj.InputError, match=r"tokens\.(bin|sizes\.bin): ") as caught:
        aj.open_tokens(tmp_path / "one")
    assert "\n" not in str(caught.value)


def test_sizes_that_a_description_does_not_know_are_refused(tmp_path):
    file = aj.write_tokens("fables", tmp_path, seq_len=9, num_documents=5)
    assert file.sizes is None
    np.full(file.num_sequences, 3, np.uint32).tofile(tmp_path / "tokens.sizes.bin")
    with pytest.raises(aj.InputError, match="expected sizes_sha256 None, as its description says"):
        aj.open_tokens(tmp_path)


@pytest.mark.parametrize("failing", range(9))
def test_a_writing_that_is_killed_leaves_no_data_beside_the_description_of_others(
    tmp_path, monkeypatch, failing
):
    """Every change to the folder, from the old description's end on, may be the last."""
    folder = tmp_path / "out"
    file = padded(folder, 0)
    before = file.read(0, 3)[0]
    changes = itertools.count()

    def killed(change):
        def maybe(self, *arguments, **options):
            changed = Path(arguments[0]) if arguments else self
            ours = changed.parent == folder and changed.name.startswith("tokens.")
            if ours and next(changes) == failing:
                raise Killed
            return change(self, *arguments, **options)

        return maybe

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        for name in ("unlink", "replace"):
            patch.setattr(Path, name, killed(getattr(Path, name)))
        padded(folder, 1)
    if failing == 0:
        np.testing.assert_array_equal(aj.open_tokens(folder).read(0, 3)[0], before)
    elif next(changes) > failing:  # it was killed
        with pytest.raises(aj.InputError, match=r"cannot read|as its description says"):
            aj.open_tokens(folder)
    again = padded(folder, 1)
    assert again.sha256 != file.sha256
    assert not any(path.is_dir() for path in folder.iterdir())


class Killed(BaseException):
    """As if the process ended here."""


@pytest.mark.parametrize("failure", ["no sequence", "bad line", "full disk", "late", "killed"])
def test_a_writing_that_fails_leaves_the_earlier_file_as_it_was(tmp_path, monkeypatch, failure):
    folder = tmp_path / "out"
    padded(folder, 0)
    (folder / "stream.part").write_text("of the user")
    before = contents(folder)
    text = tmp_path / "a.jsonl"
    text.write_text('{"text": "one two three"}\n' + "{" * (failure == "bad line"), "utf-8")

    def fail(*_):
        raise KeyboardInterrupt if failure == "killed" else OSError(28, "No space left on device")

    write_text = Path.write_text

    def fail_late(path, content, *options):  # where the description no longer fits the disk
        return fail() if '"vocabulary"' in content else write_text(path, content, *options)

    error = KeyboardInterrupt if failure == "killed" else aj.InputError
    with monkeypatch.context() as patch:
        if failure in ("full disk", "killed"):
            patch.setattr(writing, "gather", fail)
        if failure == "late":
            patch.setattr(Path, "write_text", fail_late)
        seq_len = 99 if failure == "no sequence" else 1
        with pytest.raises(error):
            aj.write_tokens(text, folder, seq_len=seq_len, overwrite=True)
    assert contents(folder) == before


def test_the_hash_of_a_file_is_of_tokens_sizes_and_vocabulary(tmp_path):
    stream = np.arange(8, dtype=np.uint16)
    hashes = []
    for number, (content, about, sizes) in enumerate(
        [
            (stream, {"vocab_size": 8}, None),
            (stream, {"vocab_size": 9}, None),
            (stream, {"vocabulary": list("abcdefgh")}, None),
            (stream[::-1], {"vocab_size": 8}, None),
            (stream, {"vocab_size": 8}, [4, 4]),
            (stream, {"vocab_size": 8}, [4, 3]),
        ]
    ):
        path = describe(
            tmp_path / f"{number}.bin", dtype="uint16", seq_len=3, name="a", sha256="5", **about
        )
        content.tofile(path)
        if sizes is not None:
            np.array(sizes, np.uint32).tofile(path.with_suffix(".sizes.bin"))
        hashes.append(aj.open_tokens(path).describe()["tokens_sha256"])
    assert len(set(hashes)) == len(hashes)
    assert aj.open_tokens(tmp_path / "0.bin").describe()["tokens_sha256"] == hashes[0]


def test_what_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(aj.InputError, match=r"folder .*file cannot be made: it is a file"):
        aj.write_tokens("fables", tmp_path / "file", seq_len=4, num_documents=2)
    (tmp_path / "short.txt").write_text("one two", "utf-8")
    with pytest.raises(aj.InputError, match=r"short\.txt gives no sequence of 5 tokens"):
        aj.write_tokens(tmp_path / "short.txt", tmp_path / "out", seq_len=4)
    (tmp_path / "empty.txt").write_text("<|endoftext|>", "utf-8")
    with pytest.raises(aj.InputError, match="holds no document"):
        aj.write_tokens(tmp_path / "empty.txt", tmp_path / "out", seq_len=4)
    assert not (tmp_path / "out").exists()


def test_tokens_of_another_text_of_the_same_name_are_not_replaced_in_silence(tmp_path):
    text, out = tmp_path / "a.txt", tmp_path / "out"
    text.write_text("one two three", "utf-8")
    write = functools.partial(aj.write_tokens, text, out, seq_len=2)
    write()
    before = contents(out)
    write()  # the same, once more
    assert contents(out) == before
    text.write_text("three two one", "utf-8")
    with pytest.raises(aj.InputError, match="the tokens of another text or tokenizer"):
        write()
    with pytest.raises(aj.InputError, match="its oov is 'unk', here it is 'drop'"):
        write(oov="drop")
    assert contents(out) == before
    assert write(overwrite=True).read(0, 1)[0].tolist() != [[0, 1, 2]]


# Commands


def test_the_command_reads_folders_and_answers_at_once_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("one two three", "utf-8")
    command = ["tokenize", "--corpus", "texts", "--seq-len", "2"]
    cli.main(command)
    with monkeypatch.context() as patch:
        patch.setattr(writing, "open_source", None)  # nothing is read
        cli.main(command)
    assert "already complete" in capsys.readouterr().out
    (tmp_path / "texts" / "b.txt").write_text("four five six", "utf-8")
    with pytest.raises(SystemExit):
        cli.main(command)
    assert "the tokens of another text" in capsys.readouterr().err


def test_options_tell_what_a_token_file_does_not(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    separated(END, "<u2").tofile("a.bin")
    options = {"--vocabulary": "7", "--dtype": "uint16", "--end-id": str(END)}
    command = ["associations", "2", "--corpus", "a.bin", "--seq-len", "2", "--matrices", "sparse"]
    for missing in ("--vocabulary", "--dtype", "--end-id"):
        given = [word for name in options if name != missing for word in (name, options[name])]
        with pytest.raises(SystemExit):
            cli.main([*command, *given])
        assert missing in capsys.readouterr().err
    cli.main([*command, *itertools.chain(*options.items())])
    assert (
        f"a.bin: {len(of_documents(DOCUMENTS, 2, 'window', 'drop'))} seq" in capsys.readouterr().out
    )


# Resumed


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
@pytest.mark.parametrize("moment", [1, 3, 4])
def test_a_writing_that_is_killed_is_resumed_to_the_same_bits(
    tokenizer, moment, tmp_path, monkeypatch, small_blocks
):
    """Killed while it saves: some files are extended already, the state is not."""
    text = tmp_path / "a.jsonl"
    stories = fables.generate(60)
    text.write_text("\n".join(json.dumps({"text": story}) for story in stories), "utf-8")
    write = functools.partial(aj.write_tokens, text, seq_len=9, short="pad", tokenizer=tokenizer)
    write(folder=tmp_path / "undisturbed")
    encoded, saves = [], itertools.count(1)

    def dying(path, content):
        if path.name == "state.json" and next(saves) == moment:
            raise Killed
        return save(path, content)

    def spied(encoder, batches):
        for batch in batches:
            encoded.extend(batch)
            yield from encode(encoder, [batch])

    save, encode = _numbers.write_whole, _numbers.encode
    with monkeypatch.context() as patch:
        patch.setattr(_numbers, "write_whole", dying)
        with pytest.raises(Killed):
            write(folder=tmp_path / "out")
    phases = []
    with monkeypatch.context() as patch:
        patch.setattr(_numbers, "encode", spied)
        write(folder=tmp_path / "out", progress=lambda *now: phases.append(now[2]))
    assert ("reading again" in phases) == (moment > 1)
    assert (encoded == stories) == (moment == 1)
    assert stories[-len(encoded) :] == encoded  # those before are not tokenised again
    before, after = contents(tmp_path / "undisturbed"), contents(tmp_path / "out")
    assert {name: before[name] for name in before if name[0] != "."} == {
        name: after[name] for name in after if name[0] != "."
    }


def test_a_text_that_has_changed_is_not_resumed(tmp_path, monkeypatch, small_blocks):
    text, out = tmp_path / "a.txt", tmp_path / "out"
    stories = fables.generate(60)
    write = functools.partial(aj.write_tokens, text, out, seq_len=9)

    def dying(*_, **options):
        raise Killed

    text.write_text("<|endoftext|>".join(stories), "utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(writing, "select_vocabulary", dying)
        with pytest.raises(Killed):
            write()
    text.write_text("<|endoftext|>".join(stories[1:]), "utf-8")
    with pytest.raises(aj.InputError, match="holds unfinished tokens of another text"):
        write()
    text.write_text("<|endoftext|>".join(stories), "utf-8")
    assert_same(write(), aj.load_tokens(text, seq_len=9))


def test_bytes_are_reported(tmp_path, small_blocks):
    text = tmp_path / "a.txt"
    text.write_text("<|endoftext|>".join(fables.generate(300)), "utf-8")
    seen = []
    aj.write_tokens(
        text, tmp_path / "out", seq_len=9, tokenizer="bpe", progress=lambda *now: seen.append(now)
    )
    phases = dict.fromkeys(phase for _, _, phase in seen)
    assert list(phases) == ["training the tokenizer", "tokenizing", "writing"]
    size = text.stat().st_size
    assert {total for _, total, phase in seen if phase != "writing"} == {size}
    assert seen[-1][0] == seen[-1][1]
    assert all(done <= total for done, total, _ in seen)

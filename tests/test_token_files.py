"""Token files: written, read by ranges, and what does not fit."""

import json

import numpy as np
import pytest
from conftest import random_tokens

import assocjax as aj
from assocjax.corpora import read_documents, token_files, train_bpe


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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"short": "pad"},
        {"short": "pad", "long": "cut", "oov": "drop", "vocab_size": 190},
        {"vocab_size": 20, "seq_len": 100, "short": "pad"},
    ],
)
def test_written_are_the_sequences_of_load_tokens(options, tmp_path, monkeypatch):
    monkeypatch.setattr(token_files, "_BATCH", 7)  # 50 documents are no whole number of batches
    options = {"corpus": "fables", "seq_len": 9, "num_documents": 50} | options
    file = aj.write_tokens(folder=tmp_path / "new" / "tokens", **options)
    data = aj.load_tokens(**options)
    assert_same(file, data)
    assert file.ids.dtype == np.uint16
    names = {"tokens.bin", "tokens.json"} | (set() if data.mask.all() else {"tokens.sizes.bin"})
    assert {p.name for p in (tmp_path / "new" / "tokens").iterdir()} == names


@pytest.mark.parametrize("vocab_size", [None, 60])
def test_a_loaded_tokenizer(vocab_size, tmp_path, monkeypatch):
    monkeypatch.setattr(token_files, "_BATCH", 7)
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
    for dtype in ("uint16", "uint32"):
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
        (None, 2, r"a\.json: cannot read the description"),
        ({}, 2, r"a\.json: expected a JSON object with vocabulary or vocab_size"),
        ({"vocab_size": 8}, 2, r"a\.bin: dtype must be one of uint16, int32, uint32, int64; got None"),
        ({"vocab_size": 8, "dtype": "uint16"}, None, "seq_len must be given: .*a.bin is a stream"),
        ({"vocab_size": 8, "dtype": "uint16"}, 8, "expected at least 9 tokens, got 8"),
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
    with pytest.raises(aj.InputError, match="ids from 0 to 5, got 4 to 6 in sequences 2 to 3"):
        aj.open_tokens(path, 2).read(2, 3)
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
    (tmp_path / "j.json").write_text("{", "utf-8")
    with pytest.raises(aj.InputError, match=r"j\.json: not JSON"):
        aj.open_tokens(tmp_path / "j.bin")


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(aj.InputError, match=r"tokenizer: expected 'word' or .* got 'bpe'"):
        aj.write_tokens("fables", tmp_path, seq_len=4, tokenizer="bpe")
    (tmp_path / "file").write_text("")
    with pytest.raises(aj.InputError, match=r"cannot write tokens to .*file"):
        aj.write_tokens("fables", tmp_path / "file", seq_len=4, num_documents=2)
    (tmp_path / "short.txt").write_text("one two", "utf-8")
    with pytest.raises(aj.InputError, match=r"short\.txt gives no sequence of 5 tokens"):
        aj.write_tokens(tmp_path / "short.txt", tmp_path / "out", seq_len=4)
    (tmp_path / "empty.txt").write_text("<|endoftext|>", "utf-8")
    with pytest.raises(aj.InputError, match="holds no document"):
        aj.write_tokens(tmp_path / "empty.txt", tmp_path / "out", seq_len=4)
    assert not list((tmp_path / "out").iterdir())

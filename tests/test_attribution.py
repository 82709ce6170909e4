"""Shares of documents against a brute-force polynomial of their weights, and against training."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import random_mask, random_tokens, token_data

import assocjax as aj
from assocjax import cli
from assocjax.analysis import attribution, influence
from assocjax.analysis.passages import _passage, listing
from assocjax.corpora import fables

N, T, V = 6, 5, 4
A, B = 1, 0
DOCUMENTS = np.array([0, 2, 1, 2, 2, 0])
MATRICES = tuple(attribution.DEGREES)


@pytest.fixture(scope="module")
def corpus():
    return random_tokens(0, N, T, V), random_mask(1, N, T)


def one_hot(ids):
    return np.eye(V)[ids]


def brute_matrices(tokens, mask, weights):
    """Every matrix, by loops, of a corpus whose positions [N, T] have weights; M is kept."""
    M = mask.sum()
    X, R = one_hot(tokens[:, :-1]), one_hot(tokens[:, 1:]) - 1 / V
    bigram, context = np.zeros((2, V, V))
    attention = np.zeros((len(tokens), T, T))
    for n, t in np.argwhere(mask):
        keys = np.flatnonzero(mask[n, : t + 1])
        attention[n, t, keys] = 1 / len(keys)
        bigram += weights[n, t] * np.outer(X[n, t], R[n, t]) / M
        context += weights[n, t] * np.outer(R[n, t], attention[n, t] @ X[n]) / M
    composed = context.T @ bigram.T @ bigram
    query_key = np.zeros((V, V))
    for n, t in np.argwhere(mask):
        m = X[n] @ composed @ R[n, t]
        D = attention[n, t] * (m - attention[n, t] @ m)
        query_key += weights[n, t] * np.outer(X[n, t], D @ X[n]) / M
    return {
        "bigram": bigram,
        "context": context,
        "interchangeability": bigram.T @ bigram,
        "substitutability": bigram @ bigram.T,
        "value": context.T @ bigram.T,
        "composed": composed,
        "query_key": query_key,
    }


@pytest.fixture(scope="module")
def brute(corpus):
    """Entries [A, B] as functions of weights [N, T] of positions."""

    def entries(weights):
        found = brute_matrices(*corpus, weights)
        return np.array([found[name][A, B] for name in MATRICES])

    return entries


@pytest.fixture(scope="module")
def brute_derivatives(brute):
    """[matrices, N, T]: a five-point rule, which is exact for polynomials of degree four."""
    slopes = np.zeros((len(MATRICES), N, T))
    for n, t in np.ndindex(N, T):
        step = np.zeros((N, T))
        step[n, t] = 0.5
        ahead = 8 * (brute(1 + step) - brute(1 - step))
        slopes[:, n, t] = (ahead - (brute(1 + 2 * step) - brute(1 - 2 * step))) / 6
    return slopes


@pytest.mark.optimized
def test_shares_in_float32(corpus, brute, brute_derivatives):
    assert_shares("query_key", corpus, brute, brute_derivatives, 2e-5)


@pytest.mark.optimized
def test_sums_over_a_large_corpus_keep_their_digits_in_float32():
    """Two documents of 64,000 positions, against float64: rounding does not grow with size."""
    V, N = 10, 8000
    tokens, halves = random_tokens(0, N, 16, V), np.arange(N) // (N // 2)
    found = {}
    for double in (False, True):
        jax.config.update("jax_enable_x64", double)
        statistics = aj.corpus_statistics(tokens, V)
        for matrix in ("bigram", "context", "query_key"):
            at = {"matrix": matrix, "row": 1, "column": 0, "documents": halves}
            shares = aj.attribute(statistics, tokens, **at).documents
            changes = aj.leave_out(statistics, tokens, **at)
            found[matrix, double] = np.array([shares, changes], float)
    jax.config.update("jax_enable_x64", False)
    for matrix in ("bigram", "context", "query_key"):
        expected = found[matrix, True]
        largest = np.max(np.abs(expected), axis=1, keepdims=True)
        assert np.all(np.abs(found[matrix, False] - expected) < 1e-6 * largest), matrix


@pytest.mark.parametrize("matrix", MATRICES)
def test_shares_are_derivatives_and_sum_to_the_entry(matrix, corpus, brute, brute_derivatives, x64):
    assert_shares(matrix, corpus, brute, brute_derivatives, 1e-11)


def assert_shares(matrix, corpus, brute, brute_derivatives, tolerance):
    statistics = aj.corpus_statistics(corpus[0], V, corpus[1])
    at = {"matrix": matrix, "row": A, "column": B}
    found = aj.attribute(statistics, *corpus, **at, documents=DOCUMENTS)
    i = MATRICES.index(matrix)
    expected = brute_derivatives[i] / attribution.DEGREES[matrix]
    # Relative to the sum of absolute shares: a float32 entry may be a difference of larger ones.
    atol = tolerance * np.abs(expected).sum()
    np.testing.assert_allclose(found.entry, brute(np.ones((N, T)))[i], rtol=0, atol=atol)
    np.testing.assert_allclose(found.entry, getattr(statistics, matrix)[A, B], rtol=0, atol=atol)
    np.testing.assert_allclose(found.positions, expected, rtol=0, atol=atol)
    np.testing.assert_array_equal(found.positions[~corpus[1]], 0)
    by_document = np.bincount(DOCUMENTS, expected.sum(axis=1))
    np.testing.assert_allclose(found.documents, by_document, rtol=0, atol=atol)
    if tolerance < 1e-6:
        np.testing.assert_allclose(found.documents.sum(), found.entry, rtol=1e-6)
    pairs = aj.pair_shares(statistics, *corpus, **at, sequences=[4, 0, 2])
    assert pairs.shape == (3, T, T)
    np.testing.assert_array_equal(np.triu(pairs, 1), 0)
    rows = np.asarray(found.positions)[[4, 0, 2]]
    np.testing.assert_allclose(pairs.sum(axis=2), rows, rtol=0, atol=atol)


def test_shares_of_occurrences_by_hand(corpus, x64):
    tokens, mask = corpus
    statistics = aj.corpus_statistics(tokens, V, mask)
    everything = np.arange(N)
    bigram = aj.pair_shares(
        statistics, tokens, mask, matrix="bigram", row=A, column=B, sequences=everything
    )
    context = aj.pair_shares(
        statistics, tokens, mask, matrix="context", row=A, column=B, sequences=everything
    )
    for n, t, k in itertools.product(range(N), range(T), range(T)):
        pair = mask[n, t] and mask[n, k] and k <= t
        target = pair * ((tokens[n, t + 1] == np.array([B, A])) - 1 / V) / mask.sum()
        follows = target[0] * (t == k) * (tokens[n, t] == A)
        before = target[1] * (tokens[n, k] == B) / max(1, mask[n, : t + 1].sum())
        np.testing.assert_allclose(bigram[n, t, k], follows, atol=1e-15)
        np.testing.assert_allclose(context[n, t, k], before, atol=1e-15)


@pytest.mark.parametrize("matrix", MATRICES)
def test_leaving_a_document_out(matrix, corpus, brute, x64):
    tokens, mask = corpus
    statistics = aj.corpus_statistics(tokens, V, mask)
    at = {"matrix": matrix, "row": A, "column": B}
    changes = aj.leave_out(statistics, tokens, mask, **at, documents=DOCUMENTS)
    shares = aj.attribute(statistics, tokens, mask, **at, documents=DOCUMENTS).documents
    entry, degree = getattr(statistics, matrix)[A, B], attribution.DEGREES[matrix]
    atol = 1e-11 * np.abs(shares).sum()
    for document, change in enumerate(changes):
        others = document != DOCUMENTS
        kept = np.broadcast_to(others[:, None], (N, T)).astype(float)
        whole, rest = (brute(w)[MATRICES.index(matrix)] for w in (np.ones((N, T)), kept))
        np.testing.assert_allclose(change, whole - rest, rtol=0, atol=atol)
        anew = aj.corpus_statistics(tokens, V, mask & others[:, None])
        ratio = mask.sum() / mask[others].sum()
        recounted = getattr(anew, matrix)[A, B]
        np.testing.assert_allclose(
            recounted, ratio**degree * (entry - change), rtol=0, atol=ratio**degree * atol
        )
        # What the issue asks of shares holds where it can: of matrices linear in the documents.
        if degree == 1:
            np.testing.assert_allclose(change, shares[document], rtol=0, atol=atol)
        else:
            assert abs(change - shares[document]) > 1e-3 * np.abs(shares).max()
    others = aj.leave_out(statistics, tokens, mask, **at, documents=DOCUMENTS, which=[2, 0, 1])
    np.testing.assert_allclose(others, changes[np.array([2, 0, 1])], rtol=0, atol=atol)


@pytest.mark.parametrize("matrix", ["value", "interchangeability"])
def test_shares_of_degree_two_are_shapley_values(matrix, corpus, brute, x64):
    statistics = aj.corpus_statistics(corpus[0], V, corpus[1])
    found = aj.attribute(statistics, *corpus, matrix=matrix, row=A, column=B, documents=DOCUMENTS)
    shapley = np.zeros(3)
    for order in itertools.permutations(range(3)):
        kept, last = np.ones((N, T)), brute(np.ones((N, T)))
        for document in order:
            kept = kept * (document != DOCUMENTS)[:, None]
            rest = brute(kept)
            shapley[document] += (last - rest)[MATRICES.index(matrix)] / 6
            last = rest
    np.testing.assert_allclose(found.documents, shapley, rtol=1e-10)


def test_one_program_for_all_entries(corpus):
    statistics = aj.corpus_statistics(corpus[0], V, corpus[1])
    programs = (attribution._position_shares, attribution._entry_and_gradient, attribution._changes)
    sizes = []
    for row, column in ((0, 1), (2, 3), (1, 1)):
        at = {"matrix": "value", "row": row, "column": column}
        aj.attribute(statistics, *corpus, **at)
        aj.leave_out(statistics, *corpus, **at)
        sizes.append([program._cache_size() for program in programs])
    assert sizes[0] == sizes[1] == sizes[2]


# Training


ENTRIES = {
    "output": ("bigram", (A, B)),
    "value": ("value", (0, A, B)),
    "query_key": ("query_key", (0, A, B)),
}


STEPS = 4


@functools.cache
def influence_of(weight):
    """The influence on an entry as a function of the learning rate: one program for all tests."""
    tokens, mask = random_tokens(0, N, T, V), random_mask(1, N, T)

    @jax.jit
    def at(rate):
        start = aj.init_params(jax.random.key(0), vocab_size=V, seq_len=T, num_layers=1)
        return aj.training_influence(
            start,
            tokens,
            mask,
            optimizer=optax.sgd(rate),
            steps=STEPS,
            weight=weight,
            index=ENTRIES[weight][1],
            documents=DOCUMENTS,
        )

    return at


def test_influence_is_the_derivative_of_training(corpus, x64):
    """Against training by another loss, of weighted documents, and central differences."""
    tokens, mask = corpus
    rate = 0.5
    found = influence_of("value")(jnp.asarray(rate))

    @jax.jit
    def trained(weights):
        def loss(params):
            logits = jax.vmap(aj.logits, (None, 0, 0))(params, jnp.asarray(tokens[:, :-1]), mask)
            targets = jax.nn.one_hot(tokens[:, 1:], V)
            nll = -jnp.sum(jax.nn.log_softmax(logits) * targets, axis=-1)
            return jnp.sum(weights[DOCUMENTS][:, None] * jnp.where(mask, nll, 0)) / float(
                mask.sum()
            )

        params = aj.init_params(jax.random.key(0), vocab_size=V, seq_len=T, num_layers=1)
        for _ in range(STEPS):
            gradient = jax.grad(loss)(params)
            params = jax.tree.map(lambda w, g: w - rate * g, params, gradient)
        return params.value[0, A, B]

    np.testing.assert_allclose(found.entry, trained(jnp.ones(3)), rtol=1e-12)
    h = 1e-4
    for document in range(3):
        step = jnp.zeros(3).at[document].set(h)
        difference = (trained(1 + step) - trained(1 - step)) / (2 * h)
        # Error of the difference: h^2 times a third derivative of the same order.
        np.testing.assert_allclose(found.documents[document], difference, rtol=1e-6)


@pytest.mark.parametrize("weight", ENTRIES)
def test_influence_tends_to_the_closed_form(weight, corpus, x64):
    statistics = aj.corpus_statistics(corpus[0], V, corpus[1])
    matrix = ENTRIES[weight][0]
    shares = aj.attribute(
        statistics, *corpus, matrix=matrix, row=A, column=B, documents=DOCUMENTS
    ).documents
    rates, errors = (0.04, 0.02, 0.01), []
    for rate in rates:
        found = influence_of(weight)(jnp.asarray(rate))
        coefficients = aj.descent_coefficients(rate, STEPS)
        a = dict(zip(("output", "value", "query_key"), coefficients, strict=True))[weight]
        closed = np.asarray(a * attribution.DEGREES[matrix] * shares)
        exact = np.asarray(found.documents)
        errors.append(np.linalg.norm(exact - closed) / np.linalg.norm(exact))
    cosine = exact @ closed / (np.linalg.norm(exact) * np.linalg.norm(closed))
    assert cosine > 0.9999
    # The leading terms are the lowest power of eta; the next is one power higher.
    slopes = np.diff(np.log(errors)) / np.diff(np.log(rates))
    np.testing.assert_allclose(slopes, 1, atol=0.1)


def test_influence_through_adam(corpus, x64, promote):
    """Right with `eps_root`; without it, where it is NaN, one line says so."""
    start = aj.init_params(jax.random.key(0), vocab_size=V, seq_len=T, num_layers=1)
    at = {"steps": 2, "weight": "value", "index": np.array([0, A, B])}
    with pytest.raises(aj.InputError, match="they are NaN here: set optax's option eps_root"):
        aj.training_influence(start, *corpus, optimizer=optax.adam(0.1), **at)

    adam = optax.adam(0.1, eps=1e-3, eps_root=1e-30)  # smooth at the scale of h
    found = aj.training_influence(start, *corpus, optimizer=adam, **at)

    # Of the first document another copy, with M as it was: gradients are those of N sequences.
    def trained(weight):
        def gradient(params, step):
            whole, first = (aj.exact_gradient(params, *(a[:n] for a in corpus)) for n in (N, 1))
            share = corpus[1][0].sum() / corpus[1].sum()
            return 0.0, jax.tree.map(lambda g, f: g + weight * share * f, whole, first)

        return aj.train(start, gradient, adam, 2, observe=lambda s: 0.0)[0].value[0, A, B]

    trained, h = jax.jit(trained), 1e-6
    difference = (trained(h) - trained(-h)) / (2 * h)
    np.testing.assert_allclose(found.documents[0], difference, rtol=1e-4)
    with pytest.raises(aj.InputError, match="must train without diverging"):
        aj.training_influence(start, *corpus, optimizer=optax.sgd(1e200), **at | {"steps": 4})


# Passages


def test_passages_of_a_grammar():
    data = aj.load_tokens("fables", seq_len=8, num_documents=60)
    # Windows of a document follow on one another, and share a token.
    same = data.documents[1:] == data.documents[:-1]
    np.testing.assert_array_equal(data.tokens[:-1, -1][same], data.tokens[1:, 0][same])
    assert set(data.documents) <= set(range(60))
    dataset = aj.find_passages(data, "flew", "away", matrices=("bigram", "composed"), top=3)
    statistics = aj.corpus_statistics(data)
    at = data.token_id("flew"), data.token_id("away")
    entry = dataset["entry"].sel(matrix="bigram").item()
    assert entry == pytest.approx(float(statistics.bigram[at]), rel=1e-5)
    np.testing.assert_allclose(dataset["share"].sum("document"), dataset["entry"], rtol=1e-5)
    rows = listing(dataset, "bigram")
    assert len(rows) == 3
    stories = fables.generate(60)
    for row in rows:
        assert "«flew» «away»" in row["passage"]
        assert "flew away" in stories[row["document"]]
        assert row["change"] == pytest.approx(row["share"], rel=1e-4)
        assert row["share"] == pytest.approx(row["% of entry"] / 100 * entry)
    assert [row["share"] for row in rows] == sorted((row["share"] for row in rows), reverse=True)
    best = dataset["share"].sel(matrix="bigram").max()
    assert rows[0]["share"] == pytest.approx(float(best))


def test_a_corpus_is_summed_once_for_all_parts_of_an_entry(monkeypatch, corpus):
    sums, add = [], attribution._sum_factors
    monkeypatch.setattr(
        attribution, "_sum_factors", lambda *of: sums.append(len(of[2])) or add(*of)
    )
    data = token_data(corpus[0], V, corpus[1])
    dataset = aj.find_passages(data, "w0", "w1", matrices=["query_key"], top=2)
    assert sums == [N, 1, 1]  # the corpus, and each listed document, a sequence
    assert float(dataset.share.sum()) == pytest.approx(float(dataset.entry[0]), rel=1e-4)


def test_passages_leave_out_the_middle_and_the_padding():
    tokens = np.full((1, 22), 2, np.int32)
    tokens[0, [0, 14, 15]] = 1, 0, 3
    mask = np.arange(21) < 18
    data = token_data(tokens, 4, mask[None])
    shares = np.zeros((21, 21))
    shares[14, 0] = 1  # target 15, key 0
    shares[14, 14] = 0.9
    expected = "«w1» w2 w2 w2 w2 … w2 w2 w2 w0 «w3» w2 w2 w2"
    assert _passage(data, 0, shares) == expected


BAD = [
    ({"matrix": "output"}, "matrix must be one of"),
    ({"row": V}, "row must be below the size of the vocabulary, 4; got 4"),
    ({"column": -1}, "column must be at least 0"),
    ({"documents": np.zeros(N)}, "documents must be integers"),
    ({"documents": np.zeros(N - 1, int)}, "one for each of the 6 sequences"),
    ({"documents": np.full(N, -1)}, "least -1"),
    ({"mask": np.ones((N, T), bool)}, "data must be the corpus of statistics"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_arguments(change, message, corpus):
    tokens, mask = corpus
    statistics = aj.corpus_statistics(tokens, V, mask)
    arguments = {"data": tokens, "mask": mask, "matrix": "value", "row": A, "column": B}
    for function in (aj.attribute, aj.leave_out):
        with pytest.raises((aj.InputError, aj.InputTypeError), match=message):
            function(statistics, **(arguments | change))


def test_bad_arguments_of_parts(corpus):
    statistics = aj.corpus_statistics(corpus[0], V, corpus[1])
    at = {"matrix": "value", "row": A, "column": B}
    with pytest.raises(aj.InputError, match="every entry of sequences must be at most 5; got 6"):
        aj.pair_shares(statistics, *corpus, **at, sequences=[0, 6])
    with pytest.raises(aj.InputError, match="every entry of which must be at least 0; got -1"):
        aj.leave_out(statistics, *corpus, **at, which=[-1])
    start = aj.init_params(jax.random.key(0), vocab_size=V, seq_len=T, num_layers=1)
    with pytest.raises(aj.InputError, match="index must be of an entry of position"):
        influence.training_influence(
            start, *corpus, optimizer=optax.sgd(1.0), steps=1, weight="position", index=(0, T)
        )
    data = token_data(corpus[0], V, corpus[1])
    with pytest.raises(aj.InputError, match="matrices must not be empty"):
        aj.find_passages(data, "w0", "w1", matrices=())
    with pytest.raises(aj.InputError, match=r"documents: expected shape \[6\]"):
        aj.TokenData(*corpus, data.vocabulary, "", "", documents=np.zeros(2, np.int32))


def test_command(tmp_path, capsys):
    small = ("--num-documents", "60", "--seq-len", "8", "--precision", "float32")
    command = ["attribute", *small, "flew", "away", "--weight", "bigram", "composed", "--top", "3"]
    cli.main([*command, "--out", str(tmp_path)])
    out = " ".join(capsys.readouterr().out.split())
    content = json.loads((tmp_path / "attribution.json").read_text("utf-8"))
    dataset = aj.load(tmp_path / "attribution.nc")
    assert content["corpus_sha256"] == dataset.attrs["corpus_sha256"]
    assert content["config"]["row"] == "flew"
    for matrix in ("bigram", "composed"):
        of_matrix = content["attribution"][matrix]
        assert of_matrix["entry"] == dataset["entry"].sel(matrix=matrix).item()
        assert of_matrix["sum_of_shares"] == pytest.approx(of_matrix["entry"], rel=1e-4)
        assert len(of_matrix["listed"]) == 3
        assert f"{matrix} [flew, away] = {of_matrix['entry']:.4g}" in out
        for row in of_matrix["listed"]:
            assert row["passage"].split()[0] in out
    assert "«flew» «away»" in out
    assert "a product of 3 sums over documents" in out
    with pytest.raises(SystemExit) as stop:
        cli.main(["attribute", *small, "flew", "awya"])
    assert stop.value.code == 2
    assert "'awya'" in capsys.readouterr().err

"""Theory matrices of some tokens, against the definitions written with one-hots and loops."""

import numpy as np
import pytest
from conftest import random_mask, random_tokens, token_data

import assocjax as aj
from assocjax.llm import theory
from assocjax.llm.theory import basis_matrices, subset_matrices
from assocjax.statistics import counting

N, T, V = 30, 7, 12
IDS = np.array([7, 0, 3, 11, 1])  # in no order, 11 occurs nowhere


def one_hot_definitions(data, residual):
    """Section by section: residuals, B, Phi, G, then D position by position."""
    x, y, V = data.tokens[:, :-1], data.tokens[:, 1:], data.vocab_size
    M = data.mask.sum()
    one = np.eye(V)
    p = one[y][data.mask].mean(axis=0) if residual == "unigram" else np.full(V, 1 / V)
    B, Phi = np.zeros((V, V)), np.zeros((V, V))
    keys_of = {}
    for n in range(len(x)):
        for t in np.flatnonzero(data.mask[n]):
            keys_of[n, t] = keys = [k for k in range(t + 1) if data.mask[n, k]]
            r = one[y[n, t]] - p
            B += np.outer(one[x[n, t]], r) / M
            Phi += np.outer(r, one[x[n, keys]].mean(axis=0)) / M
    G = Phi.T @ B.T @ B
    Q = np.zeros((V, V))
    for (n, t), keys in keys_of.items():
        m = [one[x[n, k]] @ G @ (one[y[n, t]] - p) for k in keys]
        for k, each in zip(keys, m, strict=True):
            Q[x[n, t], x[n, k]] += (each - np.mean(m)) / len(keys) / M
    return {
        "bigram": B,
        "context": Phi,
        "interchangeability": B.T @ B,
        "value": Phi.T @ B.T,
        "query_key": Q,
    }


@pytest.fixture(params=[False, True], ids=["full", "masked"])
def data(request):
    return token_data(
        random_tokens(0, N, T, V - 2), V, random_mask(1, N, T) if request.param else None
    )


@pytest.mark.parametrize("residual", ["uniform", "unigram"])
def test_basis_matrices_are_blocks_of_the_full_ones(data, residual, monkeypatch):
    monkeypatch.setattr(theory, "_BLOCK_COLUMNS", 2)
    found = basis_matrices(data, IDS, residual=residual)
    assert tuple(found) == theory.MATRICES
    for name, full in one_hot_definitions(data, residual).items():
        block = full[np.ix_(IDS, IDS)]
        # Integer sums have some 40 binary digits here.
        np.testing.assert_allclose(found[name], block, rtol=0, atol=1e-10 * np.abs(block).max())


def test_residuals_differ_in_every_matrix(data):
    uniform, unigram = (basis_matrices(data, IDS, residual=r) for r in ("uniform", "unigram"))
    for name in theory.MATRICES:
        assert np.abs(uniform[name] - unigram[name]).max() > 1e-3 * np.abs(uniform[name]).max()


def test_counts_spare_a_pass(data):
    counts = counting.count(data, range(N))
    seen = []
    found = basis_matrices(data, IDS, counts=counts, progress=lambda *done: seen.append(done))
    assert seen[-1] == (N, N)
    for name, matrix in basis_matrices(data, IDS).items():
        np.testing.assert_array_equal(found[name], matrix)


def test_statistics_that_are_known(data):
    found = subset_matrices(aj.sparse_statistics(data), IDS)
    for name, matrix in basis_matrices(data, IDS).items():
        np.testing.assert_array_equal(found[name], matrix)
    with pytest.raises(aj.InputError, match="not frequency_corrected"):
        subset_matrices(aj.sparse_statistics(data, frequency_corrected=True), IDS)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"token_ids": []}, ValueError, r"shape \[n\], not empty"),
        ({"token_ids": [[1]]}, ValueError, r"got \(1, 1\)"),
        ({"token_ids": [1.0]}, TypeError, "must be integers"),
        ({"token_ids": [0, V]}, ValueError, f"vocab_size={V}\\); got {V}"),
        ({"token_ids": [0, -1]}, ValueError, "got -1"),
        ({"token_ids": [2, 5, 2]}, ValueError, "distinct; got 2 more than once"),
        ({"token_ids": [0], "residual": "none"}, ValueError, "'uniform', 'unigram'; got 'none'"),
    ],
)
def test_bad_arguments(arguments, error, message):
    data = token_data(random_tokens(0, 3, T, V), V)
    with pytest.raises(error, match=message) as caught:
        basis_matrices(data, **arguments)
    assert isinstance(caught.value, aj.InputError | aj.InputTypeError)


def test_bad_statistics_arguments():
    data = token_data(random_tokens(0, 3, T, V), V)
    with pytest.raises(aj.InputError, match="must be left out with frequency_corrected"):
        aj.sparse_statistics(data, frequency_corrected=True, residual="unigram")
    other = counting.count(token_data(random_tokens(0, 3, T, V), V + 1), range(3))
    with pytest.raises(aj.InputError, match="counts must be of the 12 tokens of source; got 13"):
        aj.sparse_statistics(data, counts=other)

"""Intervals over groups of sequences, against a corpus in which the groups are repeated."""

import numpy as np
import pytest
from conftest import random_mask, random_tokens, token_data

import assocjax as aj
from assocjax.llm import FactoredMatrix, basis_matrices, bootstrap_similarity, covariance_similarity

N, T, V, GROUPS = 30, 7, 12, 5
IDS = np.array([7, 0, 3, 11, 1])
NAMES = ("bigram", "context", "interchangeability", "value")


@pytest.fixture(scope="module")
def data():
    return token_data(random_tokens(0, N, T, V - 2), V, random_mask(1, N, T))


def layers():
    return np.random.default_rng(3).normal(size=(2, len(IDS), 4))


@pytest.mark.parametrize(("centering", "residual"), [("feature", "uniform"), ("both", "unigram")])
def test_replicates_are_repeated_groups(data, centering, residual, x64):
    R, seed = 6, 4
    found = bootstrap_similarity(
        layers(),
        data,
        IDS,
        num_groups=GROUPS,
        num_replicates=R,
        level=0.6,
        seed=seed,
        centering=centering,
        residual=residual,
    )
    draws = np.random.default_rng(seed).multinomial(GROUPS, [1 / GROUPS] * GROUPS, R)
    scores = {name: [] for name in NAMES}
    for weights in [np.ones(GROUPS, int), *draws]:
        order = np.repeat(np.arange(N).reshape(GROUPS, -1), weights, axis=0).ravel()
        repeated = token_data(data.tokens[order], V, data.mask[order])
        matrices = basis_matrices(repeated, IDS, residual=residual)
        for name in NAMES:
            pair = [float(covariance_similarity(A, matrices[name], centering)) for A in layers()]
            scores[name].append(pair)
    assert tuple(found) == NAMES
    for name, interval in found.items():
        whole, replicates = scores[name][0], np.array(scores[name][1:])
        # Both have some 40 digits; a score magnifies what centring takes away.
        np.testing.assert_allclose(interval.similarity, whole, rtol=1e-8)
        np.testing.assert_allclose(interval.low, np.quantile(replicates, 0.2, axis=0), rtol=1e-8)
        np.testing.assert_allclose(interval.high, np.quantile(replicates, 0.8, axis=0), rtol=1e-8)
        np.testing.assert_allclose(interval.mean, replicates.mean(axis=0), rtol=1e-8)


def test_single_and_factored_layers(data):
    options = {"num_groups": 3, "num_replicates": 2}
    left = layers().astype(np.float32)
    right = np.random.default_rng(0).normal(size=(2, 9, 4)).astype(np.float32)
    dense = np.einsum("lnr,lmr->lnm", left, right)
    seen = []
    every = bootstrap_similarity(
        dense, data, IDS, **options, progress=lambda *step: seen.append(step)
    )
    assert seen == [(i, 6) for i in range(1, 7)]
    single = bootstrap_similarity(dense[1], data, IDS, **options)
    factored = bootstrap_similarity(FactoredMatrix(left, right), data, IDS, **options)
    for name in NAMES:
        for one, other, third in zip(single[name], every[name], factored[name], strict=True):
            assert np.shape(one) == ()
            np.testing.assert_allclose(one, other[1], rtol=1e-5)
            np.testing.assert_allclose(third, other, rtol=1e-4)


def test_a_layer_that_is_zero_is_undefined_alone(data):
    A = layers().astype(np.float32)
    A[0] = 0
    found = bootstrap_similarity(A, data, IDS, num_groups=2, num_replicates=2)
    for part in found["value"]:
        np.testing.assert_array_equal(np.isnan(part), [True, False])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_groups": 1}, ValueError, "num_groups must be at least 2"),
        ({"num_groups": N + 1}, ValueError, f"at most the {N} sequences; got {N + 1}"),
        ({"num_replicates": 1}, ValueError, "num_replicates must be at least 2"),
        ({"level": 1.0}, ValueError, "level must be between 0 and 1; got 1"),
        ({"centering": "none"}, ValueError, "centering must be one of"),
        ({"residual": "none"}, ValueError, "residual must be one of"),
        ({"A": np.zeros(5, np.float32)}, ValueError, r"or \[layers, n, d\], .*; got \(5,\)"),
        ({"A": np.ones((4, 3), np.float32)}, ValueError, "each of the 5 token_ids; got 4"),
        ({"A": np.ones((5, 3), int)}, TypeError, "A must be float32 or float64"),
        ({"token_ids": [0, V]}, ValueError, "token_ids must be in"),
    ],
)
def test_bad_arguments(data, options, error, message):
    sizes = {"num_groups": 2, "num_replicates": 2}
    options = {"A": layers().astype(np.float32), "token_ids": IDS} | sizes | options
    with pytest.raises(error, match=message) as caught:
        bootstrap_similarity(source=data, **options)
    assert isinstance(caught.value, aj.InputError | aj.InputTypeError)


def test_a_group_without_positions_is_refused():
    mask = np.ones((4, T), bool)
    mask[2:] = False
    data = token_data(random_tokens(0, 4, T, V), V, mask)
    with pytest.raises(aj.InputError, match="group 1, sequences 2 to 4, has none"):
        bootstrap_similarity(layers().astype(np.float32), data, IDS, num_groups=2)

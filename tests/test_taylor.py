"""The closed forms against the Taylor coefficients, in the learning rate, of exact training.

Weights trained from zero are polynomials in eta up to the exponentials of the two softmaxes. They
are expanded here in truncated power series, in NumPy alone: a series is an array [K, ...] whose
entry k is the coefficient of eta^k. No small eta is chosen and no error term is left to tolerate.
"""

import jax
import numpy as np
import pytest
from conftest import assert_trees_close, random_mask, random_params, random_tokens

import assocjax as aj
from assocjax.models.params import WEIGHTS

N, T, V = 3, 5, 4
LEADING_ORDER = {"query_key": 4, "position": 4, "value": 2, "output": 1}


def product(spec, a, b):
    """`einsum(spec, a, b)` of two series: coefficient k is the sum of a_i b_(k-i)."""
    left, right = spec.split(",")
    return np.stack([np.einsum(f"i{left},i{right}", a[: k + 1], b[k::-1]) for k in range(len(a))])


def exp(a):
    """From e' = a' e: k e_k is the sum of i a_i e_(k-i)."""
    e = [np.exp(a[0])]
    for k in range(1, len(a)):
        e.append(sum(i * a[i] * e[k - i] for i in range(1, k + 1)) / k)
    return np.stack(e)


def reciprocal(a):
    """From a r = 1: a_0 r_k is minus the sum of a_i r_(k-i) over i > 0."""
    r = [1 / a[0]]
    for k in range(1, len(a)):
        r.append(-r[0] * sum(a[i] * r[k - i] for i in range(1, k + 1)))
    return np.stack(r)


def softmax(scores, allowed):
    e = exp(scores) * allowed
    return product("ntk,nt->ntk", e, reciprocal(e.sum(-1)))


def gradient(weights, tokens, mask):
    """dL/d(weight), as series, of weights that are series: backpropagation written out."""
    W, P, Val, W_O = (weights[name] for name in WEIGHTS)
    lag = np.arange(T)[:, None] - np.arange(T)
    # A masked query attends to itself, so that no row is empty; its residual is 0 all the same.
    allowed = (lag >= 0) & (mask[:, None, :] | (lag == 0))
    h = np.zeros((len(W_O), N, T, V))
    h[0] = np.eye(V)[tokens[:, :-1]]
    kept = []
    for layer in range(W.shape[1]):
        hW = product("ntv,vw->ntw", h, W[:, layer])
        scores = product("ntv,nkv->ntk", hW, h) + P[:, layer][:, None, np.abs(lag)]
        A = softmax(scores, allowed)
        Ah = product("ntk,nkv->ntv", A, h)
        kept.append((h, hW, A, Ah))
        h = h + product("ntv,vw->ntw", Ah, Val[:, layer])
    R = -softmax(product("ntv,vw->ntw", h, W_O), np.ones(V))
    R[0] += np.eye(V)[tokens[:, 1:]]
    R *= mask[..., None]

    ascent = {name: np.zeros_like(weights[name]) for name in WEIGHTS}
    ascent["output"] = product("ntv,ntw->vw", h, R)
    G = product("ntw,vw->ntv", R, W_O)
    for layer in reversed(range(W.shape[1])):
        h, hW, A, Ah = kept[layer]
        GV = product("ntw,vw->ntv", G, Val[:, layer])
        gain = product("ntk,ntk->ntk", A, product("ntv,nkv->ntk", GV, h))
        S = gain - product("ntk,nt->ntk", A, gain.sum(-1))
        Sh = product("ntk,nkv->ntv", S, h)
        ascent["value"][:, layer] = product("ntv,ntw->vw", Ah, G)
        ascent["query_key"][:, layer] = product("ntv,ntw->vw", h, Sh)
        for d in range(T):
            ascent["position"][:, layer, d] = S[..., lag == d].sum((1, 2))
        G = G + product("ntk,ntv->nkv", A, GV)
        G += product("ntw,vw->ntv", Sh, W[:, layer]) + product("ntk,ntv->nkv", S, hW)
    return {name: -a / mask.sum() for name, a in ascent.items()}


def descend(start, tokens, mask, *, steps, num_coefficients):
    """Series of every weight after gradient descent from the numbers `start`."""
    weights = {name: np.zeros((num_coefficients, *w.shape)) for name, w in start.items()}
    for name in WEIGHTS:
        weights[name][0] = start[name]
    for _ in range(steps):
        for name, g in gradient(weights, tokens, mask).items():
            weights[name][1:] -= g[:-1]  # times eta is a shift by one order
    return weights


def corpus(ragged):
    mask = random_mask(7, N, T) if ragged else np.ones((N, T), bool)
    return random_tokens(0, N, T, V), mask


def numbers(params):
    return {name: np.asarray(getattr(params, name)) for name in WEIGHTS}


@pytest.mark.parametrize("ragged", [False, True])
def test_series_are_those_of_exact_training(x64, ragged):
    """From random weights, order 0 is `exact_gradient` and the whole series sums to descent."""
    tokens, mask = corpus(ragged)
    params = random_params(0, V=V, T=T, L=3)
    here = gradient({name: w[None] for name, w in numbers(params).items()}, tokens, mask)
    here = aj.Params(**{name: g[0] for name, g in here.items()})
    assert_trees_close(here, aj.exact_gradient(params, tokens, mask), rtol=1e-10)

    rate, steps, K = 0.02, 3, 10
    weights = descend(numbers(params), tokens, mask, steps=steps, num_coefficients=K)
    summed = {name: np.tensordot(rate ** np.arange(K), w, 1) for name, w in weights.items()}
    for _ in range(steps):
        slope = aj.exact_gradient(params, tokens, mask)
        params = jax.tree.map(lambda w, g: w - rate * g, params, slope)
    assert_trees_close(aj.Params(**summed), params, rtol=1e-10)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("steps", [2, 3, 5])
def test_leading_weights_are_the_lowest_orders(x64, steps, num_layers, ragged):
    tokens, mask = corpus(ragged)
    start = numbers(random_params(0, V=V, T=T, L=num_layers, scale=0.0))
    exact = descend(start, tokens, mask, steps=steps, num_coefficients=6)
    for name, order in LEADING_ORDER.items():
        assert not exact[name][:order].any(), name
    stats = aj.corpus_statistics(tokens, V, mask)
    rate = 0.5
    lowest = {name: rate**order * exact[name][order] for name, order in LEADING_ORDER.items()}
    theory = aj.leading_weights(stats, num_layers, rate, steps)
    assert_trees_close(theory, aj.Params(**lowest), rtol=1e-10)
    # Training is more than its leading terms, so they were told apart from the rest.
    for name in ("value", "output"):
        following = exact[name][LEADING_ORDER[name] + 1]
        assert np.abs(following).max() > 1e-3, name

"""The definitions as one writes them down: one-hots, products of matrices, automatic gradients.

What assocjax is measured against, in PyTorch and in JAX: batched over sequences, no loop over
tokens, full float32 precision on every device. With X, Y [T,V] the one-hots of a sequence,
R = Y - 1/V and A_0 uniform causal attention [T,T],

    B = X^T R    Phi = R^T A_0 X    G = Phi^T B^T B    m = R (X G)^T, so m[t,k] = x_k^T G r_t
    D = A_0 * (m - rowsum(A_0 * m))    Q = X^T D X     Delta[d] = sum_t D[t,t-d]

as sums over sequences (B, Phi, Q, Delta divided by N T), and of the model

    S_l = h W_l h^T + P_l[t-k]    A_l = causal softmax of S_l    h <- h + A_l h V_l
    logits = h W_O
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import TORCH
from jax import lax

import assocjax as aj

if TORCH:
    import torch

NAMES = ("bigram", "context", "query_key", "position")


# PyTorch


def to_torch(array: Any) -> "torch.Tensor":
    """A tensor on the GPU if there is one."""
    tensor = torch.tensor(np.asarray(array))
    return tensor.cuda() if torch.cuda.is_available() else tensor


def torch_statistics(tokens: np.ndarray, V: int, microbatch: int) -> dict[str, np.ndarray]:
    """`bigram`, `context`, `query_key` and `position` of tokens [N, T+1] without padding."""
    batches = to_torch(tokens).long().split(microbatch)
    N, T = tokens.shape[0], tokens.shape[1] - 1
    zeros = partial(torch.zeros, device=batches[0].device)
    t = torch.arange(T, device=batches[0].device)
    A_0 = torch.tril(torch.ones_like(zeros(T, T))) / (t + 1)[:, None]

    def one_hots(batch):  # [batch, T, V] each
        x, y = batch[:, :-1, None], batch[:, 1:, None]
        X = zeros(*y.shape[:2], V).scatter_(2, x, 1.0)
        R = torch.full_like(X, -1 / V).scatter_(2, y, 1 - 1 / V)
        return X, R

    B, Phi, Q, Delta = zeros(V, V), zeros(V, V), zeros(V, V), zeros(T)
    for batch in batches:
        X, R = one_hots(batch)
        B.addmm_(X.flatten(0, 1).T, R.flatten(0, 1))
        Phi.addmm_(R.flatten(0, 1).T, (A_0 @ X).flatten(0, 1))
    B /= N * T
    Phi /= N * T
    G = Phi.T @ B.T @ B
    lag = (t[:, None] - t[None, :]).clamp(min=0)  # D is 0 where a key would come later
    for batch in batches:
        X, R = one_hots(batch)
        m = torch.bmm(R, (X @ G).transpose(1, 2))
        D = A_0 * (m - (A_0 * m).sum(-1, keepdim=True))
        Q.addmm_(X.flatten(0, 1).T, torch.bmm(D, X).flatten(0, 1))
        Delta.index_add_(0, lag.flatten(), D.sum(0).flatten())
    results = (B, Phi, Q / (N * T), Delta / (N * T))
    return {name: a.cpu().numpy() for name, a in zip(NAMES, results, strict=True)}


def torch_loss_and_gradient(
    params: "dict[str, torch.Tensor]", tokens: "torch.Tensor", microbatch: int
) -> "tuple[float, dict[str, torch.Tensor]]":
    """Mean loss over tokens [N, T+1], and its gradient by autograd, a microbatch at a time.

    `params` are tensors that need gradients: `query_key`, `position`, `value` and `output`.
    """
    V, T = params["output"].shape[0], tokens.shape[1] - 1
    t = torch.arange(T, device=tokens.device)
    lag = t[:, None] - t[None, :]
    later, lag = lag < 0, lag.clamp(min=0)
    for weight in params.values():
        weight.grad = None
    total = 0.0
    for batch in tokens.split(microbatch):
        x, y = batch[:, :-1, None], batch[:, 1:]
        h = torch.zeros(*y.shape, V, device=tokens.device).scatter_(2, x, 1.0)
        layers = (params[name] for name in ("query_key", "position", "value"))
        for W_l, P_l, V_l in zip(*layers, strict=True):
            S = torch.bmm(h @ W_l, h.transpose(1, 2)) + P_l[lag]
            A = torch.softmax(S.masked_fill(later, -torch.inf), dim=-1)
            h = h + torch.bmm(A, h) @ V_l
        logits = (h @ params["output"]).flatten(0, 1)
        nll = torch.nn.functional.cross_entropy(logits, y.flatten(), reduction="sum")
        loss = nll / (len(tokens) * T)
        loss.backward()
        total += loss.item()
    return total, {name: weight.grad for name, weight in params.items()}


def torch_params(params: aj.Params) -> "dict[str, torch.Tensor]":
    return {name: to_torch(getattr(params, name)).requires_grad_() for name in aj.WEIGHTS}


# JAX


def _microbatches(tokens, microbatch: int):
    """[N, T+1] -> [N / microbatch, microbatch, T+1]."""
    return tokens.reshape(-1, microbatch, tokens.shape[1])


@partial(jax.jit, static_argnames=("V", "microbatch"))
@jax.default_matmul_precision("highest")
def jax_statistics(tokens, V: int, microbatch: int) -> dict[str, jax.Array]:
    """As `torch_statistics`; `microbatch` divides N."""
    batches = _microbatches(tokens, microbatch)
    N, T = tokens.shape[0], tokens.shape[1] - 1
    t = jnp.arange(T)
    A_0 = jnp.tril(jnp.ones((T, T))) / (t + 1)[:, None]

    def one_hots(batch):  # [batch, T, V] each
        return jax.nn.one_hot(batch[:, :-1], V), jax.nn.one_hot(batch[:, 1:], V) - 1 / V

    def add_counts(sums, batch):
        X, R = one_hots(batch)
        B, Phi = sums
        AX = jnp.einsum("tk,nkv->ntv", A_0, X)
        return (B + jnp.einsum("nti,ntj->ij", X, R), Phi + jnp.einsum("nti,ntj->ij", R, AX)), None

    square = jnp.zeros((V, V))
    (B, Phi), _ = lax.scan(add_counts, (square, square), batches)
    B, Phi = B / (N * T), Phi / (N * T)
    G = Phi.T @ B.T @ B
    lag = jnp.maximum(t[:, None] - t[None, :], 0)  # D is 0 where a key would come later

    def add_correlation(sums, batch):
        X, R = one_hots(batch)
        Q, Delta = sums
        m = jnp.einsum("ntv,nkv->ntk", R, X @ G)
        # Not jnp.sum(A_0 * m), which jaxlib 0.10.2 compiles wrongly on CPUs (jax-ml/jax 39103).
        D = A_0 * (m - jnp.einsum("tk,ntk->nt", A_0, m)[..., None])
        Q = Q + jnp.einsum("nti,ntj->ij", X, D @ X)
        return (Q, Delta.at[lag].add(jnp.sum(D, axis=0))), None

    (Q, Delta), _ = lax.scan(add_correlation, (square, jnp.zeros(T)), batches)
    return dict(zip(NAMES, (B, Phi, Q / (N * T), Delta / (N * T)), strict=True))


@partial(jax.jit, static_argnames="microbatch")
@jax.default_matmul_precision("highest")
def jax_loss_and_gradient(params: aj.Params, tokens, microbatch: int):
    """As `torch_loss_and_gradient`, of an `aj.Params`; `microbatch` divides N."""
    N, T = tokens.shape[0], tokens.shape[1] - 1
    V = params.output.shape[0]
    lag = jnp.arange(T)[:, None] - jnp.arange(T)[None, :]

    @jax.value_and_grad
    def loss_and_gradient(params, batch):
        h = jax.nn.one_hot(batch[:, :-1], V)
        for W_l, P_l, V_l in zip(params.query_key, params.position, params.value, strict=True):
            S = jnp.einsum("ntv,nkv->ntk", h @ W_l, h) + P_l[jnp.maximum(lag, 0)]
            A = jax.nn.softmax(jnp.where(lag >= 0, S, -jnp.inf), axis=-1)
            h = h + (A @ h) @ V_l
        logp = jax.nn.log_softmax(h @ params.output)
        return -jnp.sum(jnp.take_along_axis(logp, batch[:, 1:, None], axis=-1)) / (N * T)

    def add(total, batch):
        return jax.tree.map(jnp.add, total, loss_and_gradient(params, batch)), None

    zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
    return lax.scan(add, zero, _microbatches(tokens, microbatch))[0]

"""The definitions as one writes them down: one-hots, products of matrices, Jacobians of softmaxes.

What assocjax is measured against, in PyTorch and in JAX: batched over sequences, no loop over
tokens, full float32 precision on every device. With X, Y [T,V] the one-hots of a sequence,
R = Y - 1/V and A_0 uniform causal attention [T,T],

    B = X^T R    Phi = R^T A_0 X    G = Phi^T B^T B    m = R (X G)^T, so m[t,k] = x_k^T G r_t
    D = A_0 * (m - rowsum(A_0 * m))    Q = X^T D X     Delta[d] = sum_t D[t,t-d]

as sums over sequences (B, Phi, Q, Delta divided by N T), and of the model

    S_l = h W_l h^T + P_l[t-k]    A_l = causal softmax of S_l    h <- h + A_l h V_l
    logits = h W_O

its gradient in two ways: as the paper has it (Lemma D.8), with J_t = diag(a_t) - a_t a_t^T for
every row a_t of A_l, R = Y - softmax(logits) and G = R W_O^T at the last layer,

    S_l[t] = J_t (G V_l^T h^T)[t]    dV_l = -h^T A_l^T G    dW_l = -h^T S_l h    dW_O = -h^T R
    G <- G + A_l^T G V_l^T + S_l h W_l^T + S_l^T h W_l

and by automatic differentiation, which never has a Jacobian.
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
    """Mean loss over tokens [N, T+1], and its gradient, a microbatch at a time.

    `params` are `query_key`, `position`, `value` and `output`. The Jacobians of the softmaxes are
    arrays [T,T,T] of every sequence.
    """
    M, total = tokens[:, 1:].numel(), 0.0
    found = {name: torch.zeros_like(weight) for name, weight in params.items()}
    with torch.no_grad():
        for batch in tokens.split(microbatch):
            h, A, lag = _torch_layers(params, batch)
            logits, y = h[-1] @ params["output"], batch[:, 1:, None]
            total -= torch.log_softmax(logits, dim=-1).gather(2, y).sum().item() / M
            R = -torch.softmax(logits, dim=-1)
            R.scatter_add_(2, y, torch.ones_like(y, dtype=R.dtype))
            found["output"] -= _summed(h[-1], R) / M
            G = R @ params["output"].T
            for i in reversed(range(len(A))):
                found["value"][i] -= _summed(h[i], A[i].mT @ G) / M
                G_V = G @ params["value"][i].T
                J = torch.diag_embed(A[i]) - A[i][..., :, None] * A[i][..., None, :]
                S = (J @ (G_V @ h[i].mT)[..., None])[..., 0]
                found["query_key"][i] -= _summed(h[i], S @ h[i]) / M
                found["position"][i].index_add_(0, lag.flatten(), -S.sum(0).flatten() / M)
                if i:  # nothing learns what is below the first layer
                    W = params["query_key"][i]
                    G = G + A[i].mT @ G_V + S @ (h[i] @ W.T) + S.mT @ (h[i] @ W)
    return total, found


def torch_autograd(
    params: "dict[str, torch.Tensor]", tokens: "torch.Tensor", microbatch: int
) -> "tuple[float, dict[str, torch.Tensor]]":
    """As `torch_loss_and_gradient`, by automatic differentiation; `params` need gradients."""
    for weight in params.values():
        weight.grad = None
    total = 0.0
    for batch in tokens.split(microbatch):
        h, _, _ = _torch_layers(params, batch)
        logits, y = (h[-1] @ params["output"]).flatten(0, 1), batch[:, 1:].flatten()
        nll = torch.nn.functional.cross_entropy(logits, y, reduction="sum")
        loss = nll / tokens[:, 1:].numel()
        loss.backward()
        total += loss.item()
    return total, {name: weight.grad for name, weight in params.items()}


def _torch_layers(params, batch):
    """The residual stream before every layer and after the last, and the attention of each."""
    V, T = params["output"].shape[0], batch.shape[1] - 1
    t = torch.arange(T, device=batch.device)
    lag = t[:, None] - t[None, :]
    later, lag = lag < 0, lag.clamp(min=0)
    h = [
        torch.zeros(*batch[:, 1:].shape, V, device=batch.device).scatter_(
            2, batch[:, :-1, None], 1.0
        )
    ]
    A = []
    layers = (params[name] for name in ("query_key", "position", "value"))
    for W_l, P_l, V_l in zip(*layers, strict=True):
        S = torch.bmm(h[-1] @ W_l, h[-1].mT) + P_l[lag]
        A.append(torch.softmax(S.masked_fill(later, -torch.inf), dim=-1))
        h.append(h[-1] + torch.bmm(A[-1], h[-1]) @ V_l)
    return h, A, lag


def _summed(a, b):
    """sum over sequences of a^T b, of a [n,T,V] and b [n,T,V]."""
    return a.flatten(0, 1).T @ b.flatten(0, 1)


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

    def loss_and_gradient(batch):
        h, A, lag = _jax_layers(params, batch)
        logits, y = h[-1] @ params.output, batch[:, 1:]
        loss = -jnp.sum(jnp.take_along_axis(jax.nn.log_softmax(logits), y[..., None], axis=-1))
        R = jax.nn.one_hot(y, logits.shape[-1]) - jax.nn.softmax(logits)
        output = -jnp.einsum("nti,ntj->ij", h[-1], R)
        G, found = R @ params.output.T, []
        for i in reversed(range(len(A))):
            value = -jnp.einsum("nti,ntj->ij", h[i], jnp.einsum("ntk,ntv->nkv", A[i], G))
            G_V = G @ params.value[i].T
            J = A[i][..., None] * jnp.eye(A[i].shape[-1]) - A[i][..., :, None] * A[i][..., None, :]
            S = jnp.einsum("ntij,ntj->nti", J, jnp.einsum("ntv,nkv->ntk", G_V, h[i]))
            query_key = -jnp.einsum("nti,ntj->ij", h[i], S @ h[i])
            position = jnp.zeros_like(params.position[i]).at[lag].add(-jnp.sum(S, axis=0))
            found.append((query_key, position, value))
            if i:  # nothing learns what is below the first layer
                W = params.query_key[i]
                G += jnp.swapaxes(A[i], 1, 2) @ G_V
                G += S @ (h[i] @ W.T) + jnp.swapaxes(S, 1, 2) @ (h[i] @ W)
        query_key, position, value = map(jnp.stack, zip(*found[::-1], strict=True))
        return loss, aj.Params(query_key, position, value, output)

    return _sum_microbatches(loss_and_gradient, params, tokens, microbatch)


@partial(jax.jit, static_argnames="microbatch")
@jax.default_matmul_precision("highest")
def jax_autograd(params: aj.Params, tokens, microbatch: int):
    """As `jax_loss_and_gradient`, by automatic differentiation."""

    @jax.value_and_grad
    def loss_and_gradient(params, batch):
        h, _, _ = _jax_layers(params, batch)
        logp = jax.nn.log_softmax(h[-1] @ params.output)
        return -jnp.sum(jnp.take_along_axis(logp, batch[:, 1:, None], axis=-1))

    return _sum_microbatches(partial(loss_and_gradient, params), params, tokens, microbatch)


def _jax_layers(params, batch):
    """As `_torch_layers`."""
    T = batch.shape[1] - 1
    lag = jnp.arange(T)[:, None] - jnp.arange(T)[None, :]
    h, A = [jax.nn.one_hot(batch[:, :-1], params.output.shape[0])], []
    for W_l, P_l, V_l in zip(params.query_key, params.position, params.value, strict=True):
        S = jnp.einsum("ntv,nkv->ntk", h[-1] @ W_l, h[-1]) + P_l[jnp.maximum(lag, 0)]
        A.append(jax.nn.softmax(jnp.where(lag >= 0, S, -jnp.inf), axis=-1))
        h.append(h[-1] + (A[-1] @ h[-1]) @ V_l)
    return h, A, jnp.maximum(lag, 0)


def _sum_microbatches(function, params, tokens, microbatch: int):
    """Mean loss and gradient, of a function that sums them over the sequences of a microbatch."""

    def add(total, batch):
        return jax.tree.map(jnp.add, total, function(batch)), None

    zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
    total, _ = lax.scan(add, zero, _microbatches(tokens, microbatch))
    return jax.tree.map(lambda a: a / tokens[:, 1:].size, total)

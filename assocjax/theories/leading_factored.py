"""The leading terms of the factored model: weights and embedding, from its own start.

With the embedding E [V,d] and the output U [d,V], and with every weight's index 0 for the start,
predictions at the start depend on the current token only, p = softmax(E_0 U_0) [V,V] by row. So the
residual R_0 = Y - X p, and the two statistics of it, are those of the paper (R = Y - 1/V) plus a
correction by p - 1/V, which is zero if U_0 is:

    B_0   = (1/M) sum_n X^T R_0         = B - diag(f) (p - 1/V)
    Phi_0 = (1/M) sum_n R_0^T A_0 X     = Phi - (p - 1/V)^T diag(f) E[A_0 X | x]

At uniform attention, and to the lowest order in the weights that are trained from zero,

    -dL/dU = E_0^T B_0            -dL/dV_l = E_0^T Phi_0^T U^T
    -dL/dE = B_0 U^T              -dL/dW_l = E_0^T Q_0[E_0 V_l U] E_0      -dL/dP_l = Delta_0[same]

where Q_0 and Delta_0 are those of `attention_correlation` with R_0 in place of R. Gradient descent
by this vector field gives after s steps

    U(s)   = U_0   + s eta E_0^T B_0
    E(s)   = E_0   + s eta B_0 U_0^T             + C(s,2) eta^2 B_0 B_0^T E_0
    V_l(s) = V_l,0 + s eta E_0^T Phi_0^T U_0^T   + C(s,2) eta^2 E_0^T Phi_0^T B_0^T E_0
    W_l(s) = W_l,0 + eta sum_{k<s} E_0^T Q_0[E_0 V_l(k) U(k)] E_0          P_l likewise by Delta_0

so that from U_0 = 0 tokens move together that are followed by the same tokens (B B^T, which is
`Statistics.substitutability`), and W_l(s) = c(s) eta^4 E_0^T Q[K Phi^T B^T K B] E_0, K = E_0 E_0^T.
A tied output U = E^T adds B_0^T E_0 to -dL/dE; its own change is then of the order of the terms
left out, so that U = E_0^T and E(s) = E_0 + s eta (B_0 + B_0^T) E_0. A frozen embedding stays E_0.
With several heads, head h of W_l has the columns h of V_l and the rows h of U, and its factors move
by -dL/dQ = (-dL/dW) K_0 and -dL/dK = (-dL/dW)^T Q_0; if both are zero they never move.

Errors, in the limit of small eta, from V_0 = 0 and uniform attention:

                      U        E        V        W, P
    U_0 = 0           eta^2    eta^3    eta^3    eta^5
    U_0 not 0         eta^2    eta^2    eta^2    eta^3
    tied                       eta^2    eta^2    eta^3

E_0 and U_0 may have any size. What V_0, W_0 and P_0 do to predictions and to attention at the start
is neglected: from a start with them, changes have a relative error of the order of their size, and
the first row still holds where U_0 is of order eta and they are of order eta^2.
Source: this package; with E = 1 and the zero start, the paper's Theorem 4.1.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from assocjax.errors import InputError
from assocjax.models.attention_only import count_valid
from assocjax.models.factored import Factored
from assocjax.models.microbatches import sum_microbatches
from assocjax.precision import matmul
from assocjax.statistics import scatter
from assocjax.statistics.moments import EffectiveStatistics, effective_statistics
from assocjax.theories.registry import register_theory
from assocjax.theories.theory import Batch, Theory

_TERMS = 4  # C(s,0), ..., C(s,3)
_SEQUENCES = 8  # whose attention is in memory at once


def factored_slopes(
    model: Factored, start: Any, statistics: EffectiveStatistics, batch: Batch, learning_rate: Any
) -> Any:
    """Minus the leading gradient as a polynomial of the number of steps: sum_j C(s,j) g_j.

    The weights are then w(s) = w(0) + eta sum_j C(s,j+1) g_j.

    Args:
      model: a `Factored` model.
      start: its weights at step 0.
      statistics: `effective_statistics` of the corpus, of depth 1 or more.
      batch: the same corpus.
      learning_rate: eta; may be traced.

    Returns:
      g_0, ..., g_3, a tree like `start` with a leading axis of 4.

    Cost: 7 V^2 d multiply-adds and, for 4 L matrices for each of H heads, 2 N T^2 d of them and
    V^2 d. Memory: five [V,V]; for each of these matrices [V,d], and [T,T] for each of 8 sequences.
    Source: this package.
    """
    eta, tied = jnp.asarray(learning_rate, start["value"].dtype), model.tied
    E = model.embedding(start)
    U, V = E.T if tied else start["output"], start["value"]
    predicted = jax.nn.softmax(matmul(E, U), axis=-1)
    B, PhiE = _at_start(statistics, predicted, E)
    EtB, EtPhi = matmul(E.T, B), PhiE.T
    # U + s dU and V + s dV + C(s,2) ddV.
    dU = jnp.zeros_like(U) if tied else eta * EtB
    slopes_V = matmul(EtPhi, U.T)[None], matmul(EtPhi, dU.T)[None]
    dV, ddV = (eta * slope for slope in slopes_V)
    # Their product, since s^2 = 2 C(s,2) + s and s C(s,2) = 3 C(s,3) + 2 C(s,2).
    product = [
        _by_head(model, V, U),
        _by_head(model, dV, U) + _by_head(model, V + dV, dU),
        _by_head(model, ddV, U) + 2 * _by_head(model, dV + ddV, dU),
        3 * _by_head(model, ddV, dU),
    ]
    product = jnp.stack([jnp.broadcast_to(term, product[0].shape) for term in product])
    query_key, position = _correlate(E, product, predicted, batch.tokens, batch.mask)
    slope_E = matmul(B, U.T)
    slopes = {
        "embedding": [slope_E + EtB.T] if tied else [slope_E, matmul(B, dU.T)],
        "output": [EtB],
        "value": slopes_V,
        "position": position.sum(axis=2),
        "query_key": query_key[:, :, 0],
    }
    if model.heads > 1:
        slopes["query"] = matmul(query_key, start["key"][None])
        slopes["key"] = matmul(query_key.swapaxes(-1, -2), start["query"][None])
    return {name: _all_terms(slopes[name], leaf.shape) for name, leaf in start.items()}


def _at_start(
    statistics: EffectiveStatistics, predicted: Float[Array, "V V"], E: Float[Array, "V d"]
) -> tuple[Float[Array, "V V"], Float[Array, "V d"]]:
    """B_0 and Phi_0 E."""
    context, mean, f = (
        of.astype(E.dtype)
        for of in (statistics.context, statistics.conditional_mean[0], statistics.frequency)
    )
    excess = f[:, None] * (predicted - 1 / len(f))
    return context[0].T - excess, matmul(context[1], E) - matmul(excess.T, matmul(mean, E))


def _by_head(
    model: Factored, value: Float[Array, "L d d"], output: Float[Array, "d V"]
) -> Float[Array, "L H d V"]:
    """The columns of each head in V_l times its rows in U."""
    shape = model.heads, model.width // model.heads
    columns = value.reshape(*value.shape[:2], *shape).swapaxes(1, 2)
    return matmul(columns, output.reshape(1, *shape, -1))


def _correlate(
    E: Float[Array, "V d"],
    matrices: Float[Array, "j L H d V"],
    predicted: Float[Array, "V V"],
    tokens: Int32[Array, "N T+1"],
    mask: Bool[Array, "N T"],
) -> tuple[Float[Array, "j L H d d"], Float[Array, "j L H T"]]:
    """E^T Q_0[E D] E and Delta_0[E D] of matrices D, without any matrix between tokens."""
    flat = matrices.reshape(-1, *matrices.shape[3:])  # [n,d,V]
    of_targets, of_inputs = (jnp.moveaxis(of, -1, 0) for of in (flat, matmul(flat, predicted.T)))
    t = jnp.arange(mask.shape[1])
    lag_TxT = jnp.abs(t[:, None] - t[None, :])

    def of_sequence(tokens, mask):
        x, y = tokens[:-1], tokens[1:]
        h_1xTxd, A_1xTxT = E[x][None], scatter.attention(mask[None], E.dtype)
        # How well every key predicts the residual of the query's target.
        aim_nxTxd = (of_targets[y] - of_inputs[x]).swapaxes(0, 1)
        m_nxTxT = matmul(aim_nxTxd, h_1xTxd.swapaxes(1, 2))
        D_nxTxT = A_1xTxT * (m_nxTxT - jnp.sum(A_1xTxT * m_nxTxT, axis=2, keepdims=True))
        by_lag = jnp.zeros(D_nxTxT.shape[:2], E.dtype).at[:, lag_TxT].add(D_nxTxT)
        return matmul(h_1xTxd.swapaxes(1, 2), matmul(D_nxTxT, h_1xTxd)), by_lag

    def of_sequences(tokens, mask):
        return jax.tree.map(lambda of: jnp.sum(of, axis=0), jax.vmap(of_sequence)(tokens, mask))

    sums = sum_microbatches(of_sequences, tokens, mask, _SEQUENCES)
    M = count_valid(mask, E.dtype)
    query_key, position = (of.reshape(*matrices.shape[:3], *of.shape[1:]) / M for of in sums)
    return query_key, position


def _all_terms(slopes: Any, shape: tuple[int, ...]) -> Float[Array, "4 ..."]:
    """Terms of one weight, the same for all layers if they have one, followed by zeros."""
    slopes = jnp.stack([jnp.broadcast_to(slope, shape) for slope in slopes])
    return jnp.pad(slopes, [(0, _TERMS - len(slopes))] + [(0, 0)] * len(shape))


def _binomials(steps: Any, dtype: Any) -> Float[Array, " 5"]:
    """C(s,0), ..., C(s,4); s may be traced."""
    s = jnp.asarray(steps, dtype)
    factors = [(s - j) / (j + 1) for j in range(_TERMS)]
    return jnp.cumprod(jnp.stack([jnp.ones_like(s), *factors]))


class FactoredLeading(Theory):
    """The leading terms of the factored model, under plain gradient descent from its own start."""

    name, from_start, of_batches = "leading-factored", True, False
    weight_copies = 3 * _TERMS + 3

    def check(self, model, optimizer):
        if not isinstance(model, Factored):
            raise InputError(f"theory {self.name!r} is of models of class Factored; got {model!r}")
        if optimizer != "sgd":
            raise InputError(f"theory {self.name!r} is of optimizer 'sgd'; got {optimizer!r}")

    def prepare(self, model, sizes, batch):
        return effective_statistics(
            batch.tokens, depth=1, vocab_size=batch.vocab_size, mask=batch.mask
        )

    def solve(self, training, prepared, batch):
        start, rate = training.start, training.learning_rate
        return start, factored_slopes(training.model, start, prepared, batch, rate)  # type: ignore[arg-type]

    def solution(self, training, solved, prepared, step):
        start, slopes = solved
        binomials = _binomials(step, start["value"].dtype)

        def sum_terms(binomials):
            return jax.tree.map(
                lambda terms: jnp.tensordot(binomials, terms, 1, precision="highest"), slopes
            )

        rate = jnp.asarray(training.learning_rate, binomials.dtype)
        weights = jax.tree.map(lambda w, change: w + rate * change, start, sum_terms(binomials[1:]))
        return weights, jax.tree.map(jnp.negative, sum_terms(binomials[:-1]))

    def prepared_bytes(self, model, sizes, num_sequences):
        # As in the docstring of `effective_statistics`.
        square = sizes.vocab_size**2 * jnp.dtype(jnp.result_type(float)).itemsize
        return 4 * square, 7 * 4 * square


register_theory(FactoredLeading())

"""The effective theory: uniform attention, and the loss to second order in the context.

With attention at its uniform start, A_0, the logits are linear in Z_k = A_0^k X, the k-fold mean
of the preceding tokens:

    M_0 = I, M_{k>0} = 0;  for l = 1..L: M_k <- M_k + M_{k-1} V_l  (all k at once);  H_k = M_k W_O
    logits = sum_k Z_k H_k

Their mean b given the current token x is a table, and their deviations from it have mean zero:

    b = H_0 + sum_{k>0} E[Z_k | x] H_k          p = softmax(b)          q = sum_x f_x p_x
    L_eff = sum_x f_x (logsumexp b_x - mean b_x) - sum_k <Phi_k^T, H_k>
            + 1/2 sum_{j,k>0} sum_v q_v <H'_j, C_jk H'_k>_vv          H' = H - H q 1^T

where f is the frequency of input tokens and C_jk the covariance of Z_j and Z_k given the token. So
the softmax of the mean logits given the current token is exact at any time of training, and
deviations due to the context are included to second order. The corpus enters through its
`effective_statistics` only.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from assocjax.arguments import check_choice, check_is
from assocjax.checks import CorpusLike
from assocjax.errors import InputError
from assocjax.models.attention_only import count_valid, default_microbatch_size
from assocjax.models.microbatches import sum_microbatches
from assocjax.models.paper import check_paper_model
from assocjax.models.params import Params, check_batch, check_params
from assocjax.precision import matmul
from assocjax.statistics.moments import EffectiveStatistics, effective_statistics
from assocjax.theories.registry import register_theory
from assocjax.theories.theory import Theory

AROUND = ("token", "zero")


def effective_loss(
    params: Params, statistics: EffectiveStatistics, *, around: str = "token"
) -> Float[Array, ""]:
    """L_eff of the module's docstring: the loss at uniform attention, in nats.

    Args:
      params: weights; only `value` and `output` matter.
      statistics: `effective_statistics` of the corpus, of a depth of L or more.
      around: the logits around which log-sum-exp is expanded: "token", their mean given the current
        token, or "zero", which is accurate only soon after a zero start:

            L_0 = log V - sum_k <Phi_k^T, H_k> + (1/2V) sum_{j,k} <H'_j, C_jk H'_k>

        where C_jk, for j, k >= 0, are second moments instead of covariances (`second_moments`),
        and H' is centred uniformly over all tokens. The two agree to second order.

    Returns:
      A scalar in the dtype of `params`.

    Raises:
      InputError, InputTypeError: sizes differ from those of `statistics`, or half precision.

    Cost: about (2 L^2 + L) V^3 multiply-adds; a gradient twice that; no pass over the data.
    Source: this package; the paper stops at the leading terms.
    """
    return _effective_loss(params, _check(params, statistics, around), around)


def effective_gradient(
    params: Params,
    statistics: EffectiveStatistics,
    data: CorpusLike | None = None,
    mask: ArrayLike | None = None,
    *,
    around: str = "token",
) -> Params:
    """The gradient of `effective_loss`, and of the loss with respect to attention at its start.

    `value` and `output` follow the gradient of L_eff, in which the corpus enters as a few matrices.
    `query_key` and `position` have no effect on them. They follow the exact gradient at uniform
    attention, which needs a pass over the data: see `uniform_attention_gradient`.

    Args:
      params: weights; only `value` and `output` matter.
      statistics: `effective_statistics` of the corpus, of a depth of L or more.
      data, mask: the same corpus, as in `exact_gradient`. Without it there is no pass over the
        data, and the gradients of `query_key` and `position` are zero.
      around: as in `effective_loss`.

    Returns:
      dL/d(weight) as `Params`, in the dtype of `params`.

    Raises:
      InputError, InputTypeError: wrong shapes, dtypes or token ids.

    Cost: about (4 L^2 + 3 L) V^3 multiply-adds; with `data` also one pass over it.
    Source: this package; the paper stops at the leading terms.
    """
    statistics = _check(params, statistics, around)
    gradient = _effective_gradient(params, statistics, around)
    if data is None:
        return gradient
    query_key, position = uniform_attention_gradient(params, data, mask)
    return gradient.replace(query_key=query_key, position=position)


def uniform_attention_gradient(
    params: Params, data: CorpusLike, mask: ArrayLike | None = None
) -> tuple[Float[Array, "L V V"], Float[Array, "L T"]]:
    """The exact dL/d(query_key, position) where both are zero, at any `value` and `output`.

        G_L = (Y - softmax(logits)) W_O^T          G_{l-1} = G_l + A_0^T G_l V_l^T
        m_l = G_l V_l^T h_{l-1}^T                  S_l = A_0 * (m_l - rowsum(A_0 * m_l))
        dL/dW_l = -(1/M) sum_n h_{l-1}^T S_l h_{l-1}       dL/dP_l[d] = -(1/M) sum_n,t S_l[t,t-d]

    Uniform attention makes the forward pass linear: h_l = sum_k A_0^k M_k[x], with rows of products
    of `value` matrices. So only the backward pass multiplies [T,V] by [V,V].

    Args:
      params: weights; `query_key` and `position` are ignored and taken as zero.
      data, mask: the corpus, as in `exact_gradient`.

    Raises:
      InputError, InputTypeError: wrong shapes, dtypes or token ids.

    Cost: 2 L N T V^2 multiply-adds, about half of an exact gradient in the form "dense", and a
    larger share of one in the form "tables" (`benchmarks/effective_theory.py`); memory of one
    microbatch.
    Source: paper, Lemma D.8 at uniform attention.
    """
    tokens, mask = check_batch(params, data, mask)
    return _uniform_attention_gradient(params, tokens, mask)


def _check(params, statistics, around) -> EffectiveStatistics:
    """Checks sizes; returns the statistics for the number of layers of `params`."""
    check_choice("around", around, AROUND)
    check_params("params", params)
    check_is("statistics", statistics, EffectiveStatistics)
    L, V = params.value.shape[:2]
    depth, vocab = statistics.conditional_mean.shape[:2]
    if vocab != V:
        raise InputError(f"statistics must be of the vocabulary of params, {V}; got {vocab}")
    if depth < L:
        raise InputError(f"statistics must have a depth of at least {L} layers; got {depth}")
    dtype = params.output.dtype
    return statistics.replace(
        context=statistics.context[: L + 1].astype(dtype),
        frequency=statistics.frequency.astype(dtype),
        conditional_mean=statistics.conditional_mean[:L].astype(dtype),
        conditional_covariance=statistics.conditional_covariance[:L, :L].astype(dtype),
    )


def _chains(value: Float[Array, "L V V"]) -> list[list[Any]]:
    """M_k after each layer: entry [l][k] for l = 0..L, k = 0..l; M_0 = I is None."""
    chains: list[list[Any]] = [[None]]
    for V_l in value:
        before = chains[-1]
        shifted = [V_l, *(matmul(M_k, V_l) for M_k in before[1:])]
        kept = [*before[1:], jnp.zeros_like(V_l)]
        chains.append([None, *(M_k + add for M_k, add in zip(kept, shifted, strict=True))])
    return chains


def _logit_tables(params: Params) -> Float[Array, "K V V"]:
    W_O = params.output
    products = [matmul(M_k, W_O) for M_k in _chains(params.value)[-1][1:]]
    return jnp.stack([W_O, *products])


@partial(jax.jit, static_argnames="around")
def _effective_gradient(params, statistics, around: str) -> Params:
    return jax.grad(_effective_loss)(params, statistics, around)


@partial(jax.jit, static_argnames="around")
def _effective_loss(params, statistics, around: str):
    L, V = params.value.shape[:2]
    H = _logit_tables(params)
    f, mean, covariance = (
        statistics.frequency,
        statistics.conditional_mean,
        statistics.conditional_covariance,
    )
    linear = jnp.sum(jnp.swapaxes(statistics.context, 1, 2) * H)
    mean_VxLV = jnp.swapaxes(mean, 0, 1).reshape(V, L * V)
    covariance_LVxLV = covariance.transpose(0, 2, 1, 3).reshape(L * V, L * V)
    context = H[1:].reshape(L * V, V)
    b = H[0] + matmul(mean_VxLV, context)
    b -= jnp.mean(b, axis=1, keepdims=True)
    if around == "zero":
        q = jnp.full(V, 1 / V, b.dtype)
        cumulants = jnp.log(jnp.asarray(V, b.dtype)) + jnp.mean(b * b, axis=1) / 2
    else:
        cumulants = jax.nn.logsumexp(b, axis=1)
        q = matmul(f, jnp.exp(b - cumulants[:, None]))
    context -= matmul(context, q)[:, None]
    variance = _symmetric_form(context, covariance_LVxLV)
    return jnp.sum(f * cumulants) - linear + jnp.sum(q * variance) / 2


@jax.custom_jvp
def _symmetric_form(H, C):
    """diag(H^T C H) for symmetric C; its derivative reuses C H, which is most of the cost."""
    return jnp.sum(H * matmul(C, H), axis=0)


@partial(_symmetric_form.defjvp, symbolic_zeros=True)
def _symmetric_form_jvp(primals, tangents):
    (H, C), (H_dot, C_dot) = primals, tangents
    CH = matmul(C, H)
    tangent = jnp.zeros(H.shape[1:], H.dtype)
    if not isinstance(H_dot, jax.custom_derivatives.SymbolicZero):
        tangent += 2 * jnp.sum(H_dot * CH, axis=0)
    if not isinstance(C_dot, jax.custom_derivatives.SymbolicZero):
        tangent += jnp.sum(H * matmul(C_dot, H), axis=0)
    return jnp.sum(H * CH, axis=0), tangent


@jax.jit
def _uniform_attention_gradient(params, tokens, mask):
    L, T = len(params.value), mask.shape[1]
    V, dtype = params.output.shape[0], params.output.dtype
    chains = _chains(params.value)
    tables = _logit_tables(params)
    share = 1 / count_valid(mask, dtype)
    t = jnp.arange(T)
    lag_TxT = t[:, None] - t[None, :]

    def sequence_scores(tokens, mask):
        x, y = tokens[:-1], tokens[1:]
        keys_TxT = mask[:, None] & mask[None, :] & (lag_TxT >= 0)
        num_keys_T = jnp.maximum(jnp.sum(keys_TxT, axis=1), 1).astype(dtype)
        A_TxT = jnp.where(keys_TxT, 1 / num_keys_T[:, None], 0)

        def mix(rows):  # sum_k A_0^k rows_k
            mixed = rows[-1]
            for row_TxV in reversed(rows[:-1]):
                mixed = row_TxV + matmul(A_TxT, mixed)
            return mixed

        def hidden(chain):
            context = [M_k[x] for M_k in chain[1:]]
            h_TxV = matmul(A_TxT, mix(context)) if context else jnp.zeros((T, V), dtype)
            return h_TxV.at[t, x].add(1)

        p_TxV = jax.nn.softmax(mix([H_k[x] for H_k in tables]), axis=-1)
        R_TxV = jnp.where(mask[:, None], (-p_TxV).at[t, y].add(1), 0)
        G_TxV = matmul(R_TxV, params.output.T)
        scores, states = [], []
        for layer in reversed(range(L)):
            U_TxV = matmul(G_TxV, params.value[layer].T)
            h_TxV = hidden(chains[layer])
            m_TxT = U_TxV[:, x] if layer == 0 else matmul(U_TxV, h_TxV.T)
            S_TxT = A_TxT * (m_TxT - jnp.sum(A_TxT * m_TxT, axis=1, keepdims=True))
            scores.append(S_TxT)
            if layer > 0:  # the first layer's state is one-hot
                states.append((h_TxV, matmul(S_TxT, h_TxV)))
            G_TxV += matmul(A_TxT.T, U_TxV)
        return jnp.stack(scores[::-1]), states[::-1]

    def microbatch_gradient(tokens, mask):
        scores_NxLxTxT, states = jax.vmap(sequence_scores)(tokens, mask)
        x = tokens[:, :-1]
        first = jnp.zeros((V, V), dtype).at[x[:, :, None], x[:, None, :]].add(scores_NxLxTxT[:, 0])
        # The product also sums over sequences, so there is no [V,V] for each of them.
        others = [matmul(h.reshape(-1, V).T, Sh.reshape(-1, V)) for h, Sh in states]
        position = jnp.zeros_like(params.position)
        position = position.at[:, jnp.abs(lag_TxT)].add(jnp.sum(scores_NxLxTxT, axis=0))
        return -share * jnp.stack([first, *others]), -share * position

    size = default_microbatch_size(params, T)
    return sum_microbatches(microbatch_gradient, tokens, mask, size)


class Effective(Theory):
    """The effective theory of the paper's model, trained from zero by `effective_gradient`."""

    name = "effective"

    def check(self, model, optimizer):
        check_paper_model(f"theory {self.name!r}", model)

    def prepare(self, model, sizes, batch):
        depth = sizes.num_layers
        return effective_statistics(
            batch.tokens, depth=depth, vocab_size=batch.vocab_size, mask=batch.mask
        )

    def gradient(self, model, params, prepared, batch):
        return effective_gradient(params, prepared, batch.tokens, batch.mask)

    def prepared_bytes(self, model, sizes, num_sequences):
        size, _ = super().prepared_bytes(model, sizes, num_sequences)
        # As in the docstring of `effective_statistics`.
        itemsize = jnp.dtype(jnp.result_type(float)).itemsize
        return size, 7 * (sizes.num_layers + 1) ** 2 * sizes.vocab_size**2 * itemsize


register_theory(Effective())

"""The Taylor theory: the weights of any model, from any start, as a polynomial in time.

After s steps of gradient descent the weights are a power series in the learning rate eta, whose
coefficients are polynomials in s:

    w(s) = sum_k eta^k a_k(s)          a_k(s) = sum_{j<=k} C(s,j) d_kj          k = 0..K

Since w(s+1) = w(s) - eta g(w(s)), Taylor-mode automatic differentiation of the gradient g
(`jax.experimental.jet`) gives a_k(s+1) from a_0(s), ..., a_{k-1}(s). K steps from the start
give a_k(0), ..., a_k(K), and their differences at 0 are d_kj. In the limit of small eta, at
tau = s eta, these are gradient flow, w(tau) = sum_k tau^k d_kk / k!.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.jet import jet
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from assocjax.errors import InputError
from assocjax.models.microbatches import sum_microbatches
from assocjax.models.model import Model
from assocjax.theories.registry import register_theory
from assocjax.theories.theory import Batch, Theory

Series = Float[Array, "terms weights"]
"""The d_kj as vectors of all weights, in the order (k,j) = (0,0), (1,0), (1,1), (2,0), ..."""


@partial(jax.jit, static_argnames=("model", "order", "microbatch_size"))
def taylor_series(
    model: Model, start: Any, batch: Batch, order: int, microbatch_size: int = 8
) -> Series:
    """The coefficients d_kj, up to k = K, of a model that is trained from `start`.

    Args:
      model: a `Model`, static; its loss may use any operation that `jet` knows.
      start: its weights at step 0.
      batch: the corpus.
      order: K >= 1, static.
      microbatch_size: sequences differentiated at once, static.

    Cost: K times the gradient of the corpus with K - 1 Taylor coefficients, about K^3 / 2
    gradients. Memory: (K + 1) (K + 2) copies of the weights. Source: this package.
    """
    flat, unravel = ravel_pytree(start)
    factorial = jnp.asarray([[math.factorial(k)] for k in range(order + 1)], flat.dtype)
    valid = jnp.maximum(jnp.sum(batch.mask), 1)

    def of_gradient(a):  # a_1, ..., a_K -> orders 0, ..., K-1 of g
        terms = list((factorial[1:] * a)[: max(1, order - 1)])  # as derivatives

        def of_sequences(tokens, mask):
            def gradient(weights):
                found = ravel_pytree(jax.grad(model.loss)(unravel(weights), tokens, mask))[0]
                return (jnp.sum(mask) / valid).astype(flat.dtype) * found

            value, derivatives = jet(gradient, (flat,), (terms,))
            return jnp.stack([value, *derivatives])[:order] / factorial[:order]

        return sum_microbatches(of_sequences, batch.tokens, batch.mask, microbatch_size)

    path = [jnp.zeros((order, flat.size), flat.dtype)]
    for _ in range(order):
        path.append(path[-1] - of_gradient(path[-1]))
    a = jnp.stack(path)
    return jnp.stack([flat, *(jnp.diff(a[:, k - 1], j, 0)[0] for k, j in _terms(order)[1:])])


def taylor_weights(series: Series, start: Any, learning_rate: Any, steps: Any) -> Any:
    """w(s) of gradient descent, a tree like `start`; rate and steps may be traced."""
    return _sum(series, start, lambda k, j: learning_rate**k * _binomial(steps, j))


def taylor_flow(series: Series, start: Any, duration: Any) -> Any:
    """w(tau) of gradient flow, a tree like `start`; tau may be traced."""
    return _sum(series, start, lambda k, j: (j == k) * duration**k / math.factorial(k))


def _terms(order: int) -> list[tuple[int, int]]:
    return [(k, j) for k in range(order + 1) for j in range(k + 1)]


def _sum(series: Series, start: Any, size: Any) -> Any:
    order = int(np.sqrt(2 * len(series))) - 1
    sizes = jnp.asarray([size(k, j) for k, j in _terms(order)], series.dtype)
    return ravel_pytree(start)[1](jnp.tensordot(sizes, series, 1, precision="highest"))


def _binomial(n: Any, k: int) -> Any:
    return math.prod((jnp.asarray(n, float) - i) / (i + 1) for i in range(k))


class Taylor(Theory):
    """The Taylor polynomial of plain gradient descent around the run's own start."""

    name, from_start, of_batches = "taylor", True, False

    def __init__(self, order: int = 4):
        self.order, self.weight_copies = order, (order + 1) * (order + 2)

    def check(self, model, optimizer):
        if optimizer != "sgd":
            raise InputError(f"theory {self.name!r} is of optimizer 'sgd'; got {optimizer!r}")

    def prepare(self, model, sizes, batch):
        return ()

    def solve(self, training, prepared, batch):
        return training.start, taylor_series(training.model, training.start, batch, self.order)

    def solution(self, training, solved, prepared, step):
        (start, series), eta = solved, training.learning_rate
        # (w(s) - w(s+1)) / eta: of C(s,j) the difference is C(s,j-1).
        gradient = _sum(
            series, start, lambda k, j: -(eta ** (k - 1)) * _binomial(step, j - 1) if j else 0.0
        )
        return taylor_weights(series, start, eta, step), gradient


register_theory(Taylor())

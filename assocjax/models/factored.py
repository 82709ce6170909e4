"""A factored model: the paper's attention and positions, for tokens embedded in d dimensions.

    h_0 = X E                                       E [V,d]
    S_lh = h_{l-1} W_lh h_{l-1}^T + D(P_l)          W_l [d,d], or of H heads W_lh = Q_lh K_lh^T
    h_l = h_{l-1} + sum_h A_lh h_{l-1} V_lh         V_l [d,d], V_lh its h-th block of d/H columns
    logits = h_L W_O                                W_O [d,V], or E^T if tied

With d = V and E the identity, it is the paper's model.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from assocjax.arguments import check_integer
from assocjax.errors import InputError
from assocjax.models.attention_only import attention, count_valid, sum_nll
from assocjax.models.model import Model, Sizes, Weights
from assocjax.models.params import Params
from assocjax.models.registry import register_model
from assocjax.precision import matmul

LAYERED = ("query_key", "query", "key", "position", "value")


@dataclasses.dataclass(frozen=True)
class Factored(Model):
    """The factored model; its weights are a dict of arrays.

        embedding   [V, d]      unless frozen
        query_key   [L, d, d]   with one head; otherwise query and key [L, H, d, r], r = d / H
        position    [L, T]      shared by heads
        value       [L, d, d]   head h writes the h-th block of d / H columns
        output      [d, V]      unless tied

    At the start, entries of the embedding are normal with variance 1/d, so that embeddings have
    about unit norm, and all others are normal with standard deviation `scale`; 0 is possible with
    one head, but queries and keys that are both zero never change.

    Args:
      width: d.
      heads: H, which divides d.
      tied: the output is the transposed embedding.
      frozen_seed: the embedding is not a weight but fixed, drawn from this seed; None trains it.
      name: names the model in results.

    Raises:
      InputError, InputTypeError: an argument is out of range, or H does not divide d.
    """

    width: int = 32
    heads: int = 1
    tied: bool = False
    frozen_seed: int | None = None
    name: str = "factored"
    init_scale: float = 0.0

    def __post_init__(self):
        check_integer("width", self.width, minimum=1)
        check_integer("heads", self.heads, minimum=1)
        if self.frozen_seed is not None:
            check_integer("frozen_seed", self.frozen_seed, minimum=0)
        if self.width % self.heads:
            raise InputError(f"heads must divide width, {self.width}; got {self.heads}")
        if self.tied and self.frozen_seed is not None:
            raise InputError("tied must be False with a frozen embedding; got True")

    def init(self, key, sizes: Sizes, scale, dtype=None) -> dict[str, Any]:
        V, T, L = sizes
        d, H = self.width, self.heads
        shapes: dict[str, tuple[int, ...]] = {"embedding": (V, d), "query_key": (L, d, d)}
        if H > 1:
            del shapes["query_key"]
            shapes |= {"query": (L, H, d, d // H), "key": (L, H, d, d // H)}
        shapes |= {"position": (L, T), "value": (L, d, d), "output": (d, V)}
        dtype = jnp.result_type(float) if dtype is None else dtype
        keys = jax.random.split(key, len(shapes))
        params = {
            name: (d**-0.5 if name == "embedding" else jnp.asarray(scale, dtype))
            * jax.random.normal(key, shape, dtype)
            for key, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        left_out = ["embedding"] * (self.frozen_seed is not None) + ["output"] * self.tied
        return {name: leaf for name, leaf in params.items() if name not in left_out}

    def embedding(self, params: dict[str, Any]) -> jax.Array:
        """E [V,d], trained or frozen."""
        if self.frozen_seed is None:
            return params["embedding"]
        output, key = params["output"], jax.random.key(self.frozen_seed)
        return self.width**-0.5 * jax.random.normal(key, output.T.shape, output.dtype)

    def logits(self, params: dict[str, Any], tokens, mask=None) -> jax.Array:
        """Next-token logits [T,V] of the T inputs of one sequence."""
        E = self.embedding(params)
        h_Td = E[tokens]
        for layer in range(len(params["value"])):
            values_Td = matmul(h_Td, params["value"][layer])

            def attend(scores_TT, values, layer=layer):
                return matmul(attention(scores_TT, params["position"][layer], mask), values)

            if self.heads == 1:
                scores_TT = matmul(matmul(h_Td, params["query_key"][layer]), h_Td.T)
                h_Td += attend(scores_TT, values_Td)
                continue
            query_HTr, key_HTr = (
                matmul(h_Td[None], params[name][layer]) for name in ("query", "key")
            )
            scores_HTT = matmul(query_HTr, key_HTr.swapaxes(1, 2))
            values_HTr = values_Td.reshape(len(tokens), self.heads, -1).swapaxes(0, 1)
            mixed_HTr = jax.vmap(attend)(scores_HTT, values_HTr)
            h_Td += mixed_HTr.swapaxes(0, 1).reshape(h_Td.shape)
        return matmul(h_Td, E.T if self.tied else params["output"])

    def loss(self, params, tokens, mask):
        def nll(tokens, mask):
            return sum_nll(self.logits(params, tokens[:-1], mask), tokens[1:], mask)

        losses = jax.vmap(nll)(tokens, mask)
        return jnp.sum(losses) / count_valid(mask, losses.dtype)

    def weights(self, params: dict[str, Any]) -> Weights:
        order = ("embedding", *LAYERED, "output")
        return {n: params[n] if n in LAYERED else params[n][None] for n in order if n in params}

    def in_tokens(self, params: dict[str, Any]) -> Params:
        """E W_l E^T, P_l, E V_l E^T and E W_O: the paper's weights that act alike on tokens if
        embeddings are orthonormal."""
        E = self.embedding(params)

        def between_tokens(matrix):
            return matmul(matmul(E, matrix), E.T)

        if self.heads == 1:
            query_key = params["query_key"]
        else:
            query_key = matmul(params["query"], params["key"].swapaxes(2, 3)).sum(axis=1)
        output = matmul(E, E.T if self.tied else params["output"])
        return Params(
            between_tokens(query_key), params["position"], between_tokens(params["value"]), output
        )


register_model(Factored())

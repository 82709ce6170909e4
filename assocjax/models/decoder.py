"""Decoder-only transformers: GPT-NeoX (Pythia), Llama, GPT-2 and relatives, as models of `Model`.

    h_0 = E[x] (+ P[t])
    q, k, v = norm(h) W_Q, norm(h) W_K, norm(h) W_V, split into heads;  rotary turns q and k
    a_t = softmax over s <= t of q_t k_s / sqrt(r), times v_s
    h' = h + a W_O,  then h' + MLP(norm(h'));  in parallel: h + a W_O + MLP(norm(h))
    logits = norm(h_L) U

Norms may also stand after attention and MLP: h' = h + norm(a W_O), and likewise for the MLP.

Attention is a seam: `Block.heads` gives queries, keys and values, anything may combine them
(`causal` over a sequence, `attend` over other keys), and `Block.finish` takes the result.

Symbols: d the width, H heads of r dimensions (r = d / H unless configured otherwise), G heads of
keys and values.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, DTypeLike, Float, Int32, PRNGKeyArray

from assocjax.models.architecture import DecoderConfig, gpt2, llama, neox, norms_of
from assocjax.models.attention_only import activation_budget, count_valid, position_nll
from assocjax.models.microbatches import sum_microbatches
from assocjax.models.model import Model, Sizes, Weights
from assocjax.models.registry import register_model
from assocjax.precision import matmul

_ACTIVATIONS = {
    # JAX's own is of erfc, which takes XLA twice as long.
    "gelu": lambda x: x * (0.5 + 0.5 * lax.erf(x * math.sqrt(0.5))),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "silu": jax.nn.silu,
}


class Norm(nn.Module):
    """Layer norm or RMS norm over the last axis."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, h: Float[Array, "... d"]) -> Float[Array, "... d"]:
        c, shape = self.config, h.shape[-1:]
        if c.norm != "rms":
            h -= jnp.mean(h, axis=-1, keepdims=True)
        h *= lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True) + c.norm_eps)
        if c.norm == "plain":
            return h
        if c.gains_from_one:
            h *= 1 + _wide(self.param("gain", nn.initializers.zeros, shape), h)
        else:
            h *= _wide(self.param("gain", nn.initializers.ones, shape), h)
        if c.norm == "layer":
            h += _wide(self.param("bias", nn.initializers.zeros, shape), h)
        return h


class Block(nn.Module):
    """One layer; attention itself is between `heads` and `finish`."""

    config: DecoderConfig

    def setup(self):
        c = self.config
        d, r, hidden = c.width, c.head_size, c.mlp_width
        of_heads, to_keys = c.num_heads * r, c.kv_heads * r
        for name in norms_of(c):
            setattr(self, name, Norm(c))
        self.query = self._linear("query", d, of_heads)
        self.key = self._linear("key", d, to_keys)
        self.value = self._linear("value", d, to_keys)
        self.attention_output = self._linear("attention_output", of_heads, d)
        self.mlp_in = self._linear("mlp_in", d, hidden)
        self.mlp_gate = self._linear("mlp_gate", d, hidden) if c.gated else None
        self.mlp_out = self._linear("mlp_out", hidden, d)

    def _linear(self, name: str, inputs: int, outputs: int) -> tuple[Array, Array | None]:
        """A matrix and its bias, or None without one."""
        c = self.config
        writes = name in ("attention_output", "mlp_out")
        scale = 2 / (c.num_layers * math.sqrt(c.width)) if writes else _small(c)
        matrix = self.param(name, nn.initializers.normal(scale), (inputs, outputs))
        if not c.has_bias(name):
            return matrix, None
        return matrix, self.param(f"{name}_bias", nn.initializers.zeros, (outputs,))

    def heads(
        self, h: Float[Array, "... d"]
    ) -> tuple[Float[Array, "... H r"], Float[Array, "... G r"], Float[Array, "... G r"]]:
        """Queries, keys and values of residual streams, before rotary embedding."""
        c = self.config
        parts = (self.query, self.key, self.value)
        matrix = jnp.concatenate([matrix for matrix, _ in parts], axis=-1)  # for one product
        biases = [bias for _, bias in parts if bias is not None]
        joined = matrix, jnp.concatenate(biases) if biases else None
        qkv = self._clip(_apply(joined, self._normed("attention_norm", h)))
        if c.qk_norm:
            of_heads, to_keys = (n * c.head_size for n in (c.num_heads, c.kv_heads))
            q, k, v = jnp.split(qkv, [of_heads, of_heads + to_keys], axis=-1)
            qkv = jnp.concatenate([self.query_norm(q), self.key_norm(k), v], axis=-1)
        qkv = qkv.reshape(*h.shape[:-1], -1, c.head_size)
        q, k, v = jnp.split(qkv, [c.num_heads, c.num_heads + c.kv_heads], axis=-2)
        return q, k, v

    def values(self, h: Float[Array, "... d"]) -> Float[Array, "... G r"]:
        """The values of `heads` alone, for attention that is fixed."""
        v = self._clip(_apply(self.value, self._normed("attention_norm", h)))
        return v.reshape(*h.shape[:-1], -1, self.config.head_size)

    def _normed(self, name: str, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """`x` after the norm of this name, unchanged where the layer has none."""
        return getattr(self, name)(x) if name in norms_of(self.config) else x

    def _clip(self, x: Float[Array, "... n"]) -> Float[Array, "... n"]:
        bound = self.config.qkv_clip
        return x if bound is None else jnp.clip(x, -bound, bound)

    def finish(
        self, h: Float[Array, "... d"], mixed: Float[Array, "... H r"]
    ) -> Float[Array, "... d"]:
        """The layer's output, from its input and from what its heads have read."""
        attention = _apply(self.attention_output, mixed.reshape(*h.shape[:-1], -1))
        attended = h + self._normed("attention_output_norm", attention)
        norm = "attention_norm" if self.config.shared_norm else "mlp_norm"
        x = self._normed(norm, h if self.config.parallel else attended)
        activation, hidden = _ACTIVATIONS[self.config.activation], _apply(self.mlp_in, x)
        if self.mlp_gate is None:
            hidden = activation(hidden)
        else:
            hidden *= activation(_apply(self.mlp_gate, x))
        return attended + self._normed("mlp_output_norm", _apply(self.mlp_out, hidden))


class Decoder(nn.Module):
    """A decoder-only transformer; its weights at the start are those of Pythia's recipe: Gaussian
    of standard deviation sqrt(2 / 5d), and 2 / (L sqrt(d)) where a matrix writes to the residual
    stream, gains 1 and biases 0."""

    config: DecoderConfig

    def setup(self):
        c = self.config
        small = nn.initializers.normal(_small(c))
        self.embedding = self.param("embedding", small, (c.vocab_size, c.width))
        if c.learned_positions:
            self.positions = self.param("positions", small, (c.seq_len, c.width))
        self.blocks = [Block(c) for _ in range(c.num_layers)]
        self.final_norm = Norm(c)
        if not c.tied:
            self.unembedding = self.param("unembedding", small, (c.width, c.vocab_size))
        if c.output_bias:
            zeros = nn.initializers.zeros
            self.unembedding_bias = self.param("unembedding_bias", zeros, (c.vocab_size,))

    def __call__(
        self, tokens: Int32[Array, "... T"], mask: Bool[Array, "... T"] | None = None
    ) -> Float[Array, "... T V"]:
        """Next-token logits; no other position attends to a position where `mask` is False."""
        return self.unembed(self.streams(tokens, mask)[-1])

    def streams(
        self, tokens: Int32[Array, "... T"], mask: Bool[Array, "... T"] | None = None
    ) -> list[Float[Array, "... T d"]]:
        """The residual streams h_0 to h_L, before the first layer and after each."""
        positions = jnp.arange(tokens.shape[-1])
        states = [self.embed(tokens, positions)]
        for i, block in enumerate(self.blocks):
            q, k, v = block.heads(states[-1])
            q, k = (rotate(self.config, x, positions) for x in (q, k))
            mixed = causal(self.config, q, k, v, mask, self.config.window_of(i))
            states.append(block.finish(states[-1], mixed))
        return states

    def through_layers(
        self, layer: Callable[[Block, Any], Any], states: Any, *, rematerialize: bool = False
    ) -> Any:
        """The states after all layers, each of which makes them `layer(block, states)`.

        Args:
          layer: a pure function, the same for all layers; the states that it returns have the
            shapes of those it takes.
          states: an array or a tree of arrays, before the first layer.
          rematerialize: whether the gradient computes each layer a second time, from the states
            before it, which are all that is kept; static. Less memory for a third more time.
        """
        if not rematerialize:  # A loop of XLA's would take more time: it copies what it keeps.
            for block in self.blocks:
                states = layer(block, states)
            return states
        block, params = Block(self.config, parent=None), self.variables["params"]
        of_layers = [params[f"blocks_{i}"] for i in range(self.config.num_layers)]

        def advance(states, of_layer):
            return layer(block.bind({"params": of_layer}), states), None

        # Without the loop XLA's compiler for CPUs merges the second computation with the first.
        stacked = jax.tree.map(lambda *weights: jnp.stack(weights), *of_layers)
        return lax.scan(jax.checkpoint(advance, prevent_cse=False), states, stacked)[0]

    def embed(
        self, tokens: Int32[Array, "..."], positions: Int32[Array, "..."]
    ) -> Float[Array, "... d"]:
        """h_0 of tokens at positions; leading axes of `positions` may be missing."""
        h = self.embedding[tokens]
        if self.config.scaled_embedding:
            h *= math.sqrt(self.config.width)
        if self.config.learned_positions:
            h += jnp.broadcast_to(self.positions[positions], h.shape)
        return h

    def unembed(self, h: Float[Array, "... d"]) -> Float[Array, "... V"]:
        """Logits of residual streams after the last layer, by the final norm and unembedding."""
        matrix = self.embedding.T if self.config.tied else self.unembedding
        bias = self.unembedding_bias if self.config.output_bias else None
        return _cap(_apply((matrix, bias), self.final_norm(h)), self.config.logit_cap)


def rotate(
    config: DecoderConfig, x: Float[Array, "... H r"], positions: Int32[Array, "..."]
) -> Float[Array, "... H r"]:
    """Queries or keys after rotary embedding at their positions; unchanged without it.

    Dimension i is paired with i + n of the 2 n dimensions that are turned. Leading axes of
    `positions` may be missing.
    """
    frequencies = config.frequencies
    n = len(frequencies)
    if n == 0:
        return x
    angles = positions.astype(x.dtype)[..., None, None] * _wide(
        jnp.asarray(frequencies, x.dtype), positions, 2
    )
    cos, sin = (_wide(f(angles), x) for f in (jnp.cos, jnp.sin))
    a, b, rest = jnp.split(x, [n, 2 * n], axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def attend(
    config: DecoderConfig,
    q: Float[Array, "n S H r"],
    k: Float[Array, "n T G r"],
    v: Float[Array, "n T G r"],
    valid: Bool[Array, "n S T"],
) -> Float[Array, "n S H r"]:
    """What the S queries of each of n rows read from its T keys, where they are valid; at least one
    key of each query must be.

    softmax over T of q k / sqrt(r), times v. Queries and keys are already rotated. A sliding window
    is not applied: the caller says which keys are valid.
    """
    return _mix(config, q, k, v, valid[:, None])


def causal(
    config: DecoderConfig,
    q: Float[Array, "... T H r"],
    k: Float[Array, "... T G r"],
    v: Float[Array, "... T G r"],
    mask: Bool[Array, "... T"] | None = None,
    window: int | None = None,
) -> Float[Array, "... T H r"]:
    """What each position reads from itself and the positions before it, the last `window` of them.

    Queries and keys are already rotated. No other position reads one where `mask` is False.
    """
    T = q.shape[-3]
    valid = jnp.tri(T, dtype=bool)
    if window is not None and window < T:
        valid &= ~jnp.tri(T, k=-window, dtype=bool)
    if mask is not None:
        mask = mask[..., None, None, :]
        valid = _wide(valid, mask) & mask | _wide(jnp.eye(T, dtype=bool), mask)
    return _mix(config, q, k, v, valid)


def _mix(config, q, k, v, valid):
    """Attention [..., S, H, r] of queries [..., S, H, r] over keys [..., T, G, r], where `valid`,
    [..., 1 or H, S, T], is True."""
    q, k, v = (jnp.moveaxis(x, -3, -2) for x in (q, k, v))
    if (shared := config.num_heads // config.kv_heads) > 1:
        k, v = (jnp.repeat(x, shared, axis=-3) for x in (k, v))
    width = config.head_size if config.score_width is None else config.score_width
    scores = _cap(matmul(q / math.sqrt(width), jnp.swapaxes(k, -1, -2)), config.score_cap)
    scores = jnp.where(valid, scores, -jnp.inf)
    return jnp.moveaxis(matmul(jax.nn.softmax(scores, axis=-1), v), -2, -3)


MATRICES = ("query", "key", "value", "attention_output", "mlp_in", "mlp_gate", "mlp_out")
"""Names of a block's matrices [inputs, outputs], in the order in which it applies them."""


def _cap(x: Array, bound: float | None) -> Array:
    return x if bound is None else bound * jnp.tanh(x / bound)


def _small(config: DecoderConfig) -> float:
    return math.sqrt(2 / (5 * config.width))


def _wide(x: Array, like: Array, extra: int = 0) -> Array:
    """`x` with leading axes of size 1, up to the number of axes of `like` and `extra` more."""
    return x.reshape((1,) * (like.ndim + extra - x.ndim) + x.shape)


def _apply(linear: tuple[Array, Array | None], x: Array) -> Array:
    matrix, bias = linear
    # Of two axes, since XLA's derivative of a product of more copies a transposed factor on CPUs.
    y = matmul(x.reshape(-1, x.shape[-1]), matrix)
    y = y if bias is None else y + _wide(bias, y)
    return y.reshape(*x.shape[:-1], -1)


@dataclasses.dataclass(frozen=True)
class DecoderModel(Model):
    """A decoder as a model of the package.

    Attributes:
      name: such as "neox".
      config: its architecture. Sizes, where they are given, replace V, T and L.
    """

    name: str
    config: DecoderConfig

    def decoder(self, params: Any) -> Decoder:
        """The module whose weights `params` are; V, L and learned positions are theirs."""
        layers = sum(name.startswith("blocks_") for name in params)
        sizes = Sizes(len(params["embedding"]), self.config.seq_len, layers)
        if "positions" in params:
            sizes = sizes._replace(seq_len=len(params["positions"]))
        return Decoder(dataclasses.replace(self.config, **sizes._asdict()))

    def init(
        self, key: PRNGKeyArray, sizes: Sizes, scale: Any = 1.0, dtype: DTypeLike | None = None
    ) -> dict[str, Any]:
        """Gaussian matrices, see `Decoder`, times `scale`; gains 1 and biases 0."""
        decoder = Decoder(dataclasses.replace(self.config, **sizes._asdict()))
        params = decoder.init(key, jnp.zeros((1, 1), jnp.int32))["params"]
        dtype = jnp.zeros(0, dtype).dtype

        def scaled(weight):
            weight = weight.astype(dtype)
            return weight * jnp.asarray(scale, dtype) if weight.ndim > 1 else weight

        return jax.tree.map(scaled, params)

    def logits(
        self,
        params: Any,
        tokens: Int32[Array, "... T"],
        mask: Bool[Array, "... T"] | None = None,
    ) -> Float[Array, "... T V"]:
        """Next-token logits of sequences of tokens, see `Decoder`."""
        return jnp.asarray(self.decoder(params).apply({"params": params}, tokens, mask))

    def loss(
        self, params: Any, tokens: Int32[Array, "N T+1"], mask: Bool[Array, "N T"]
    ) -> Float[Array, ""]:
        """Mean negative log-likelihood, in nats, of the targets where `mask` is True.

        Cost: about 6 (4 d^2 + 2 d m) L + 6 V d operations for each token with its gradient, for
        an MLP of width m.
        """
        nll = self._sum_nll(params, tokens, mask)
        return nll / count_valid(mask, nll.dtype)

    def evaluate(
        self, params: Any, tokens: Int32[Array, "N T+1"], mask: Bool[Array, "N T"]
    ) -> Float[Array, ""]:
        """`loss`, in microbatches that bound memory."""
        size = self._microbatch_size(self.decoder(params).config, mask.shape[1], params)
        nll = sum_microbatches(partial(self._sum_nll, params), tokens, mask, size)
        return nll / count_valid(mask, nll.dtype)

    def loss_and_gradient(
        self,
        params: Any,
        tokens: Int32[Array, "N T+1"],
        mask: Bool[Array, "N T"],
        *,
        microbatch_size: int | None = None,
        max_distinct: int | None = None,
    ) -> tuple[Float[Array, ""], Any]:
        """`loss` and its gradient, by default in microbatches whose activations fit a CPU's caches,
        or 1 GiB of an accelerator: on a CPU it takes two thirds of the time of the whole batch."""
        if microbatch_size is None:
            config = self.decoder(params).config
            microbatch_size = self._microbatch_size(config, mask.shape[1], params)
        return super().loss_and_gradient(params, tokens, mask, microbatch_size=microbatch_size)

    def step_bytes(
        self,
        sizes: Sizes,
        *,
        num_sequences: int,
        microbatch_size: int | None,
        max_distinct: int | None,
        itemsize: int,
    ) -> int:
        """As `Model.step_bytes`, in the same microbatches as `loss_and_gradient`."""
        if microbatch_size is None:
            config = dataclasses.replace(self.config, **sizes._asdict())
            params = self.shapes(sizes, itemsize)
            microbatch_size = self._microbatch_size(config, sizes.seq_len, params)
        return super().step_bytes(
            sizes,
            num_sequences=num_sequences,
            microbatch_size=microbatch_size,
            max_distinct=max_distinct,
            itemsize=itemsize,
        )

    def _microbatch_size(self, config: DecoderConfig, seq_len: int, params: Any) -> int:
        """The number of sequences whose activations fit `activation_budget`, at least one."""
        c = config
        layer = 12 * c.width + 3 * c.mlp_width + 3 * c.num_heads * seq_len
        entries = seq_len * (c.num_layers * layer + 2 * c.vocab_size)  # as XLA keeps them
        one = entries * params["embedding"].dtype.itemsize
        return max(1, activation_budget() // one)

    def _sum_nll(self, params, tokens, mask):
        z = self.logits(params, tokens[:, :-1], mask)
        return jnp.sum(jax.vmap(position_nll)(z, tokens[:, 1:], mask))

    def weights(self, params: Any) -> Weights:
        """By name: embedding, positions (if learned), query, key, value, attention_output, mlp_in,
        mlp_gate (if gated), mlp_out [L, inputs, outputs]; norms [L, all gains and biases of the
        layer's norms] (if any); biases [L, those of its projections] (if any); final_norm (if it
        has weights); unembedding (if not tied); unembedding_bias (if any). All without layers are
        [1, ...]."""
        blocks = [params[f"blocks_{i}"] for i in range(self.decoder(params).config.num_layers)]
        matrices = [name for name in MATRICES if name in blocks[0]]
        found = {name: params[name][None] for name in ("embedding", "positions") if name in params}
        found |= {name: jnp.stack([block[name] for block in blocks]) for name in matrices}
        names = [name for name in norms_of(self.config) if name in blocks[0]]
        if names:
            norms = [[block[name] for name in names] for block in blocks]
            found["norms"] = jnp.stack([jnp.concatenate(jax.tree.leaves(of)) for of in norms])
        names = [f"{name}_bias" for name in matrices if self.config.has_bias(name)]
        if names:
            biases = [[block[name] for name in names] for block in blocks]
            found["biases"] = jnp.stack([jnp.concatenate(of) for of in biases])
        if "final_norm" in params:
            found["final_norm"] = jnp.concatenate(jax.tree.leaves(params["final_norm"]))[None]
        outside = [name for name in ("unembedding", "unembedding_bias") if name in params]
        return found | {name: params[name][None] for name in outside}


for _family in (neox, llama, gpt2):  # V, T and L are those of a run
    register_model(DecoderModel(_family.__name__, _family(1, 1, 1, width=128, num_heads=4)))

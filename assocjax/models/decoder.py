"""Decoder-only transformers: GPT-NeoX (Pythia), Llama and GPT-2, as models of `Model`.

    h_0 = E[x] (+ P[t])
    q, k, v = norm(h) W_Q, norm(h) W_K, norm(h) W_V, split into heads;  rotary turns q and k
    a_t = softmax over s <= t of q_t k_s / sqrt(r), times v_s
    h' = h + a W_O,  then h' + MLP(norm(h'));  in parallel: h + a W_O + MLP(norm(h))
    logits = norm(h_L) U

Attention is a seam: `Block.heads` gives queries, keys and values, anything may combine them
(`causal` over a sequence, `attend` over other keys), and `Block.finish` takes the result.

Symbols: d the width, H heads of r = d / H dimensions, G heads of keys and values.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, DTypeLike, Float, Int32, PRNGKeyArray

from assocjax.arguments import check_choice, check_integer
from assocjax.checks import check_number
from assocjax.errors import InputError
from assocjax.models.attention_only import activation_budget, count_valid, position_nll
from assocjax.models.microbatches import sum_microbatches
from assocjax.models.model import Model, Sizes, Weights
from assocjax.models.registry import register_model
from assocjax.precision import matmul

ACTIVATIONS = {
    # JAX's own is of erfc, which takes XLA twice as long.
    "gelu": lambda x: x * (0.5 + 0.5 * lax.erf(x * math.sqrt(0.5))),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "silu": jax.nn.silu,
}


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """All of a decoder's architecture. `neox`, `llama` and `gpt2` make the usual ones.

    Attributes:
      vocab_size: V.
      seq_len: the largest number of positions, T.
      num_layers: L.
      width: d, of the residual stream.
      num_heads: H; a head has r = d / H dimensions.
      mlp_width: of the MLP's hidden layer.
      num_kv_heads: G, heads of keys and values, each shared by H / G heads of queries; None is H.
      norm: "layer" (with biases) or "rms" (without).
      norm_eps: added to the variance.
      parallel: whether the MLP reads the same h as attention, and not the sum after it.
      rotary_fraction: the part of a head's dimensions that rotary embedding turns.
      rotary_base: the base of its wavelengths.
      learned_positions: whether h_0 has a learned term for each position.
      gated: whether the MLP's hidden layer is act(x W_gate) * (x W_in), and not act(x W_in).
      activation: "gelu" (exact), "gelu_tanh" or "silu".
      biases: whether projections have biases.
      tied: whether the unembedding is the transposed embedding.

    Raises:
      InputError, InputTypeError: a value is out of range, or heads do not divide the width.
    """

    vocab_size: int
    seq_len: int
    num_layers: int
    width: int
    num_heads: int
    mlp_width: int
    num_kv_heads: int | None = None
    norm: Literal["layer", "rms"] = "layer"
    norm_eps: float = 1e-5
    parallel: bool = False
    rotary_fraction: float = 0.0
    rotary_base: float = 10_000.0
    learned_positions: bool = False
    gated: bool = False
    activation: Literal["gelu", "gelu_tanh", "silu"] = "gelu"
    biases: bool = True
    tied: bool = False

    def __post_init__(self):
        sizes = ("vocab_size", "seq_len", "num_layers", "width", "num_heads", "mlp_width")
        for name in sizes:
            check_integer(name, getattr(self, name), minimum=1)
        check_number("rotary_fraction", self.rotary_fraction, minimum=0)
        check_number("rotary_base", self.rotary_base, minimum=1)
        check_number("norm_eps", self.norm_eps, minimum=0)
        if self.rotary_fraction > 1:
            raise InputError(f"rotary_fraction must be at most 1; got {self.rotary_fraction}")
        if self.width % self.num_heads:
            raise InputError(
                f"width must be a multiple of num_heads; got {self.width} for {self.num_heads}"
            )
        groups = check_integer("num_kv_heads", self.kv_heads, minimum=1)
        if self.num_heads % groups:
            raise InputError(
                "num_heads must be a multiple of num_kv_heads; got "
                f"{self.num_heads} for {self.num_kv_heads}"
            )
        if len(self.frequencies) * 2 > self.head_size:
            raise InputError(f"rotary embedding turns pairs; a head has {self.head_size} dimension")
        check_choice("norm", self.norm, ("layer", "rms"))
        check_choice("activation", self.activation, ACTIVATIONS)

    @property
    def head_size(self) -> int:
        """r."""
        return self.width // self.num_heads

    @property
    def kv_heads(self) -> int:
        """G."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def frequencies(self) -> np.ndarray:
        """Angles, in radians, by which rotary embedding turns each pair from one position to the
        next, float64; empty without it."""
        turned = int(self.head_size * self.rotary_fraction)
        return self.rotary_base ** -(np.arange(0, turned, 2) / max(turned, 1))


def neox(
    vocab_size: int, seq_len: int, num_layers: int, width: int, num_heads: int
) -> DecoderConfig:
    """GPT-NeoX as in Pythia: layer norms, MLP in parallel, a quarter of a head rotary, untied."""
    return DecoderConfig(
        *(vocab_size, seq_len, num_layers, width, num_heads),
        mlp_width=4 * width,
        parallel=True,
        rotary_fraction=0.25,
    )


def llama(
    vocab_size: int,
    seq_len: int,
    num_layers: int,
    width: int,
    num_heads: int,
    num_kv_heads: int | None = None,
) -> DecoderConfig:
    """Llama: RMS norms, gated MLP of width 8/3 d, rotary of all dimensions, no biases, untied."""
    return DecoderConfig(
        *(vocab_size, seq_len, num_layers, width, num_heads),
        mlp_width=8 * width // 3,
        num_kv_heads=num_kv_heads,
        norm="rms",
        rotary_fraction=1.0,
        gated=True,
        activation="silu",
        biases=False,
    )


def gpt2(
    vocab_size: int, seq_len: int, num_layers: int, width: int, num_heads: int
) -> DecoderConfig:
    """GPT-2: layer norms, learned positions, tanh form of gelu, tied."""
    return DecoderConfig(
        *(vocab_size, seq_len, num_layers, width, num_heads),
        mlp_width=4 * width,
        learned_positions=True,
        activation="gelu_tanh",
        tied=True,
    )


class Norm(nn.Module):
    """Layer norm or RMS norm over the last axis."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, h: Float[Array, "... d"]) -> Float[Array, "... d"]:
        layer = self.config.norm == "layer"
        if layer:
            h -= jnp.mean(h, axis=-1, keepdims=True)
        h *= lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True) + self.config.norm_eps)
        h *= _wide(self.param("gain", nn.initializers.ones, (self.config.width,)), h)
        if layer:
            h += _wide(self.param("bias", nn.initializers.zeros, (self.config.width,)), h)
        return h


class Block(nn.Module):
    """One layer; attention itself is between `heads` and `finish`."""

    config: DecoderConfig

    def setup(self):
        c = self.config
        d, to_keys, hidden = c.width, c.kv_heads * c.head_size, c.mlp_width
        self.attention_norm, self.mlp_norm = Norm(c), Norm(c)
        self.query = self._linear("query", d, d)
        self.key = self._linear("key", d, to_keys)
        self.value = self._linear("value", d, to_keys)
        self.attention_output = self._linear("attention_output", d, d)
        self.mlp_in = self._linear("mlp_in", d, hidden)
        self.mlp_gate = self._linear("mlp_gate", d, hidden) if c.gated else None
        self.mlp_out = self._linear("mlp_out", hidden, d)

    def _linear(self, name: str, inputs: int, outputs: int) -> tuple[Array, Array | None]:
        """A matrix and its bias, or None without one."""
        c = self.config
        writes = name in ("attention_output", "mlp_out")
        scale = 2 / (c.num_layers * math.sqrt(c.width)) if writes else _small(c)
        matrix = self.param(name, nn.initializers.normal(scale), (inputs, outputs))
        if not c.biases:
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
        qkv = _apply(joined, self.attention_norm(h))
        qkv = qkv.reshape(*h.shape[:-1], -1, c.head_size)
        q, k, v = jnp.split(qkv, [c.num_heads, c.num_heads + c.kv_heads], axis=-2)
        return q, k, v

    def values(self, h: Float[Array, "... d"]) -> Float[Array, "... G r"]:
        """The values of `heads` alone, for attention that is fixed."""
        return _apply(self.value, self.attention_norm(h)).reshape(
            *h.shape[:-1], -1, self.config.head_size
        )

    def finish(
        self, h: Float[Array, "... d"], mixed: Float[Array, "... H r"]
    ) -> Float[Array, "... d"]:
        """The layer's output, from its input and from what its heads have read."""
        attended = h + _apply(self.attention_output, mixed.reshape(h.shape))
        x = self.mlp_norm(h if self.config.parallel else attended)
        activation, hidden = ACTIVATIONS[self.config.activation], _apply(self.mlp_in, x)
        if self.mlp_gate is None:
            hidden = activation(hidden)
        else:
            hidden *= activation(_apply(self.mlp_gate, x))
        return attended + _apply(self.mlp_out, hidden)


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

    def __call__(
        self, tokens: Int32[Array, "... T"], mask: Bool[Array, "... T"] | None = None
    ) -> Float[Array, "... T V"]:
        """Next-token logits; no other position attends to a position where `mask` is False."""
        positions = jnp.arange(tokens.shape[-1])

        def layer(block, h):
            q, k, v = block.heads(h)
            q, k = (rotate(self.config, x, positions) for x in (q, k))
            return block.finish(h, causal(self.config, q, k, v, mask))

        return self.unembed(self.through_layers(layer, self.embed(tokens, positions)))

    def through_layers(
        self, layer: Callable[[Block, Any], Any], states: Any, *, rematerialize: bool = False
    ) -> Any:
        """The states after all layers, each of which makes them `layer(block, states)`.

        Args:
          layer: a pure function; the states that it returns have the shapes of those it takes.
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
        if self.config.learned_positions:
            h += jnp.broadcast_to(self.positions[positions], h.shape)
        return h

    def unembed(self, h: Float[Array, "... d"]) -> Float[Array, "... V"]:
        """Logits of residual streams after the last layer, by the final norm and unembedding."""
        matrix = self.embedding.T if self.config.tied else self.unembedding
        return _apply((matrix, None), self.final_norm(h))


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

    softmax over T of q k / sqrt(r), times v. Queries and keys are already rotated.
    """
    return _mix(config, q, k, v, valid[:, None])


def causal(
    config: DecoderConfig,
    q: Float[Array, "... T H r"],
    k: Float[Array, "... T G r"],
    v: Float[Array, "... T G r"],
    mask: Bool[Array, "... T"] | None = None,
) -> Float[Array, "... T H r"]:
    """What each position reads from itself and the positions before it.

    Queries and keys are already rotated. No other position reads one where `mask` is False.
    """
    T = q.shape[-3]
    valid = jnp.tri(T, dtype=bool)
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
    scores = matmul(q / math.sqrt(config.head_size), jnp.swapaxes(k, -1, -2))
    scores = jnp.where(valid, scores, -jnp.inf)
    return jnp.moveaxis(matmul(jax.nn.softmax(scores, axis=-1), v), -2, -3)


MATRICES = ("query", "key", "value", "attention_output", "mlp_in", "mlp_gate", "mlp_out")
"""Names of a block's matrices [inputs, outputs], in the order in which it applies them."""


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
        layer's norms]; biases [L, those of its projections] (if any); final_norm; unembedding (if
        not tied). All without layers are [1, ...]."""
        blocks = [params[f"blocks_{i}"] for i in range(self.decoder(params).config.num_layers)]
        matrices = [name for name in MATRICES if name in blocks[0]]
        found = {name: params[name][None] for name in ("embedding", "positions") if name in params}
        found |= {name: jnp.stack([block[name] for block in blocks]) for name in matrices}
        norms = [[block[norm] for norm in ("attention_norm", "mlp_norm")] for block in blocks]
        found["norms"] = jnp.stack([jnp.concatenate(jax.tree.leaves(of)) for of in norms])
        if self.config.biases:
            biases = [[block[f"{name}_bias"] for name in matrices] for block in blocks]
            found["biases"] = jnp.stack([jnp.concatenate(of) for of in biases])
        found["final_norm"] = jnp.concatenate(jax.tree.leaves(params["final_norm"]))[None]
        if "unembedding" in params:
            found["unembedding"] = params["unembedding"][None]
        return found


for _family in (neox, llama, gpt2):  # V, T and L are those of a run
    register_model(DecoderModel(_family.__name__, _family(1, 1, 1, width=128, num_heads=4)))

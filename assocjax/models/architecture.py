"""The architecture of a decoder: `DecoderConfig`, and the usual ones of GPT-NeoX, Llama and GPT-2.

Symbols: d the width, H heads of r dimensions (r = d / H unless configured otherwise), G heads of
keys and values.
"""

import dataclasses
from typing import Literal

import numpy as np

from assocjax.arguments import check_choice, check_integer
from assocjax.checks import check_number, check_positive
from assocjax.errors import InputError

ACTIVATIONS = ("gelu", "gelu_tanh", "silu")
"""Names of the functions of an MLP's hidden layer."""


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """All of a decoder's architecture. `neox`, `llama` and `gpt2` make the usual ones.

    Attributes:
      vocab_size: V.
      seq_len: the largest number of positions, T.
      num_layers: L.
      width: d, of the residual stream.
      num_heads: H.
      mlp_width: of the MLP's hidden layer.
      num_kv_heads: G, heads of keys and values, each shared by H / G heads of queries; None is H.
      norm: "layer" (gains and biases), "plain" (layer norm without weights) or "rms" (gains).
      norm_eps: added to the variance.
      parallel: whether the MLP reads the same h as attention, and not the sum after it.
      rotary_fraction: the part of a head's dimensions that rotary embedding turns.
      rotary_base: the base of its wavelengths.
      learned_positions: whether h_0 has a learned term for each position.
      gated: whether the MLP's hidden layer is act(x W_gate) * (x W_in), and not act(x W_in).
      activation: "gelu" (exact), "gelu_tanh" or "silu".
      biases: whether projections have biases.
      tied: whether the unembedding is the transposed embedding.
      head_width: r, the dimensions of a head; None is d / H.
      qkv_biases: whether queries, keys and values have biases; None is as `biases`.
      output_bias: whether the logits have a bias.
      qk_norm: whether queries and keys, of all heads together, are normed (RMS) before rotary
        embedding.
      qkv_clip: bound of the absolute values of queries, keys and values; None is no bound.
      norm_place: where norms stand: "before" attention and MLP, "after" them, or "both".
      shared_norm: whether attention and MLP read the output of one norm; only with `parallel`.
      gains_from_one: whether gains are stored as their difference from 1.
      scaled_embedding: whether h_0 is sqrt(d) E[x].
      score_width: attention scores are divided by its square root; None is r.
      score_cap: c of the soft-capping c tanh(score / c) of attention scores; None is without.
      logit_cap: the same of the logits.
      window: the number of positions, itself included, that a position reads in layers with a
        sliding window; None is all.
      window_every: layers 1, 1 + k, 1 + 2 k, ... have the window, the others read all positions.

    Raises:
      InputError, InputTypeError: a value is out of range, heads do not divide the width, or
        options exclude one another.
    """

    vocab_size: int
    seq_len: int
    num_layers: int
    width: int
    num_heads: int
    mlp_width: int
    num_kv_heads: int | None = None
    norm: Literal["layer", "plain", "rms"] = "layer"
    norm_eps: float = 1e-5
    parallel: bool = False
    rotary_fraction: float = 0.0
    rotary_base: float = 10_000.0
    learned_positions: bool = False
    gated: bool = False
    activation: Literal["gelu", "gelu_tanh", "silu"] = "gelu"
    biases: bool = True
    tied: bool = False
    head_width: int | None = None
    qkv_biases: bool | None = None
    output_bias: bool = False
    qk_norm: bool = False
    qkv_clip: float | None = None
    norm_place: Literal["before", "after", "both"] = "before"
    shared_norm: bool = False
    gains_from_one: bool = False
    scaled_embedding: bool = False
    score_width: int | None = None
    score_cap: float | None = None
    logit_cap: float | None = None
    window: int | None = None
    window_every: int = 1

    def __post_init__(self):
        sizes = ("vocab_size", "seq_len", "num_layers", "width", "num_heads", "mlp_width")
        for name in sizes:
            check_integer(name, getattr(self, name), minimum=1)
        check_number("rotary_fraction", self.rotary_fraction, minimum=0)
        check_number("rotary_base", self.rotary_base, minimum=1)
        check_number("norm_eps", self.norm_eps, minimum=0)
        if self.rotary_fraction > 1:
            raise InputError(f"rotary_fraction must be at most 1; got {self.rotary_fraction}")
        if self.head_width is None and self.width % self.num_heads:
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
        check_choice("norm", self.norm, ("layer", "plain", "rms"))
        check_choice("norm_place", self.norm_place, ("before", "after", "both"))
        check_choice("activation", self.activation, ACTIVATIONS)
        for name in ("head_width", "score_width", "window"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), minimum=1)
        check_integer("window_every", self.window_every, minimum=1)
        for name in ("qkv_clip", "score_cap", "logit_cap"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        if self.shared_norm and not (self.parallel and self.norm_place == "before"):
            raise InputError("shared_norm needs parallel, and norm_place 'before'")

    @property
    def head_size(self) -> int:
        """r."""
        return self.width // self.num_heads if self.head_width is None else self.head_width

    @property
    def kv_heads(self) -> int:
        """G."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    def has_bias(self, name: str) -> bool:
        """Whether the matrix of `MATRICES` with this name has a bias."""
        if name in ("query", "key", "value") and self.qkv_biases is not None:
            return self.qkv_biases
        return self.biases

    def window_of(self, layer: int) -> int | None:
        """The sliding window of a layer, counted from 0; None if it reads all positions."""
        return None if layer % self.window_every else self.window

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


def norms_of(config: DecoderConfig) -> tuple[str, ...]:
    """Names of a layer's norms, in the order in which it applies them."""
    before, after = config.norm_place != "after", config.norm_place != "before"
    present = {
        "attention_norm": before,
        "query_norm": config.qk_norm,
        "key_norm": config.qk_norm,
        "attention_output_norm": after,
        "mlp_norm": before and not config.shared_norm,
        "mlp_output_norm": after,
    }
    return tuple(name for name, has in present.items() if has)

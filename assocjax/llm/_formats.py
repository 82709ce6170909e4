"""How families of decoders are stored in Hugging Face's format: fields of `config.json`, and names.

A family is a row of `FORMATS`, and a relative of Llama only what it changes of it.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from assocjax.models.decoder import DecoderConfig

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}
"""Name of an activation in files -> its name in `DecoderConfig`."""


class Format(NamedTuple):
    """How a family stores its models.

    Attributes:
        name: The family's name as a model of assocjax.
        architecture: Its class in transformers.
        fields: Field of `DecoderConfig` -> field of `config.json`, names that older files have for
            it, and its value where it is absent (... if it must not be).
        fixed: The other fields of `DecoderConfig`.
        implied: What other fields of `config.json` must be if they are there.
        prefix: Of all names but the unembedding's; files of the model without it lack the prefix.
        outside, inside: Weight -> the module that has it, in the model and in a layer.
        layer: The module of a layer.
        columns: Whether matrices of linear layers are stored [outputs, inputs].
    """

    name: str
    architecture: str
    fields: dict[str, tuple[tuple[str, ...], Any]]
    fixed: dict[str, Any]
    implied: Callable[[DecoderConfig], dict[str, Any]]
    prefix: str
    outside: dict[str, str]
    layer: str
    inside: dict[str, str]
    columns: bool = True


_SIZES = {
    "vocab_size": (("vocab_size",), ...),
    "seq_len": (("max_position_embeddings",), 2048),
    "num_layers": (("num_hidden_layers",), ...),
    "width": (("hidden_size",), ...),
    "num_heads": (("num_attention_heads",), ...),
    "mlp_width": (("intermediate_size",), ...),
    "rotary_base": (("rope_theta", "rotary_emb_base"), 10_000.0),
    "tied": (("tie_word_embeddings",), False),
}

_NEOX = Format(
    name="neox",
    architecture="GPTNeoXForCausalLM",
    fields=_SIZES
    | {
        "norm_eps": (("layer_norm_eps",), 1e-5),
        "parallel": (("use_parallel_residual",), True),
        "rotary_fraction": (("partial_rotary_factor", "rotary_pct"), 0.25),
        "activation": (("hidden_act",), "gelu"),
    },
    fixed={},
    implied=lambda config: {"attention_bias": True, "rope_type": "default"},
    prefix="gpt_neox.",
    outside={
        "embedding": "gpt_neox.embed_in",
        "final_norm": "gpt_neox.final_layer_norm",
        "unembedding": "embed_out",
    },
    layer="gpt_neox.layers",
    inside={
        "attention_norm": "input_layernorm",
        "query_key_value": "attention.query_key_value",
        "attention_output": "attention.dense",
        "mlp_norm": "post_attention_layernorm",
        "mlp_in": "mlp.dense_h_to_4h",
        "mlp_out": "mlp.dense_4h_to_h",
    },
)

_LLAMA = Format(
    name="llama",
    architecture="LlamaForCausalLM",
    fields=_SIZES
    | {
        "num_kv_heads": (("num_key_value_heads",), None),
        "head_width": (("head_dim",), None),
        "norm_eps": (("rms_norm_eps",), 1e-6),
        "activation": (("hidden_act",), "silu"),
        "biases": (("attention_bias",), False),
    },
    fixed={"norm": "rms", "rotary_fraction": 1.0, "gated": True},
    implied=lambda config: {
        "mlp_bias": config.biases,
        "partial_rotary_factor": 1.0,
        "rope_type": "default",
    },
    prefix="model.",
    outside={
        "embedding": "model.embed_tokens",
        "final_norm": "model.norm",
        "unembedding": "lm_head",
    },
    layer="model.layers",
    inside={
        "attention_norm": "input_layernorm",
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "attention_output": "self_attn.o_proj",
        "mlp_norm": "post_attention_layernorm",
        "mlp_gate": "mlp.gate_proj",
        "mlp_in": "mlp.up_proj",
        "mlp_out": "mlp.down_proj",
    },
)

_GPT2 = Format(
    name="gpt2",
    architecture="GPT2LMHeadModel",
    fields={
        "vocab_size": (("vocab_size",), ...),
        "seq_len": (("n_positions",), 1024),
        "num_layers": (("n_layer",), ...),
        "width": (("n_embd",), ...),
        "num_heads": (("n_head",), ...),
        "mlp_width": (("n_inner",), None),
        "norm_eps": (("layer_norm_epsilon",), 1e-5),
        "activation": (("activation_function",), "gelu_new"),
        "tied": (("tie_word_embeddings",), True),
    },
    fixed={"learned_positions": True},
    implied=lambda config: {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    prefix="transformer.",
    outside={
        "embedding": "transformer.wte",
        "positions": "transformer.wpe",
        "final_norm": "transformer.ln_f",
        "unembedding": "lm_head",
    },
    layer="transformer.h",
    inside={
        "attention_norm": "ln_1",
        "query_key_value": "attn.c_attn",
        "attention_output": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp_in": "mlp.c_fc",
        "mlp_out": "mlp.c_proj",
    },
    columns=False,
)

# Relatives of Llama: what they change of it.
_ROPE = {"partial_rotary_factor": 1.0, "rope_type": "default"}
_NO_BIASES = _ROPE | {"attention_bias": False}
_UNBIASED = {name: where for name, where in _LLAMA.fields.items() if name != "biases"}
_FIXED = _LLAMA.fixed | {"biases": False}
_OLMO = {name: where for name, where in _LLAMA.inside.items() if not name.endswith("norm")}


def _layer_types(config: DecoderConfig) -> list[str]:
    windows = (config.window_of(layer) for layer in range(config.num_layers))
    return ["full_attention" if window is None else "sliding_attention" for window in windows]


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "gpt_neox": _NEOX,
        "llama": _LLAMA,
        "gpt2": _GPT2,
        "qwen2": _LLAMA._replace(
            name="qwen2",
            architecture="Qwen2ForCausalLM",
            fields=_UNBIASED
            | {
                "seq_len": (("max_position_embeddings",), 32_768),
                "num_kv_heads": (("num_key_value_heads",), 32),
            },
            fixed=_FIXED | {"qkv_biases": True},
            implied=lambda config: (
                _ROPE | {"use_sliding_window": False, "layer_types": _layer_types(config)}
            ),
        ),
        "mistral": _LLAMA._replace(
            name="mistral",
            architecture="MistralForCausalLM",
            fields=_UNBIASED
            | {
                "seq_len": (("max_position_embeddings",), 131_072),
                "num_kv_heads": (("num_key_value_heads",), 8),
                "window": (("sliding_window",), 4096),
            },
            fixed=_FIXED,
            implied=lambda config: _NO_BIASES,
        ),
        "gemma2": _LLAMA._replace(
            name="gemma2",
            architecture="Gemma2ForCausalLM",
            fields=_UNBIASED
            | {
                "seq_len": (("max_position_embeddings",), 8192),
                "num_kv_heads": (("num_key_value_heads",), 4),
                "head_width": (("head_dim",), 256),
                "activation": (("hidden_activation",), "gelu_pytorch_tanh"),
                "tied": (("tie_word_embeddings",), True),
                "score_width": (("query_pre_attn_scalar",), 256),
                "score_cap": (("attn_logit_softcapping",), 50.0),
                "logit_cap": (("final_logit_softcapping",), 30.0),
                "window": (("sliding_window",), 4096),
            },
            fixed=_FIXED
            | {
                "norm_place": "both",
                "gains_from_one": True,
                "scaled_embedding": True,
                "window_every": 2,
            },
            implied=lambda config: (
                _NO_BIASES
                | {"use_bidirectional_attention": False, "layer_types": _layer_types(config)}
            ),
            inside=_LLAMA.inside
            | {
                "attention_output_norm": "post_attention_layernorm",
                "mlp_norm": "pre_feedforward_layernorm",
                "mlp_output_norm": "post_feedforward_layernorm",
            },
        ),
        "olmo": _LLAMA._replace(
            name="olmo",
            architecture="OlmoForCausalLM",
            fields={name: where for name, where in _UNBIASED.items() if name != "norm_eps"}
            | {"qkv_clip": (("clip_qkv",), None)},
            fixed=_FIXED | {"norm": "plain", "norm_eps": 1e-5},
            implied=lambda config: _NO_BIASES,
            outside={"embedding": "model.embed_tokens", "unembedding": "lm_head"},
            inside=_OLMO,
        ),
        "olmo2": _LLAMA._replace(
            name="olmo2",
            architecture="Olmo2ForCausalLM",
            fields=_UNBIASED | {"norm_eps": (("rms_norm_eps",), 1e-5)},
            fixed=_FIXED | {"norm_place": "after", "qk_norm": True},
            implied=lambda config: _NO_BIASES,
            inside=_OLMO
            | {
                "query_norm": "self_attn.q_norm",
                "key_norm": "self_attn.k_norm",
                "attention_output_norm": "post_attention_layernorm",
                "mlp_output_norm": "post_feedforward_layernorm",
            },
        ),
        "phi": _LLAMA._replace(
            name="phi",
            architecture="PhiForCausalLM",
            fields=_UNBIASED
            | {
                "norm_eps": (("layer_norm_eps",), 1e-5),
                "rotary_fraction": (("partial_rotary_factor",), 0.5),
                "activation": (("hidden_act",), "gelu_new"),
            },
            fixed={"parallel": True, "shared_norm": True, "output_bias": True},
            implied=lambda config: {"qk_layernorm": False, "rope_type": "default"},
            outside=_LLAMA.outside | {"final_norm": "model.final_layernorm"},
            inside={
                "attention_norm": "input_layernorm",
                "query": "self_attn.q_proj",
                "key": "self_attn.k_proj",
                "value": "self_attn.v_proj",
                "attention_output": "self_attn.dense",
                "mlp_in": "mlp.fc1",
                "mlp_out": "mlp.fc2",
            },
        ),
    }
)
"""`model_type` of a configuration -> its family."""

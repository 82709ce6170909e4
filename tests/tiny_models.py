"""Random language models of a few thousand weights, as transformers makes them."""

import dataclasses

import numpy as np
import pytest

from assocjax.corpora import train_bpe

REASON = "language models need the extra llm: pip install 'assocjax[llm]'"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

# Spinning threads on a busy machine cost more than products of this size.
torch.set_num_threads(1)

V, D, HEADS, LAYERS = 96, 32, 4, 3
TEXT = "A bird flew over the pond; a fish swam in the pond. The bird saw the fish, and flew on."

_ROTARY = {"rope_theta": 100.0, "rope_type": "default"}
_NEOX = {
    "vocab_size": V,
    "hidden_size": D,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "rope_parameters": {**_ROTARY, "partial_rotary_factor": 0.5},
}
_LLAMA = _NEOX | {"num_key_value_heads": 2, "rope_parameters": _ROTARY}
_GPT2 = {"vocab_size": V, "n_embd": D, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 64}
_SPECIAL = {"bos_token_id": 0, "eos_token_id": 0}

KINDS = {
    "neox": lambda: transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(**_NEOX, **_SPECIAL)
    ),
    "sequential neox": lambda: transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(**_NEOX, **_SPECIAL, use_parallel_residual=False)
    ),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**_LLAMA, **_SPECIAL)),
    "tied llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**_LLAMA, **_SPECIAL, tie_word_embeddings=True)
    ),
    "biased llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**_LLAMA, **_SPECIAL, attention_bias=True)
    ),
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**_GPT2, **_SPECIAL)),
    "untied gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**_GPT2, **_SPECIAL, tie_word_embeddings=False)
    ),
}
FAMILY = {"neox": "gpt_neox", "llama": "llama", "gpt2": "gpt2"}


def random_model(kind: str):
    """All weights random, biases and norms too, so that none can be forgotten unnoticed."""
    model = KINDS[kind]().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(len(kind))
    for name, weight in model.named_parameters():
        gain = name.endswith(("norm.weight", "ln_1.weight", "ln_2.weight", "ln_f.weight"))
        weight.normal_(1.0 if gain else 0.0, 0.2, generator=generator)
    return model


def tokenizer(vocab_size: int = V - 20):
    return train_bpe([TEXT], vocab_size, special_tokens=["<|endoftext|>"])


def save(model, folder, size: int = V - 20):
    """As a folder in the format of the hub, with a tokeniser."""
    model.save_pretrained(folder)
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(size), bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    wrapped.save_pretrained(folder)
    return folder


def first(output):
    """A module's output, or its first item."""
    return output[0] if isinstance(output, tuple) else output


def logits(module, tokens) -> np.ndarray:
    with torch.no_grad():
        return module(input_ids=torch.tensor(tokens)).logits.numpy()


@dataclasses.dataclass
class Attention:
    """Raw weights of a layer's attention, by head, as stored: x @ W_Q[h] + b_Q[h] and so on."""

    W_Q: np.ndarray
    W_K: np.ndarray
    W_V: np.ndarray
    W_O: np.ndarray
    b_Q: np.ndarray
    b_K: np.ndarray
    b_V: np.ndarray
    b_O: np.ndarray


def raw_attention(module, layer: int) -> Attention:
    """Read from the state dict row by row, not by the package's adapters."""
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    size = D // HEADS
    family = module.config.model_type
    if family == "gpt2":
        W, b = (state[f"transformer.h.{layer}.attn.c_attn.{part}"] for part in ("weight", "bias"))
        W_Q, W_K, W_V = (
            np.stack([W[:, at * D + h * size : at * D + (h + 1) * size] for h in range(HEADS)])
            for at in range(3)
        )
        b_Q, b_K, b_V = (
            np.stack([b[at * D + h * size : at * D + (h + 1) * size] for h in range(HEADS)])
            for at in range(3)
        )
        W_O = state[f"transformer.h.{layer}.attn.c_proj.weight"]
        b_O = state[f"transformer.h.{layer}.attn.c_proj.bias"]
    elif family == "gpt_neox":
        name = f"gpt_neox.layers.{layer}.attention"
        W, b = (state[f"{name}.query_key_value.{part}"] for part in ("weight", "bias"))
        rows = [
            [slice((3 * h + at) * size, (3 * h + at + 1) * size) for h in range(HEADS)]
            for at in range(3)
        ]
        W_Q, W_K, W_V = (np.stack([W[row].T for row in of_part]) for of_part in rows)
        b_Q, b_K, b_V = (np.stack([b[row] for row in of_part]) for of_part in rows)
        W_O, b_O = state[f"{name}.dense.weight"].T, state[f"{name}.dense.bias"]
    else:
        name = f"model.layers.{layer}.self_attn"
        group = HEADS // module.config.num_key_value_heads

        def heads(part, of_head):
            W = state[f"{name}.{part}_proj.weight"]
            b = state.get(f"{name}.{part}_proj.bias", np.zeros(len(W), np.float32))
            rows = [slice(of_head(h) * size, (of_head(h) + 1) * size) for h in range(HEADS)]
            return np.stack([W[row].T for row in rows]), np.stack([b[row] for row in rows])

        W_Q, b_Q = heads("q", lambda h: h)
        (W_K, b_K), (W_V, b_V) = (heads(part, lambda h: h // group) for part in "kv")
        W_O = state[f"{name}.o_proj.weight"].T
        b_O = state.get(f"{name}.o_proj.bias", np.zeros(D, np.float32))
    return Attention(W_Q, W_K, W_V, W_O, b_Q, b_K, b_V, b_O)


def layer_norm(module, layer: int, x: np.ndarray) -> np.ndarray:
    """The norm before attention, written out."""
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    family = module.config.model_type
    if family == "llama":
        gain = state[f"model.layers.{layer}.input_layernorm.weight"]
        eps = module.config.rms_norm_eps
        return gain * x / np.sqrt(np.mean(x**2, -1, keepdims=True) + eps)
    name = {"gpt2": "transformer.h.{}.ln_1", "gpt_neox": "gpt_neox.layers.{}.input_layernorm"}
    name = name[family].format(layer)
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + 1e-5)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

"""Differences between families of transformers: names of modules, and storage of W_Q and W_K.

A family is a row of `FAMILIES`: Pythia (gpt_neox); SmolLM2, tinyllamas (llama); GPT-2; Qwen2 and
Qwen2.5 (qwen2); Mistral; Gemma-2; OLMo; OLMo-2; Phi-1, 1.5 and 2 (phi).

Vectors are rows, as everywhere in this package: a residual stream h [T, d] has queries h W_Q + b_Q,
keys h W_K + b_K, and scores of queries (rows) by keys (columns). Rotary models first rotate both
according to their positions.
"""

import operator
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from assocjax.llm.libraries import require


class Family(NamedTuple):
    """Where the modules of a family are, as paths of attributes.

    Attributes:
        layers: The list of layers, from the model.
        final_norm: The norm before the output head, from the model.
        attention: The attention module, from a layer.
        attention_norm: The norm before attention, from a layer, or None.
        written: The module whose output, or the first item of it, attention adds to the residual
            stream, from a layer: attention itself, or the norm after it.
        query_key: Attention module -> W_Q, W_K, each a tensor [heads, d+1, d_head], whose last row
            is the bias, 0 without one.
        rotary: The rotary embedding, from the model, or None.
    """

    layers: str
    final_norm: str
    attention: str
    attention_norm: str | None
    written: str
    query_key: Callable[[Any], tuple[Any, Any]]
    rotary: str | None


def submodule(module: Any, path: str) -> Any:
    """The submodule at a path of attributes."""
    return operator.attrgetter(path)(module)


def gain(norm: Any) -> Any:
    """The factor [d] by which a norm multiplies what it has normed, or 1.0 without one (OLMo)."""
    weight = getattr(norm, "weight", None)
    if weight is None:
        return 1.0
    return 1 + weight if "Gemma" in type(norm).__name__ else weight


def rotate(model: Any, family: Family, queries: Any, keys: Any, distance: int) -> tuple[Any, Any]:
    """Queries and keys [heads, n, d_head] after the model's rotary embedding: keys at position 0,
    queries at `distance`. Scores depend on the difference only."""
    if family.rotary is None:
        return queries, keys
    torch = require("torch")
    both = torch.stack([queries, keys])
    at = torch.tensor([[distance], [0]], device=both.device)
    apply = sys.modules[type(model).__module__].apply_rotary_pos_emb  # of the architecture
    cos, sin = submodule(model, family.rotary)(both, at)
    turned, rest = both[..., : cos.shape[-1]], both[..., cos.shape[-1] :]
    turned, _ = apply(turned, turned, cos, sin)
    both = torch.cat([turned, rest], dim=-1)
    return both[0], both[1]


def normed(attention: Any, queries: Any, keys: Any) -> tuple[Any, Any]:
    """Queries and keys [heads, n, d_head] as attention uses them before rotary embedding: clipped
    (OLMo), or normed over all heads together (OLMo-2)."""
    bound = getattr(attention.config, "clip_qkv", None)
    if bound is not None:
        return queries.clamp(-bound, bound), keys.clamp(-bound, bound)
    if not hasattr(attention, "q_norm"):
        return queries, keys
    # Keys were repeated for the queries of their group; the norm is of the keys themselves.
    groups = attention.num_key_value_groups
    found = []
    for norm, x in ((attention.q_norm, queries), (attention.k_norm, keys[::groups])):
        joined = norm(x.transpose(0, 1).flatten(1))
        found.append(joined.reshape(len(joined), *x.shape[::2]).transpose(0, 1))
    return found[0], found[1].repeat_interleave(groups, dim=0)


def _with_bias(linear: Any) -> Any:
    """A linear map as a matrix [outputs, inputs + 1]."""
    torch = require("torch")
    bias = linear.weight.new_zeros(len(linear.weight)) if linear.bias is None else linear.bias
    return torch.cat([linear.weight, bias[:, None]], dim=1)


def _gpt_neox(attention: Any) -> tuple[Any, Any]:
    """One matrix [heads * 3 * d_head, d], in which each head has its query, key and value rows."""
    weight = _with_bias(attention.query_key_value)
    by_head = weight.reshape(-1, 3, attention.head_size, weight.shape[-1])
    return by_head[:, 0].transpose(1, 2), by_head[:, 1].transpose(1, 2)


def _llama(attention: Any) -> tuple[Any, Any]:
    """Matrices [heads * d_head, d]; a key head serves the query heads of its group."""
    queries, keys = (
        weight.reshape(-1, attention.head_dim, weight.shape[-1])
        for weight in map(_with_bias, (attention.q_proj, attention.k_proj))
    )
    keys = keys.repeat_interleave(attention.num_key_value_groups, dim=0)
    return queries.transpose(1, 2), keys.transpose(1, 2)


def _gpt2(attention: Any) -> tuple[Any, Any]:
    """One matrix [d, 3 d], already transposed: all queries, then all keys, then all values."""
    torch = require("torch")
    weight = torch.cat([attention.c_attn.weight, attention.c_attn.bias[None]])
    queries, keys, _ = weight.split(attention.split_size, dim=1)
    shape = (queries.shape[0], attention.num_heads, attention.head_dim)
    return queries.reshape(shape).transpose(0, 1), keys.reshape(shape).transpose(0, 1)


_LLAMA = Family(
    layers="model.layers",
    final_norm="model.norm",
    attention="self_attn",
    attention_norm="input_layernorm",
    written="self_attn",
    query_key=_llama,
    rotary="model.rotary_emb",
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "gpt_neox": Family(
            layers="gpt_neox.layers",
            final_norm="gpt_neox.final_layer_norm",
            attention="attention",
            attention_norm="input_layernorm",
            written="attention",
            query_key=_gpt_neox,
            rotary="gpt_neox.rotary_emb",
        ),
        "llama": _LLAMA,
        "gpt2": Family(
            layers="transformer.h",
            final_norm="transformer.ln_f",
            attention="attn",
            attention_norm="ln_1",
            written="attn",
            query_key=_gpt2,
            rotary=None,
        ),
        "qwen2": _LLAMA,
        "mistral": _LLAMA,
        "gemma2": _LLAMA._replace(written="post_attention_layernorm"),
        "olmo": _LLAMA,
        "olmo2": _LLAMA._replace(attention_norm=None, written="post_attention_layernorm"),
        "phi": _LLAMA._replace(final_norm="model.final_layernorm"),
    }
)
"""`model_type` of a configuration -> its family."""

COMPUTED = (
    *(".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"),
    *(".attention.bias", ".attention.masked_bias"),
)
"""Suffixes of the names of tables that old checkpoints contain and that are computed today."""

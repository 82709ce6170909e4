"""What differs between families of transformers: where things are, and how W_Q and W_K are stored.

Row vectors, as everywhere in this package: a residual stream h [T, d] has queries h W_Q and keys
h W_K, and scores h W_Q W_K^T h^T: rows are queries, columns are keys.
"""

import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Family(NamedTuple):
    """How to read a family; modules are named by their paths.

    Attributes:
        layers: The list of layers, from the model.
        final_norm: The norm before the output head, from the model.
        attention: The attention module, from a layer. Its output, or the first of it, is what is
            added to the residual stream.
        attention_norm: The norm of what attention reads, from a layer.
        query_key: Attention module -> W_Q, W_K, each a tensor [heads, d, d_head] without biases.
    """

    layers: str
    final_norm: str
    attention: str
    attention_norm: str
    query_key: Callable[[Any], tuple[Any, Any]]


def submodule(module: Any, path: str) -> Any:
    """The module of that path within another."""
    return operator.attrgetter(path)(module)


def _gpt_neox(attention: Any) -> tuple[Any, Any]:
    """One matrix [heads * 3 * d_head, d], in which each head has its query, key and value rows."""
    weight = attention.query_key_value.weight
    by_head = weight.reshape(-1, 3, attention.head_size, weight.shape[-1])
    return by_head[:, 0].transpose(1, 2), by_head[:, 1].transpose(1, 2)


def _llama(attention: Any) -> tuple[Any, Any]:
    """Matrices [heads * d_head, d]; a key head serves the query heads of its group."""
    queries, keys = (
        projection.weight.reshape(-1, attention.head_dim, projection.weight.shape[-1])
        for projection in (attention.q_proj, attention.k_proj)
    )
    keys = keys.repeat_interleave(attention.num_key_value_groups, dim=0)
    return queries.transpose(1, 2), keys.transpose(1, 2)


def _gpt2(attention: Any) -> tuple[Any, Any]:
    """One matrix [d, 3 d], already transposed: all queries, then all keys, then all values."""
    queries, keys, _ = attention.c_attn.weight.split(attention.split_size, dim=1)
    shape = (queries.shape[0], attention.num_heads, attention.head_dim)
    return queries.reshape(shape).transpose(0, 1), keys.reshape(shape).transpose(0, 1)


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "gpt_neox": Family(
            layers="gpt_neox.layers",
            final_norm="gpt_neox.final_layer_norm",
            attention="attention",
            attention_norm="input_layernorm",
            query_key=_gpt_neox,
        ),
        "llama": Family(
            layers="model.layers",
            final_norm="model.norm",
            attention="self_attn",
            attention_norm="input_layernorm",
            query_key=_llama,
        ),
        "gpt2": Family(
            layers="transformer.h",
            final_norm="transformer.ln_f",
            attention="attn",
            attention_norm="ln_1",
            query_key=_gpt2,
        ),
    }
)
"""`model_type` of a configuration -> its family: Pythia; SmolLM2, tinyllamas; GPT-2."""

"""Families of decoders: the package's own model and its probes, each beside transformers."""

import json

import jax
import numpy as np
import pytest
import tiny_models as tiny
from conftest import random_tokens, token_data
from tiny_models import torch, transformers

import assocjax as aj
from assocjax import InputError, llm
from assocjax.llm._architectures import FAMILIES, submodule
from assocjax.models import decoder as d
from assocjax.models.model import Sizes

V, D, H, LAYERS, T = 64, 32, 4, 2, 12
SIZES = {
    "vocab_size": V,
    "hidden_size": D,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": H,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 24,
    "rope_parameters": {"rope_theta": 100.0, "rope_type": "default"},
    **{"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None},
}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 9, "sliding_window": 7}
GEMMA |= {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}
PARTIAL = SIZES["rope_parameters"] | {"partial_rotary_factor": 0.5}
# model_type -> what is not the family's default. Windows are shorter than the sequences.
KINDS = {
    "qwen2": {},
    "mistral": {"sliding_window": 5, "head_dim": 12},
    "gemma2": GEMMA,
    "olmo": {"clip_qkv": 0.5, "tie_word_embeddings": True},
    "olmo2": {},
    "phi": {"rope_parameters": PARTIAL},
}
TOKENS = random_tokens(0, 3, T - 1, V)
ALL = np.ones(TOKENS.shape, bool)


@pytest.fixture(scope="module", params=KINDS)
def family(request, tmp_path_factory):
    """A random model of transformers, and its folder; all biases and gains are random too."""
    kind = request.param
    config = transformers.AutoConfig.for_model(kind, **SIZES | KINDS[kind])
    module = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    module.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, weight in module.named_parameters():
        gain = "norm" in name and name.endswith("weight") and kind != "gemma2"
        weight.normal_(float(gain), 0.3, generator=generator)
    folder = tmp_path_factory.mktemp(kind)
    module.save_pretrained(folder)
    return kind, module, folder


@pytest.fixture(scope="module")
def told(family):
    """What transformers itself tells: logits, h_0 to h_L before the final norm, and attention."""
    _, module, _ = family
    last = []
    layers = module.model.layers
    with layers[-1].register_forward_hook(lambda _, args, out: last.append(tiny.first(out))):
        out = module(torch.tensor(TOKENS), output_hidden_states=True, output_attentions=True)
    states = [*out.hidden_states[:-1], last[0]]
    return tuple([x.numpy() for x in of] for of in ([out.logits], states, out.attentions))


@pytest.fixture(scope="module")
def ours(family):
    return llm.load_decoder(family[2])


@pytest.fixture(scope="module")
def probed(family):
    return llm.load_model(family[2], device="cpu")


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


def test_logits_and_streams_are_those_of_transformers(ours, told):
    model, params = ours
    (logits,), states, _ = told
    found = jax.jit(lambda p: model.decoder(p).apply({"params": p}, TOKENS, method="streams"))
    for actual, expected in zip(found(params), states, strict=True):
        close(actual, expected)
    close(jax.jit(model.logits)(params, TOKENS), logits)
    assert np.std(logits) > 0.5  # so that 1e-4 is little


def test_every_weight_is_listed_once(ours):
    model, params = ours
    listed = model.weights(params).values()
    number = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert sum(weight.size for weight in listed) == number
    total = sum(float(np.sum(leaf)) for leaf in jax.tree.leaves(params))
    assert sum(float(np.sum(weight)) for weight in listed) == pytest.approx(total, abs=1e-2)


def test_a_model_saved_again_is_the_same(family, ours, tmp_path, told):
    model, params = ours
    llm.save_decoder(tmp_path / "saved", model, params)
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", attn_implementation="eager"
    )
    assert type(again) is type(family[1])
    close(tiny.logits(again, TOKENS), told[0][0])
    read, weights = llm.load_decoder(tmp_path / "saved")
    assert read == model
    jax.tree.map(np.testing.assert_array_equal, weights, params)


def test_probes_read_the_streams_of_transformers(probed, told):
    """Of occurrences: every position of a sequence of tokens of its own is one."""
    tokens = np.arange(T)[None] * 5 % V
    assert len(set(tokens[0])) == T
    found, counts = llm.occurrence_streams(probed, tokens, np.ones((1, T), bool), tokens[0])
    assert counts.tolist() == [1] * T
    inner = []
    for layer in probed.module.model.layers:  # what the MLP adds is the rest of the layer
        after = getattr(layer, "post_feedforward_layernorm", layer.mlp)
        inner.append(after.register_forward_hook(lambda _, args, out: inner.append(out[0])))
    out = probed.module(torch.tensor(tokens), output_hidden_states=True)
    handles, added = inner[:LAYERS], inner[LAYERS:]
    for handle in handles:
        handle.remove()
    for layer in range(LAYERS):
        close(found.before[layer], out.hidden_states[layer][0])
        close(found.after_attention[layer], found.after_layer[layer] - added[layer].numpy())
    final_norm = submodule(probed.module, FAMILIES[probed.family].final_norm)
    close(final_norm(torch.tensor(found.after_layer[-1])), out.hidden_states[-1][0])


@pytest.mark.parametrize("distance", [0, 5])
def test_scores_at_a_distance_are_those_the_model_attends_by(family, probed, distance):
    """Ratios of the attention of a query `distance` positions after keys at position 0; with
    biases of queries and keys of size 2 where the family has them."""
    kind, _, _ = family
    module = probed.module
    named = module.named_parameters()
    biases = [bias for name, bias in named if name.endswith(("q_proj.bias", "k_proj.bias"))]
    assert len(biases) == (2 * LAYERS if kind in ("qwen2", "phi") else 0)
    kept = [bias.clone() for bias in biases]
    for bias in biases:
        bias.mul_(2 / 0.3)
    module.set_attn_implementation("eager")
    n = 4  # fewer than any window
    tokens = TOKENS[:1, :n]
    positions = torch.tensor([[0] * (n - 1) + [distance]])
    out = module(
        torch.tensor(tokens),
        position_ids=positions,
        attention_mask=torch.ones_like(positions),
        output_hidden_states=True,
        output_attentions=True,
    )
    config = module.config
    scale = getattr(config, "query_pre_attn_scalar", module.model.layers[0].self_attn.head_dim)
    for layer in range(LAYERS):
        E = out.hidden_states[layer][0].numpy()
        for head in range(H):
            queries, keys = llm.query_key_factors(
                probed, layer + 1, E, head=head, norm=True, distance=distance
            )
            scores = queries[-1] @ keys[:-1].T / np.sqrt(scale)
            if kind == "gemma2":
                cap = config.attn_logit_softcapping
                scores = cap * np.tanh(scores / cap)
            attention = np.log(out.attentions[layer][0, head, -1, :-1].numpy())
            close(scores - scores.mean(), attention - attention.mean())
    for bias, before in zip(biases, kept, strict=True):
        bias.copy_(before)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("qwen2", {"use_sliding_window": True}, "use_sliding_window must be False; got True"),
        ("gemma2", {"layer_types": ["full_attention"] * 2}, "layer_types must be .* got"),
        ("gemma2", {"final_logit_softcapping": 0}, "final_logit_softcapping must be positive"),
        ("olmo", {"attention_bias": True}, "attention_bias must be False; got True"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm must be False; got True"),
        ("mistral", {"rope_scaling": {"type": "yarn"}}, "rope_type must be 'default'; got 'yarn'"),
    ],
)
def test_what_is_not_covered_is_named(kind, changes, message, tmp_path):
    content = SIZES | KINDS[kind] | changes | {"model_type": kind}
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match=message):
        llm.load_decoder(tmp_path)


def test_a_field_that_is_null_is_not_the_default(tmp_path):
    """Mistral's window is 4096 where the file does not have it, and none where it is null."""
    for window, changes in ((4096, {}), (None, {"sliding_window": None})):
        content = SIZES | changes | {"model_type": "mistral"}
        (tmp_path / "config.json").write_text(json.dumps(content))
        config, _ = llm.decoders._read_config(tmp_path / "config.json")
        assert config.window == window
        assert isinstance(config, d.DecoderConfig)


def test_twins_refuse_a_window_shorter_than_the_text():
    config = d.DecoderConfig(V, T, 1, 8, 2, 8, window=T - 1)
    model = d.DecoderModel("windowed", config)
    params = model.init(jax.random.key(0), Sizes(V, T, 1))
    prepared = aj.prepare_twin(aj.context_statistics(token_data(random_tokens(0, 3, T, V), V)))
    with pytest.raises(InputError, match="no sliding window; that of the model, 11, is below T"):
        aj.twin_loss(d.Decoder(config), params, prepared, order=1)

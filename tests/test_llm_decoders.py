"""Decoders in JAX compared with transformers, and their files."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models as tiny
from conftest import random_tokens
from tiny_models import torch, transformers

from assocjax import InputError, InputTypeError, llm
from assocjax.models import decoder as d
from assocjax.models.model import Sizes

KINDS = [
    *("neox", "sequential neox", "llama", "tied llama", "gpt2", "untied gpt2"),
    *("odd neox", "fully biased llama"),
]
MASK = np.ones((3, 12), bool)
MASK[1, 9:] = False
MASK[2, [2, 5]] = False


@pytest.fixture(params=KINDS)
def both(request, tmp_path):
    """A random model of transformers, and what `load_decoder` makes of its folder."""
    kind = request.param
    if kind in tiny.KINDS:
        theirs = tiny.random_model(kind)
    elif kind == "odd neox":  # five of ten dimensions are rotary: three pairs
        sizes = tiny._NEOX | {"hidden_size": 40}
        theirs = of_random_weights(transformers.GPTNeoXConfig(**sizes, **tiny._SPECIAL))
    else:
        sizes = tiny._LLAMA | {"attention_bias": True, "mlp_bias": True}
        theirs = of_random_weights(transformers.LlamaConfig(**sizes, **tiny._SPECIAL))
    theirs.save_pretrained(tmp_path)
    return theirs, *llm.load_decoder(tmp_path)


def of_random_weights(config):
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            gain = name.endswith("norm.weight")
            weight.normal_(float(gain), 0.2, generator=generator)
    return model


def tokens_and_logits(theirs, mask=MASK):
    tokens = random_tokens(0, *mask.shape, tiny.V)
    with torch.no_grad():
        z = theirs(
            input_ids=torch.tensor(tokens[:, :-1]), attention_mask=torch.tensor(mask).long()
        ).logits
    return tokens, z.numpy()


def test_logits_are_those_of_transformers(both):
    theirs, model, params = both
    tokens, expected = tokens_and_logits(theirs)
    actual = model.logits(params, tokens[:, :-1], MASK)
    np.testing.assert_allclose(actual[MASK], expected[MASK], rtol=0, atol=1e-4)
    assert np.std(expected) > 0.5  # so that 1e-4 is little


def test_gradients_are_those_of_torch(both):
    theirs, model, params = both
    tokens, _ = tokens_and_logits(theirs)
    theirs.requires_grad_(True)
    z = theirs(input_ids=torch.tensor(tokens[:, :-1]), attention_mask=torch.tensor(MASK).long())
    torch.nn.functional.cross_entropy(
        z.logits[torch.tensor(MASK)], torch.tensor(tokens[:, 1:][MASK]).long()
    ).backward()
    _, gradient = model.loss_and_gradient(params, tokens, jnp.asarray(MASK))
    # Their gradients in their names, read by the adapter as weights would be.
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.copy_(weight.grad)
    assert_same_weights(theirs, model, gradient, 1e-4)


def assert_same_weights(theirs, model, params, rtol):
    """Every weight of theirs within rtol of ours, relative to the weight's largest entry."""
    ours = llm.decoders._tensors(model.decoder(params).config, params)
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    if "gpt_neox" in str(type(theirs)):
        state["embed_out.weight"] = state.pop("lm_head.weight")
    elif model.config.tied:
        del state["lm_head.weight"]
    assert state.keys() == ours.keys()
    for name, value in state.items():
        largest = np.max(np.abs(value))
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=rtol * largest, err_msg=name)


def test_a_folder_read_and_saved_again_is_the_same_model(both, tmp_path):
    theirs, model, params = both
    llm.save_decoder(tmp_path / "saved", model, params)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert type(again) is type(theirs)
    _, expected = tokens_and_logits(theirs)
    np.testing.assert_array_equal(tokens_and_logits(again)[1], expected)
    read, weights = llm.load_decoder(tmp_path / "saved")
    assert read == model
    jax.tree.map(np.testing.assert_array_equal, weights, params)


def test_a_real_model(data_dir):
    folder = data_dir / "stories260K"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model, params = llm.load_decoder(folder)
    assert model.config == d.DecoderConfig(
        *(512, 512, 5, 64, 8, 172),
        num_kv_heads=4,
        norm="rms",
        rotary_fraction=1.0,
        gated=True,
        activation="silu",
        biases=False,
        tied=True,
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside."
    tokens = np.array(tokenizer(text)["input_ids"], np.int32)
    expected = tiny.logits(theirs, tokens[None])[0]
    np.testing.assert_allclose(model.logits(params, tokens), expected, rtol=0, atol=1e-4)
    # It has learned to tell stories; so rotary embedding and groups are as it was trained.
    nll = model.loss(params, tokens[None], jnp.ones((1, len(tokens) - 1), bool))
    assert nll < 0.4 * np.log(512)


@pytest.mark.parametrize("kind", ["neox", "llama", "gpt2"])
def test_a_new_model_is_read_by_transformers(kind, tmp_path):
    sizes = Sizes(50, 20, 2)
    model = d.DecoderModel(kind, getattr(d, kind)(*sizes, 32, 4))
    params = model.init(jax.random.key(0), sizes)
    llm.save_decoder(tmp_path, model, params)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    tokens = random_tokens(0, 2, 12, 50)[:, :-1]
    ours = model.logits(params, tokens)
    np.testing.assert_allclose(ours, tiny.logits(theirs, tokens), rtol=0, atol=1e-5)
    assert_same_weights(theirs, model, params, 0)


def test_shards_and_half_precision(tmp_path):
    theirs = tiny.random_model("llama").to(torch.bfloat16)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    model, params = llm.load_decoder(tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    assert_same_weights(theirs.float(), model, params, 0)


def test_gpt2_as_openai_saved_it(tmp_path):
    """The model without its head, whose names have no prefix, and with tables of today's code."""
    theirs = tiny.random_model("gpt2")
    theirs.transformer.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    assert not any(name.startswith("transformer.") for name in tensors)
    save_file(tensors | {"h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32)}, path)
    model, params = llm.load_decoder(tmp_path)
    assert_same_weights(theirs, model, params, 0)


def test_old_configurations(tmp_path):
    """Pythia's own config.json has rotary_pct, rotary_emb_base, and leaves out much."""
    theirs = tiny.random_model("neox")
    theirs.save_pretrained(tmp_path)
    edit(tmp_path, rope_parameters=None, rotary_pct=0.5, rotary_emb_base=100, hidden_act=None)
    model, params = llm.load_decoder(tmp_path)
    tokens, expected = tokens_and_logits(theirs, np.ones((2, 8), bool))
    actual = model.logits(params, tokens[:, :-1])
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# Errors


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    tiny.random_model("llama").save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "model_type must be one of 'gpt_neox', 'llama', .*; got 'bert'"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "32"}, "hidden_size must be an integer; got str '32'"),
        ({"num_attention_heads": 5}, "multiple of num_kv_heads; got 5 for 2"),
        ({"num_attention_heads": 5, "head_dim": None}, "multiple of num_heads; got 32 for 5"),
        ({"hidden_act": "relu"}, "hidden_act must be one of 'gelu'"),
        ({"mlp_bias": True}, "mlp_bias must be False; got True"),
        ({"head_dim": 16}, r"have another shape in 'model.layers.0.self_attn.k_proj.weight'"),
        ({"head_dim": 0}, "head_dim must be at least 1; got 0"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings must be True or False; got 1"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type must be 'default'"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps must be finite and at least 0"),
        ({"num_hidden_layers": 10**9}, "1,000,000,000 layers, far more than the"),
        ({"num_hidden_layers": 4}, r"lack 'model.layers.3.\S+' and 8 more"),
        ({"num_hidden_layers": 2}, r"hold besides 'model.layers.2.\S+' and 8 more"),
        ({"intermediate_size": 50}, r"have another shape in 'model.layers.0.mlp.down_proj.weight'"),
    ],
)
def test_configurations_that_are_refused(changes, message, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "copy")
    edit(folder, **changes)
    with pytest.raises(InputError, match=message) as error:
        llm.load_decoder(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_refused(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "cut")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model.safetensors' are corrupt or cut short"):
        llm.load_decoder(folder)
    path = path.rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model.bin in .* are not in safetensors"):
        llm.load_decoder(folder)
    path.rename(folder / "model.safetensors")
    (folder / "config.json").write_text("[1")
    with pytest.raises(InputError, match=r"config.json' is no configuration"):
        llm.load_decoder(folder)


def test_what_cannot_be_saved(saved, tmp_path):
    model, params = llm.load_decoder(saved)
    other = d.DecoderModel("mixed", d.DecoderConfig(*(9, 4, 1, 8, 2, 16), gated=True))
    with pytest.raises(InputError, match=r"none of 'gpt_neox', 'llama', .* has this arch"):
        llm.save_decoder(tmp_path / "a", other, other.init(jax.random.key(0), Sizes(9, 4, 1)))
    assert not (tmp_path / "a").exists()
    with pytest.raises(InputTypeError, match="model must be of class DecoderModel; got str"):
        llm.save_decoder(tmp_path / "a", "llama", params)
    llm.save_decoder(tmp_path / "b", model, params)
    llm.save_decoder(tmp_path / "b", model, params)  # the same again
    moved = jax.tree.map(lambda leaf: leaf + 1, params)
    with pytest.raises(InputError, match=r"finished result of another .* \(--overwrite\)"):
        llm.save_decoder(tmp_path / "b", model, moved)
    llm.save_decoder(tmp_path / "b", model, moved, overwrite=True)
    _, read = llm.load_decoder(tmp_path / "b")
    jax.tree.map(np.testing.assert_array_equal, read, moved)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        llm.save_decoder(tmp_path / "mine", model, params)

import json
import pickle
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import tiny_models as tiny
from tiny_models import torch, transformers

from assocjax import InputError, InputTypeError, llm
from assocjax.llm import tensors

TOKENS = np.random.default_rng(0).integers(0, tiny.V, (2, 9))


@pytest.fixture(scope="module")
def models():
    return {kind: tiny.random_model(kind) for kind in tiny.KINDS}


@pytest.fixture(scope="module")
def saved(models, tmp_path_factory):
    """A folder with one revision in it: copy it to change it."""
    return tiny.save(models["neox"], tmp_path_factory.mktemp("hub") / "tiny-neox")


def as_pytorch(folder):
    """Turns safetensors into PyTorch's format."""
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


# Loading


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_logits_are_those_of_the_model_that_was_saved(kind, models, tmp_path, capfd):
    folder = tiny.save(models[kind], tmp_path / "model")
    capfd.readouterr()
    model = llm.load_model(folder, device="cpu")
    assert capfd.readouterr() == ("", "")  # no progress bar, no log
    expected = tiny.logits(models[kind], TOKENS)
    # The same operations in the same order; random weights would be off by more than 1.
    np.testing.assert_allclose(tiny.logits(model.module, TOKENS), expected, atol=1e-4)
    assert model.family == tiny.FAMILY[kind.split()[-1]]
    assert (model.name, model.revision) == ("model", None)
    assert (model.num_layers, model.num_heads, model.width, model.vocab_size) == (3, 4, 32, tiny.V)
    assert all(not weight.requires_grad for weight in model.module.parameters())
    assert not model.module.training


def test_pytorch_files(models, tmp_path):
    folder = tiny.save(models["gpt2"], tmp_path / "model")
    as_pytorch(folder)
    model = llm.load_model(folder)
    assert list(model.file_hashes) == ["pytorch_model.bin"]
    expected = tiny.logits(models["gpt2"], TOKENS)
    np.testing.assert_allclose(tiny.logits(model.module, TOKENS), expected, atol=1e-4)


def test_half_precision_becomes_float32(tmp_path):
    rounded = tiny.random_model("llama")
    for weight in rounded.parameters():
        weight.copy_(weight.bfloat16())
    expected = tiny.logits(rounded, TOKENS)
    model = llm.load_model(tiny.save(rounded.to(torch.bfloat16), tmp_path / "model"))
    assert {weight.dtype for weight in model.module.parameters()} == {torch.float32}
    np.testing.assert_allclose(tiny.logits(model.module, TOKENS), expected, atol=1e-4)


def test_shards(models, tmp_path):
    models["llama"].save_pretrained(tmp_path / "model", max_shard_size="40KB")
    model = llm.load_model(tmp_path / "model")
    assert len(model.file_hashes) > 1
    assert model.file_hashes == llm.weight_hashes(tmp_path / "model")
    expected = tiny.logits(models["llama"], TOKENS)
    np.testing.assert_allclose(tiny.logits(model.module, TOKENS), expected, atol=1e-4)


def spoil_shards(folder):
    """Three shards as transformers leaves them, with their index."""
    tiny.random_model("llama").save_pretrained(folder, max_shard_size="40KB")
    return sorted(folder.glob("model-*.safetensors"))


def test_the_index_decides_which_shards_are_read(models, tmp_path):
    folder = tmp_path / "model"
    shards = spoil_shards(folder)
    (folder / f"model-00009-of-00009{shards[0].suffix}").write_bytes(b"of another day")
    expected = tiny.logits(models["llama"], TOKENS)
    np.testing.assert_allclose(
        tiny.logits(llm.load_model(folder).module, TOKENS), expected, atol=1e-4
    )
    other = tiny.random_model("llama")
    other.model.embed_tokens.weight.zero_()
    other.save_pretrained(tmp_path / "other")
    stray = folder / "model.safetensors"  # which transformers would read
    (tmp_path / "other" / stray.name).rename(stray)
    module = llm.load_model(folder).module
    np.testing.assert_allclose(tiny.logits(module, TOKENS), expected, atol=1e-4)
    assert llm.weight_hashes(folder).keys() == {shard.name for shard in shards}
    shards[0].unlink()
    with pytest.raises(InputError, match=rf"lacks 1 of the {len(shards)} .*: {shards[0].name}$"):
        llm.load_model(folder)


def test_shards_that_are_not_whole_are_named(tmp_path):
    folder = tmp_path / "model"
    shards = spoil_shards(folder)
    content = shards[1].read_bytes()
    shards[1].write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"{shards[1].name}' are corrupt or cut short \("):
        llm.load_model(folder)
    shards[1].unlink()
    shards[2].unlink()
    absent = f"{shards[1].name}, {shards[2].name}"
    with pytest.raises(InputError, match=rf"lacks 2 of the {len(shards)} .* lists: {absent}$"):
        llm.load_model(folder)
    index = folder / "model.safetensors.index.json"
    for text in ("{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "\udcff"):
        index.write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(InputError, match=r"index.json' is no index of weight files \("):
            llm.load_model(folder)
    index.unlink()
    with pytest.raises(InputError, match=rf"no weights: .*; {shards[0].name}, .* without the "):
        llm.load_model(folder)


def test_a_folder_for_each_revision(models, tmp_path):
    for step, kind in ((2, "gpt2"), (16, "untied gpt2")):
        tiny.save(models[kind], tmp_path / "run" / f"step{step}")
    model = llm.load_model(tmp_path / "run", "step16")
    assert (model.name, model.revision) == ("run", "step16")
    expected = tiny.logits(models["untied gpt2"], TOKENS)
    np.testing.assert_allclose(tiny.logits(model.module, TOKENS), expected, atol=1e-4)
    with pytest.raises(InputError, match=r"no revision 'step4'; its revisions are step2, step16$"):
        llm.load_model(tmp_path / "run", "step4")
    with pytest.raises(InputError, match=r"give one of its revisions: step2, step16$"):
        llm.load_model(tmp_path / "run")
    with pytest.raises(InputError, match="no revision 'main'; it has no revisions"):
        llm.load_model(tmp_path / "run" / "step2", "main")


def test_the_tokenizer_is_that_of_the_folder(saved):
    model = llm.load_model(saved)
    expected = tiny.tokenizer().encode(tiny.TEXT).ids
    tokens = model.tokenize(tiny.TEXT)
    assert tokens.dtype == np.int32
    assert tokens.tolist() == expected
    assert model.tokenizer.decode(tokens) == tiny.TEXT


def test_a_special_token_written_in_a_text_is_text(saved):
    model = llm.load_model(saved)
    text = "a bird <|endoftext|> flew"
    assert model.tokenizer(text)["input_ids"].count(0) == 1  # what transformers does unasked
    assert 0 not in model.tokenize(text)
    assert model.tokenize("a bird").tolist() == tiny.tokenizer().encode("a bird").ids


def test_a_folder_without_a_tokenizer(models, tmp_path):
    models["neox"].save_pretrained(tmp_path / "model")
    model = llm.load_model(tmp_path / "model")
    assert model.tokenizer is None
    with pytest.raises(InputError, match="tokenizer: model 'model' has none"):
        model.tokenize("a bird")


def test_gguf(models, tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(models["llama"], path)
    model = llm.load_model(path)
    assert (model.name, model.family, model.revision) == ("tiny.gguf", "llama", None)
    assert list(model.file_hashes) == ["tiny.gguf"]
    expected = tiny.logits(models["llama"], TOKENS)
    # eps and theta travel as float32, weights as they are.
    np.testing.assert_allclose(tiny.logits(model.module, TOKENS), expected, atol=1e-4)
    assert model.tokenizer.decode(model.tokenize(tiny.TEXT)) == tiny.TEXT


def write_gguf(module, path, leave_out=(), architecture="llama"):
    """As llama.cpp's converter: rotary dimensions of queries and keys are interleaved."""
    gguf = pytest.importorskip("gguf")
    config = module.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    model = json.loads(tiny.tokenizer(tiny.V).to_str())["model"]
    words = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words + [f"<unused {i}>" for i in range(len(words), tiny.V)])
    writer.add_token_types([3] + [1] * (tiny.V - 1))
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "model.layers.": "blk.",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for name, weight in module.state_dict().items():
        array = weight.numpy()
        for ours, theirs in sorted(names.items(), key=lambda pair: -len(pair[0])):
            name = name.replace(ours, theirs)
        if "attn_q" in name or "attn_k" in name:
            heads = config.num_attention_heads if "attn_q" in name else config.num_key_value_heads
            halves = array.reshape(heads, 2, -1, array.shape[-1])
            array = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))
        if name not in leave_out:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# A real model


def llama_logits(folder, tokens):
    """Llama (Touvron et al., 2023) in NumPy, float64, from the file's tensors."""
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    w = {name: x.astype(np.float64) for name, x in load_file(folder / "model.safetensors").items()}
    H, K = config["num_attention_heads"], config["num_key_value_heads"]
    T, size = len(tokens), config["hidden_size"] // H

    def norm(x, gain):
        return gain * x / np.sqrt(np.mean(x * x, -1, keepdims=True) + config["rms_norm_eps"])

    # Dimensions i and i + size/2 turn together, by t theta^(-2i/size).
    rate = config["rope_parameters"]["rope_theta"] ** (-2 * np.arange(size // 2) / size)
    turn = np.exp(1j * np.arange(T)[:, None, None] * rate)

    def rotate(x):
        z = (x[..., : size // 2] + 1j * x[..., size // 2 :]) * turn
        return np.concatenate([z.real, z.imag], -1)

    h = w["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}."
        x = norm(h, w[name + "input_layernorm.weight"])
        q = rotate((x @ w[name + "self_attn.q_proj.weight"].T).reshape(T, H, size))
        k = rotate((x @ w[name + "self_attn.k_proj.weight"].T).reshape(T, K, size))
        v = (x @ w[name + "self_attn.v_proj.weight"].T).reshape(T, K, size)
        mixed = np.zeros((T, H, size))
        for head in range(H):
            of = head * K // H
            for t in range(T):
                scores = k[: t + 1, of] @ q[t, head] / np.sqrt(size)
                p = np.exp(scores - scores.max())
                mixed[t, head] = p @ v[: t + 1, of] / p.sum()
        h = h + mixed.reshape(T, -1) @ w[name + "self_attn.o_proj.weight"].T
        x = norm(h, w[name + "post_attention_layernorm.weight"])
        gate = x @ w[name + "mlp.gate_proj.weight"].T
        up = x @ w[name + "mlp.up_proj.weight"].T
        h = h + (gate / (1 + np.exp(-gate)) * up) @ w[name + "mlp.down_proj.weight"].T
    return norm(h, w["model.norm.weight"]) @ w["model.embed_tokens.weight"].T


def test_a_real_model(data_dir):
    folder = data_dir / "stories260K"
    model = llm.load_model(folder)
    tokens = model.tokenize("Once upon a time, there was a little girl named Lily.")
    assert model.tokenizer.decode(tokens).strip().startswith("Once upon a time, there")
    assert (model.family, model.num_layers, model.num_heads, model.width) == ("llama", 5, 8, 64)
    found = tiny.logits(model.module, tokens[None])[0]
    np.testing.assert_allclose(found, llama_logits(folder, tokens), atol=1e-4)
    # It was trained on such stories: half of the next tokens, or more, are its first guess.
    assert np.mean(found[:-1].argmax(-1) == tokens[1:]) > 0.5


# Hashes


def test_hashes_of_files_are_those_of_sha256sum(saved):
    hashes = llm.weight_hashes(saved)
    out = subprocess.run(
        ["sha256sum", saved / "model.safetensors"], capture_output=True, check=True
    )
    assert hashes == {"model.safetensors": out.stdout.split()[0].decode()}
    assert llm.load_model(saved).file_hashes == hashes


@pytest.fixture(scope="module")
def run_of_copies(models, tmp_path_factory):
    """One model's weights in the files of five revisions, which differ; and another's."""
    from safetensors.torch import load_file, save_file

    run = tmp_path_factory.mktemp("run")
    for step in range(5):
        tiny.save(models["llama"], run / f"step{step}")
    as_pytorch(run / "step1")
    state = load_file(run / "step2/model.safetensors")
    save_file(state, run / "step2/model.safetensors", {"format": "pt", "of": "another day"})
    (run / "step3/model.safetensors").unlink()
    models["llama"].save_pretrained(run / "step3", max_shard_size="40KB")
    signed = {name: torch.where(weight == 0, -weight, weight) for name, weight in state.items()}
    # As old checkpoints have them, in PyTorch's old format.
    tables = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    (run / "step4/model.safetensors").unlink()
    torch.save(
        signed | tables, run / "step4/pytorch_model.bin", _use_new_zipfile_serialization=False
    )
    other = tiny.random_model("llama")
    for weight in other.parameters():
        weight.mul_(2)
    other.model.embed_tokens.weight.copy_(models["llama"].model.embed_tokens.weight)
    tiny.save(other, run / "step5")
    return run


def test_equal_tensors_are_found_in_other_files(run_of_copies, models):
    steps = [f"step{step}" for step in range(6)]
    hashes = [tuple(llm.weight_hashes(run_of_copies, step).values()) for step in steps]
    assert len(set(hashes)) == 6
    identical, part = llm.shared_weights(run_of_copies, steps)
    assert identical.identical
    assert identical.revisions == tuple(steps[:5])
    number = len(models["llama"].state_dict())
    parameters = sum(weight.numel() for weight in models["llama"].parameters())
    assert identical[1:] == ("tensors", number, number, parameters, parameters)
    assert str(identical) == (
        f"step0, step1, step2, step3, step4 have the same weights, all {number} tensors"
    )
    assert not part.identical
    assert part.revisions == tuple(steps)
    assert part[1:] == ("tensors", 1, number, tiny.V * tiny.D, parameters)
    share = f"{tiny.V * tiny.D / parameters:.1%}"
    assert str(part).endswith(f"step5 share 1 of {number} tensors, {share} of the parameters")
    assert llm.shared_weights(run_of_copies, ["step5"]) == []


def test_tied_weights_are_stored_once_or_twice(tmp_path):
    """PyTorch's format has the unembedding of a tied model, safetensors has not."""
    model = tiny.random_model("tied llama")
    tiny.save(model, tmp_path / "step0")
    shutil.copytree(tmp_path / "step0", tmp_path / "step1")
    (tmp_path / "step1/model.safetensors").unlink()
    state = model.state_dict()
    assert "lm_head.weight" in state
    torch.save(state, tmp_path / "step1/pytorch_model.bin")
    (found,) = llm.shared_weights(tmp_path, ["step0", "step1"])
    assert found.identical
    assert found.of == len(state) - 1


def test_tensors_of_another_name_type_or_shape_are_others(tmp_path):
    from safetensors.torch import save_file

    weight = torch.arange(6.0)
    same = {"a": weight, "long": torch.arange(3 * tensors._CHUNK // 2)}
    states = [same, {"b": weight}, {"a": weight.reshape(2, 3)}, {"a": weight.int()}]
    states += [{"a": weight.half()}, {"a": weight.view(torch.int32)}, {"a": -weight}, same]
    for step, state in enumerate(states):
        (tmp_path / f"step{step}").mkdir()
        (tmp_path / f"step{step}/config.json").write_text("{}")
        save_file(state, tmp_path / f"step{step}/model.safetensors")
    (found,) = llm.shared_weights(tmp_path, [f"step{step}" for step in range(len(states))])
    assert found[:4] == (("step0", "step7"), "tensors", 2, 2)


def test_weights_that_cannot_be_compared_are_named(run_of_copies, tmp_path):
    run = shutil.copytree(run_of_copies, tmp_path / "run")
    cut(run / "step0/model.safetensors", 0.7)
    with pytest.raises(InputError, match=r"step0/model.safetensors' are corrupt or cut short \("):
        llm.shared_weights(run, ["step0", "step2"])
    cut(run / "step1/pytorch_model.bin", 0.7)
    message = (
        r"revisions: 3 of 4 cannot be used: step0, step1, step9; the first error: .*step0/model"
    )
    with pytest.raises(InputError, match=message):
        llm.shared_weights(run, ["step0", "step1", "step2", "step9"])


def test_hashes_need_neither_torch_nor_transformers(saved):
    code = (
        "import sys; import assocjax as aj\n"
        f"assert aj.llm.weight_hashes({str(saved)!r})\n"
        "sys.exit(bool({'torch', 'transformers', 'jax'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The hub


SHARDS = [f"pytorch_model-0000{i}-of-00003.bin" for i in (1, 2, 3)]


class Hub:
    """Stands for the hub, which holds one model."""

    def __init__(self, monkeypatch, folder):
        import huggingface_hub

        self.folder, self.asked, self.downloaded, self.cached = folder, [], [], False
        self.errors, self.shards = huggingface_hub.errors, {}
        info = lambda _, *names, **options: self.info(*names, **options)  # noqa: E731
        snapshot = lambda *names, **options: self.snapshot(*names, **options)  # noqa: E731
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)

    def info(self, name, revision, files_metadata, timeout):
        self.asked.append((name, revision))
        import huggingface_hub

        response = types.SimpleNamespace(headers={}, request=None, status_code=404)
        huggingface_hub.utils.validate_repo_id(name)
        if name != "owner/tiny":
            raise self.errors.RepositoryNotFoundError("404", response=response)
        if revision not in ("step16", *self.shards):
            raise self.errors.RevisionNotFoundError("404", response=response)
        files = {"model.safetensors": "f", "pytorch_model.bin": "f", "flax.msgpack": "f"}
        if revision in self.shards:
            files = dict(zip(SHARDS, self.shards[revision], strict=True))
            files |= {"pytorch_model.bin.index.json": None}
        siblings = [
            types.SimpleNamespace(
                rfilename=file, lfs=letter and types.SimpleNamespace(sha256=64 * letter, size=10)
            )
            for file, letter in ({"config.json": None} | files).items()
        ]
        return types.SimpleNamespace(siblings=siblings)

    def snapshot(self, name, revision, allow_patterns=None, local_files_only=False):
        if local_files_only and not self.cached:
            raise self.errors.LocalEntryNotFoundError("not in the cache")
        self.downloaded.append(allow_patterns)
        return str(self.folder)


def test_a_model_of_the_hub(saved, models, monkeypatch):
    hub = Hub(monkeypatch, saved)
    model = llm.load_model("owner/tiny", "step16")
    assert (model.name, model.revision) == ("owner/tiny", "step16")
    assert hub.asked == [("owner/tiny", "step16")]
    (patterns,) = hub.downloaded
    assert "model.safetensors" in patterns
    assert "pytorch_model.bin" not in patterns  # the same weights twice
    expected = tiny.logits(models["neox"], TOKENS)
    np.testing.assert_allclose(tiny.logits(model.module, TOKENS), expected, atol=1e-4)


def test_hashes_of_the_hub_are_read_without_a_download(saved, monkeypatch):
    hub = Hub(monkeypatch, saved)
    assert llm.weight_hashes("owner/tiny", "step16") == {"model.safetensors": "f" * 64}
    assert not hub.downloaded


def test_one_shard_of_three_is_found_on_the_hub_without_a_download(saved, monkeypatch, tmp_path):
    """As in EleutherAI/pythia, issue 206."""
    hub = Hub(monkeypatch, saved)
    hub.shards = {
        "step49": "abc",
        "step50": "def",
        "step58": "dgh",
        "step143": "dij",
        "main": "dij",
    }
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"weight_map": {str(i): name for i, name in enumerate(SHARDS)}}))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *names, **options: str(index))
    whole, part = llm.shared_weights("owner/tiny", list(hub.shards))
    assert whole == (("step143", "main"), "files", 3, 3, 30, 30)
    assert part == (("step50", "step58", "step143", "main"), "files", 1, 3, 10, 30)
    assert str(part).endswith("main share 1 of 3 files, 33.3% of the bytes")
    assert not hub.downloaded
    with pytest.raises(
        InputError, match=r"2 of 3 cannot be used: step2, step3; the first error: .*'step2'"
    ):
        llm.shared_weights("owner/tiny", ["step49", "step2", "step3"])


def test_what_is_not_on_the_hub(saved, monkeypatch):
    Hub(monkeypatch, saved)
    with pytest.raises(InputError, match="no folder 'owner/none', and no such model on the hub"):
        llm.load_model("owner/none")
    with pytest.raises(InputError, match="revision: 'owner/tiny' has no revision 'step3'"):
        llm.load_model("owner/tiny", "step3")
    with pytest.raises(InputError, match="no such name can be on the hub"):
        llm.load_model("owner/ti..ny")


def ask_both(name, revision):
    return llm.shared_weights(name, [revision, "step17"])


def test_an_unreachable_hub(saved, monkeypatch):
    hub = Hub(monkeypatch, saved)

    def unreachable(*_, **__):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr(hub, "info", unreachable)
    for read in (llm.load_model, llm.weight_hashes, ask_both):
        with pytest.raises(InputError, match=r"hub cannot be reached \(no route to host\)$"):
            read("owner/tiny", "step16")
    hub.cached = True
    assert llm.load_model("owner/tiny", "step16").vocab_size == tiny.V


# Bad input


def change_config(folder, **entries):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def drop_tensor(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["gpt_neox.layers.1.attention.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def corrupt_header(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[8:40] = b"\xff" * 32
    path.write_bytes(content)


def another_tokenizer(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["far"] = tiny.V
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def cut_pytorch(folder):
    as_pytorch(folder)
    cut(folder / "pytorch_model.bin", 0.7)


BAD = {
    "no configuration": (lambda f: (f / "config.json").unlink(), "no folder of a model: it has no"),
    "configuration, no JSON": (lambda f: (f / "config.json").write_text("{"), "no configuration"),
    "configuration, a list": (lambda f: (f / "config.json").write_text("[]"), "no configuration"),
    "configuration, a folder": (
        lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()),
        "no folder of a model: it has no config.json",
    ),
    "configuration, endless": (
        lambda f: (f / "config.json").write_text("[" * 100_000),
        "no configuration",
    ),
    "an architecture that is a list": (
        lambda f: change_config(f, model_type=[]),
        r"unsupported architecture \[\]",
    ),
    "endless layers": (
        lambda f: change_config(f, num_hidden_layers=10**20),
        r"is of 100,000,0.*,000 layers, far more than the .* bytes of model.safetensors can hold",
    ),
    "endless tokens": (
        lambda f: change_config(f, vocab_size=10**9),
        r"is of 64,0.* weights, far more than the .* bytes of model.safetensors can hold",
    ),
    "no heads": (lambda f: change_config(f, num_attention_heads=0), "cannot be "),
    "another architecture": (
        lambda f: change_config(f, model_type="bert"),
        "unsupported architecture 'bert'; expected one of 'gpt_neox', 'llama', 'gpt2', 'qwen2', ",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights: expected model.safe"),
    "a header cut short": (lambda f: cut(f / "model.safetensors", 0.001), "corrupt or cut short"),
    "weights cut short": (lambda f: cut(f / "model.safetensors", 0.7), "corrupt or cut short"),
    "a corrupt header": (corrupt_header, "corrupt or cut short"),
    "empty weights": (lambda f: cut(f / "model.safetensors", 0), "corrupt or cut short"),
    "PyTorch's format, cut short": (cut_pytorch, "corrupt or cut short"),
    "PyTorch's format, a program": (
        lambda f: (as_pytorch(f), (f / "pytorch_model.bin").write_bytes(pickle.dumps(print))),
        r"pytorch_model.bin' are corrupt .* \(torch did not save it, or it holds more than tensors",
    ),
    "a tensor missing": (drop_tensor, r"lack 'gpt_neox.layers.1.attention.dense.weight', against"),
    "a layer missing": (lambda f: change_config(f, num_hidden_layers=4), "lack 'gpt_neox.layer"),
    "a layer too many": (lambda f: change_config(f, num_hidden_layers=2), "besides 'gpt_neox.l"),
    "another width": (
        lambda f: change_config(f, hidden_size=64),
        "have another shape in",
    ),
    "a tokenizer of another model": (another_tokenizer, "id 96, but .* of 96 tokens only"),
    "a tokenizer that is none": (
        lambda f: (f / "tokenizer.json").write_text("{}"),
        "tokenizer: that of .* cannot be read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_folders(case, saved, tmp_path):
    spoil, message = BAD[case]
    folder = shutil.copytree(saved, tmp_path / "model")
    spoil(folder)
    with pytest.raises(InputError, match=message) as error:
        llm.load_model(folder)
    assert "\n" not in str(error.value)


def test_bad_gguf_files(models, tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(models["llama"], path, leave_out=("blk.1.ffn_up.weight",))
    with pytest.raises(InputError, match=r"lack 'model.layers.1.mlp.up_proj.weight', against"):
        llm.load_model(path)
    cut(path, 0.8)
    with pytest.raises(InputError, match="cannot be read, or is cut short") as error:
        llm.load_model(path)
    assert "\n" not in str(error.value)
    path.write_bytes(b"none of that")
    with pytest.raises(InputError, match="is no GGUF file"):
        llm.load_model(path)
    write_gguf(models["llama"], path, architecture="starcoder2")
    with pytest.raises(InputError, match="unsupported architecture 'starcoder2'"):
        llm.load_model(path)


def test_bad_names(tmp_path):
    with pytest.raises(InputTypeError, match="name_or_path must be a name or a path; got int 3"):
        llm.load_model(3)
    with pytest.raises(InputTypeError, match="revision must be a string; got int 16"):
        llm.load_model(tmp_path, 16)
    with pytest.raises(InputTypeError, match="revisions must be a list of names; got str 'step0'"):
        llm.shared_weights(tmp_path, "step0")
    for name in ("~no one/model", "x" * 5000):
        with pytest.raises(InputError, match=r"model: .* cannot be read: ") as error:
            llm.load_model(name)
        assert "\n" not in str(error.value)
    for name in (tmp_path / "none", "./none", "none.gguf", "a/b/c", "\0"):
        with pytest.raises(InputError, match=r"no folder or file|holds no NUL"):
            llm.load_model(name)
    (tmp_path / "model.bin").touch()
    with pytest.raises(InputError, match=r"is a file; expected a folder with config.json"):
        llm.load_model(tmp_path / "model.bin")
    (tmp_path / "model.gguf").touch()
    with pytest.raises(InputError, match="a GGUF file has none, got 'main'"):
        llm.load_model(tmp_path / "model.gguf", "main")


def test_bad_devices(saved):
    with pytest.raises(InputError, match="device: torch cannot use 'abacus'"):
        llm.load_model(saved, device="abacus")


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_without_the_extra(library, saved, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=rf"library {library}: pip install 'assocjax\[llm\]'"):
        llm.load_model(saved)


def test_log_and_progress_bars_are_as_before(saved):
    logging = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    llm.load_model(saved)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before

"""`pretrain_tiny` compared with PyTorch and transformers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_llm_pretrain as pretraining
from conftest import random_tokens
from test_llm_decoders import assert_same_weights
from tiny_models import torch, transformers

from assocjax import llm
from assocjax.corpora import Documents
from assocjax.llm import recipe

CONFIG, STEPS = pretraining.CONFIG, pretraining.STEPS
documents, whole = pretraining.documents, pretraining.whole


@pytest.fixture(scope="module", autouse=True)
def as_users_have_it():
    """optax mixes integers and floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def their_factor(step: int, steps: int) -> float:
    """Of the learning rate, in update `step` counted from 1: 1 % of warmup, a cosine to 10 %."""
    warmup = max(1, round(0.01 * steps))
    if step < warmup:
        return step / warmup
    return 0.1 + 0.9 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("steps", [8, 400])  # all of the cosine; the warmup and its end
def test_updates_are_those_of_torch(steps, dtype, tmp_path):
    """Of AdamW with clipping, from the same weights and the same batches."""
    rate = 1e-2
    model, params = recipe.initial_model(CONFIG, 300)
    llm.save_decoder(tmp_path, model, params)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).train()
    theirs = theirs.to(getattr(torch, dtype))
    groups = [
        {"params": [w for w in theirs.parameters() if w.ndim > 1], "weight_decay": 0.1},
        {"params": [w for w in theirs.parameters() if w.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    clipped = 0
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda weight: jnp.asarray(weight, dtype), params)
        ours = recipe.make_optimizer(rate, steps)
        update, state = recipe.make_update(model, ours), ours.init(params)
        for step in range(8):
            batch = random_tokens(step, 4, 16, 300)
            params, state, loss = update(params, state, batch)
            for group in optimizer.param_groups:
                group["lr"] = rate * their_factor(step + 1, steps)
            tokens = torch.tensor(batch).long()
            z = theirs(input_ids=tokens[:, :-1]).logits.flatten(0, 1)
            their_loss = torch.nn.functional.cross_entropy(z, tokens[:, 1:].flatten())
            optimizer.zero_grad()
            their_loss.backward()
            clipped += torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0) > 1
            optimizer.step()
            np.testing.assert_allclose(loss, their_loss.item(), rtol=1e-5)
    assert clipped > 0
    with torch.no_grad():
        if dtype == "float32":
            # A key's bias that is not rotary changes no attention, so its gradient is 0 up to
            # rounding, which AdamW makes into steps of its own: only float64 compares it.
            for i, layer in enumerate(theirs.gpt_neox.layers):
                bias = layer.attention.query_key_value.bias.view(2, 3, 8)
                mine = params[f"blocks_{i}"]["key_bias"].reshape(2, 8)
                bias[:, 1, 2:] = torch.tensor(np.asarray(mine[:, 2:]))
        assert_same_weights(theirs, model, params, 1e-4)


def test_every_revision_loads(whole, documents: Documents):
    folder, record = whole
    for step in STEPS:
        model = llm.load_model(folder, step)
        assert (model.family, model.num_layers, model.num_heads, model.width) == (
            *("gpt_neox", 2, 2, 16),
        )
        assert model.vocab_size == record["corpus"]["vocab_size"] == 300
        assert model.file_hashes == record["revisions"][step]
        text = documents.documents[0]
        assert model.tokenizer.decode(model.tokenize(text)) == text
        assert model.tokenizer.convert_tokens_to_ids("<|endoftext|>") == 0


def test_plain_transformers_reads_a_revision(whole):
    folder, _ = whole
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "step2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "step2")
    assert isinstance(model, transformers.GPTNeoXForCausalLM)
    assert model.config.use_parallel_residual
    assert not model.config.tie_word_embeddings
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.eos_token_id == model.config.eos_token_id == 0

import copy
import dataclasses

import numpy as np
import pytest
import tiny_models as tiny
from tiny_models import torch

from assocjax import InputError, InputTypeError, llm

D, HEADS, LAYERS = tiny.D, tiny.HEADS, tiny.LAYERS
IDS = np.array([3, 0, 95, 41, 7, 8, 60])
# Products of float32 in another order: a few ulp of values up to 10.
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


@pytest.fixture(scope="module", params=tiny.KINDS)
def model(request):
    module = tiny.random_model(request.param)
    module.set_attn_implementation("eager")  # so that it can tell its attention
    return llm.LanguageModel(
        name=request.param,
        revision=None,
        family=tiny.FAMILY[request.param.split()[-1]],
        num_layers=LAYERS,
        num_heads=HEADS,
        width=D,
        vocab_size=tiny.V,
        tokenizer=None,
        file_hashes={},
        module=module,
    )


@pytest.fixture(scope="module")
def streams(model):
    return llm.single_token_streams(model, IDS)


def hidden_states(model, tokens, **options):
    """What transformers itself tells: the input of every layer, and attention [N, H, T, T]."""
    with torch.no_grad():
        out = model.module(
            input_ids=torch.tensor(tokens),
            output_hidden_states=True,
            output_attentions=True,
            **options,
        )
    return [h.numpy() for h in out.hidden_states], [a.numpy() for a in out.attentions]


# Single tokens


def test_streams_are_float32_and_follow_one_another(streams):
    for stream in streams:
        assert stream.shape == (LAYERS, len(IDS), D)
        assert stream.dtype == np.float32
    np.testing.assert_array_equal(streams.after_layer[:-1], streams.before[1:])


def test_streams_are_those_that_transformers_tells(model, streams):
    expected, _ = hidden_states(model, IDS[:, None])
    for layer in range(LAYERS):
        np.testing.assert_allclose(streams.before[layer], expected[layer][:, 0], **CLOSE)


def test_the_first_stream_is_the_embedding(model, streams):
    state = {name: value.numpy() for name, value in model.module.state_dict().items()}
    tokens = {"gpt_neox": "gpt_neox.embed_in", "llama": "model.embed_tokens"}
    expected = state[tokens.get(model.family, "transformer.wte") + ".weight"][IDS]
    if model.family == "gpt2":
        expected = expected + state["transformer.wpe.weight"][0]
    np.testing.assert_array_equal(streams.before[0], expected)


def test_the_last_stream_gives_the_logits(model, streams):
    # Not the final-normed one: then the norm would be there twice.
    norm = {"gpt_neox": "gpt_neox.final_layer_norm", "llama": "model.norm"}
    norm = model.module.get_submodule(norm.get(model.family, "transformer.ln_f"))
    with torch.no_grad():
        last = norm(torch.tensor(streams.after_layer[-1]))
        found = model.module.get_output_embeddings()(last).numpy()
    np.testing.assert_allclose(found, tiny.logits(model.module, IDS[:, None])[:, 0], **CLOSE)


def test_attention_to_itself_is_the_value_of_the_normed_stream(model, streams):
    for layer in range(LAYERS):
        raw = tiny.raw_attention(model.module, layer)
        x = tiny.layer_norm(model.module, layer, streams.before[layer])
        values = np.concatenate([x @ raw.W_V[h] + raw.b_V[h] for h in range(HEADS)], axis=1)
        expected = streams.before[layer] + values @ raw.W_O + raw.b_O
        np.testing.assert_allclose(streams.after_attention[layer], expected, **CLOSE)


@pytest.mark.parametrize(("layers", "batch_size"), [([3], 1024), ([3, 1], 3), (range(2, 4), 1)])
def test_groups_of_layers_and_batches(model, streams, layers, batch_size):
    calls = []
    found = llm.single_token_streams(
        model, IDS, layers=layers, batch_size=batch_size, progress=lambda *done: calls.append(done)
    )
    for part, whole in zip(found, streams, strict=True):
        # A product of fewer rows is rounded in another order.
        np.testing.assert_allclose(part, whole[[layer - 1 for layer in layers]], **CLOSE)
    assert calls[-1] == (len(IDS), len(IDS))
    assert len(calls) == -(-len(IDS) // batch_size)


def test_no_hook_is_left_behind(model):
    modules = list(model.module.modules())
    count = lambda: sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)  # noqa: E731
    before = count()
    llm.single_token_streams(model, IDS)
    assert count() == before

    def fail(*_):
        raise RuntimeError("as out of memory")

    with model.module.get_output_embeddings().register_forward_hook(fail):
        llm.single_token_streams(model, IDS)  # which has no use for logits
    with (
        model.module.base_model.register_forward_hook(fail),
        pytest.raises(RuntimeError, match="as out of memory"),
    ):
        llm.single_token_streams(model, IDS)
    assert count() == before


# Occurrences


def test_occurrences_are_averaged(model):
    rng = np.random.default_rng(1)
    N, T = 7, 9
    tokens = rng.integers(0, 12, (N, T))
    mask = np.arange(T) < rng.integers(4, T + 1, (N, 1))
    mask[2] = False
    mask[0] = rng.random(T) < 0.6
    ids = np.array([5, 90, 0, 3, 11])  # 90 never occurs
    calls = []
    found, counts = llm.occurrence_streams(
        model, tokens, mask, ids, batch_size=3, progress=lambda *done: calls.append(done)
    )
    assert calls == [(3, N), (6, N), (7, N)]
    assert counts.tolist() == [int(np.sum((tokens == i) & mask)) for i in ids]
    assert counts[1] == 0
    assert counts[0] > 1

    inputs = [hidden_states(model, tokens[n : n + 1])[0] for n in range(N)]
    for layer in range(LAYERS):
        for row, i in enumerate(ids):
            places = [
                (n, t) for n in range(N) for t in range(T) if mask[n, t] and tokens[n, t] == i
            ]
            if not places:
                assert all(np.isnan(stream[layer, row]).all() for stream in found)
                continue
            expected = np.mean([inputs[n][layer][0, t] for n, t in places], axis=0)
            np.testing.assert_allclose(found.before[layer, row], expected, **CLOSE)
    np.testing.assert_array_equal(found.after_layer[:-1], found.before[1:])
    assert all(stream.dtype == np.float32 for stream in found)


def test_attention_between_tokens_is_added(model):
    """By hand: each query's average of values, with the attention that transformers tells."""
    tokens = np.array([[4, 9, 4, 30, 17, 9]])
    ids = np.array([4, 9, 17])
    found, counts = llm.occurrence_streams(model, tokens, np.ones((1, 6), bool), ids)
    assert counts.tolist() == [2, 2, 1]
    inputs, attention = hidden_states(model, tokens)
    for layer in range(LAYERS):
        raw = tiny.raw_attention(model.module, layer)
        x = tiny.layer_norm(model.module, layer, inputs[layer][0])
        heads = [attention[layer][0, h] @ (x @ raw.W_V[h] + raw.b_V[h]) for h in range(HEADS)]
        after = inputs[layer][0] + np.concatenate(heads, axis=1) @ raw.W_O + raw.b_O
        for row, i in enumerate(ids):
            expected = after[tokens[0] == i].mean(axis=0)
            np.testing.assert_allclose(found.after_attention[layer, row], expected, **CLOSE)


def test_one_occurrence_at_the_start_is_the_token_alone(model, streams):
    mask = np.zeros((len(IDS), 4), bool)
    mask[:, 0] = True
    tokens = np.full((len(IDS), 4), 50)
    tokens[:, 0] = IDS
    found, _ = llm.occurrence_streams(model, tokens, mask, IDS, layers=[2])
    for part, whole in zip(found, streams, strict=True):
        np.testing.assert_allclose(part, whole[[1]], **CLOSE)


def test_sums_keep_their_precision():
    """Of 20,000 equal occurrences the mean is each, to one rounding; float32 sums would lose it."""
    module = tiny.random_model("gpt2")
    of_class = llm.LanguageModel("m", None, "gpt2", LAYERS, HEADS, D, tiny.V, None, {}, module)
    tokens = np.full((20_000, 1), 3)
    found, counts = llm.occurrence_streams(
        of_class, tokens, np.ones_like(tokens, bool), np.array([3]), layers=[1], batch_size=5000
    )
    alone = llm.single_token_streams(of_class, np.array([3]), layers=[1])
    assert counts.tolist() == [20_000]
    np.testing.assert_allclose(found.before, alone.before, rtol=1.2e-7)


# Queries and keys


@pytest.mark.parametrize("norm", [False, True])
def test_factors_are_the_product_of_the_raw_weights(model, streams, norm):
    for layer in (0, LAYERS - 1):
        E = streams.before[layer]
        x = tiny.layer_norm(model.module, layer, E) if norm else E
        raw = tiny.raw_attention(model.module, layer)
        by_head = []
        for head in range(HEADS):
            expected = np.array([[(q @ raw.W_Q[head]) @ (k @ raw.W_K[head]) for k in x] for q in x])
            queries, keys = llm.query_key_factors(model, layer + 1, E, head=head, norm=norm)
            assert queries.shape == keys.shape == (len(IDS), D // HEADS)
            assert queries.dtype == keys.dtype == np.float32
            np.testing.assert_allclose(queries @ keys.T, expected, rtol=1e-4, atol=1e-4)
            # A transpose would be seen.
            assert np.abs(expected - expected.T).max() > 0.1
            by_head.append(expected)
        queries, keys = llm.query_key_factors(model, layer + 1, E, norm=norm)
        expected = np.mean(by_head, axis=0)
        np.testing.assert_allclose(queries @ keys.T, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("distance", [0, 5])
def test_scores_at_a_distance_are_what_the_model_attends_by(model, distance):
    """With large biases of queries and keys: softmax of the scores is the attention of the model
    itself, of a query `distance` positions after its keys, all of which stand at position 0."""
    module = copy.deepcopy(model.module)
    for name, weight in module.named_parameters():
        if name.endswith(("query_key_value.bias", "c_attn.bias", "q_proj.bias", "k_proj.bias")):
            weight.mul_(8)
    model = dataclasses.replace(model, module=module)
    T = 8
    tokens = np.random.default_rng(2).integers(0, tiny.V, (1, T))
    positions = torch.zeros((1, T), dtype=torch.int64)
    positions[0, -1] = distance
    inputs, attention = hidden_states(
        model, tokens, position_ids=positions, attention_mask=torch.ones_like(positions)
    )
    for layer in range(LAYERS):
        mean = 0
        for head in range(HEADS):
            queries, keys = llm.query_key_factors(
                model, layer + 1, inputs[layer][0], head=head, norm=True, distance=distance
            )
            scores = queries @ keys.T
            mean += scores / HEADS
            weights = softmax(scores[-1, :-1] / np.sqrt(D // HEADS))
            of_model = attention[layer][0, head, -1, :-1]  # itself, at distance 0, aside
            np.testing.assert_allclose(weights, of_model / of_model.sum(), atol=2e-5)
        queries, keys = llm.query_key_factors(
            model, layer + 1, inputs[layer][0], norm=True, distance=distance
        )
        np.testing.assert_allclose(queries @ keys.T, mean, rtol=1e-4, atol=1e-3)


def test_keys_at_different_distances_differ_by_the_key_bias():
    """What one query attends to, at all distances at once, in a GPT-NeoX with a large key bias."""
    module = tiny.random_model("neox")
    module.set_attn_implementation("eager")
    size = D // HEADS
    for layer in module.gpt_neox.layers:
        layer.attention.query_key_value.bias.view(HEADS, 3, size)[:, 1].fill_(4.0)
    model = llm.LanguageModel("m", None, "gpt_neox", LAYERS, HEADS, D, tiny.V, None, {}, module)
    T = 6
    inputs, attention = hidden_states(model, np.array([[4, 9, 30, 4, 17, 9]]))
    for head in range(HEADS):
        scores = []
        for s in range(T):
            queries, keys = llm.query_key_factors(
                model, 2, inputs[1][0], head=head, norm=True, distance=T - 1 - s
            )
            scores.append(queries[-1] @ keys[s] / np.sqrt(size))
        np.testing.assert_allclose(softmax(np.array(scores)), attention[1][0, head, -1], atol=2e-5)


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


# Bad input


def test_bad_input(model):
    E = np.zeros((4, D), np.float32)
    tokens, mask = np.zeros((2, 5), int), np.ones((2, 5), bool)
    for error, message, call in (
        (InputError, r"token_ids must be in \[0, vocab_size=96\); got 96", single([96])),
        (InputError, "token_ids must be in .* got -1", single([-1])),
        (InputTypeError, "token_ids must be integers; got dtype float64", single([0.5])),
        (
            InputError,
            r"token_ids must have shape \[n\], not empty; got \(0,\)",
            single(np.zeros(0, int)),
        ),
        (InputError, "layers must be at most 3; got 4", single([1], layers=[4])),
        (InputError, "layers must be at least 1; got 0", single([1], layers=[0])),
        (InputError, "layers must not be empty", single([1], layers=[])),
        (InputError, "layers must be different", single([1], layers=[1, 1])),
        (InputError, "batch_size must be at least 1; got 0", single([1], batch_size=0)),
        (InputError, r"tokens must have shape \[N, T\]", occurrences(tokens[0], mask[0], [1])),
        (InputError, r"mask must be boolean, of shape", occurrences(tokens, mask[:1], [1])),
        (InputError, r"mask must be boolean", occurrences(tokens, mask.astype(int), [1])),
        (
            InputError,
            "token_ids must be distinct; got 1 more than once",
            occurrences(tokens, mask, [1, 1]),
        ),
        (
            InputError,
            "at most T = 64 positions, as the model; got 65",
            occurrences(np.zeros((1, 65), int), np.ones((1, 65), bool), [1]),
        ),
        (InputError, "layer must be at most 3; got 4", factors(4, E)),
        (InputError, "layer must be at least 1; got 0", factors(0, E)),
        (InputError, "distance must be at most 63; got 64", factors(1, E, distance=64)),
        (InputError, "distance must be at least 0", factors(1, E, distance=-1)),
        (InputError, "head must be at most 3; got 4", factors(1, E, head=4)),
        (InputError, r"embeddings must be floats of shape \[n, d\] with d = 32", factors(1, E.T)),
        (InputError, "embeddings must be floats", factors(1, E.astype(int))),
    ):
        with pytest.raises(error, match=message):
            call(model)


def single(ids, **options):
    return lambda model: llm.single_token_streams(model, np.array(ids), **options)


def occurrences(tokens, mask, ids):
    return lambda model: llm.occurrence_streams(model, tokens, mask, np.array(ids))


def factors(layer, embeddings, **options):
    return lambda model: llm.query_key_factors(model, layer, embeddings, **options)

"""Numbers of NumPy and JAX wherever a public function takes numbers, and none that cannot be used.

Every value is one that float32 holds, so results are those of Python's numbers to the bit.
"""

import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from conftest import random_params, random_tokens, token_data

import assocjax as aj
from assocjax import llm
from assocjax.storage import results

N, T, V, L = 8, 4, 5, 2
TOKENS = random_tokens(0, N, T, V)
DATA = token_data(TOKENS, V)


class Numbers:
    """Makers of integers, of floats, and of lists of either."""

    def __init__(self, integer, number, listed):
        self.i, self.f, self.list = integer, number, listed


PYTHON = Numbers(int, float, list)
KINDS = {
    "64 bits": Numbers(np.int64, np.float64, lambda values: [np.asarray(v)[()] for v in values]),
    "32 bits": Numbers(np.int32, np.float32, tuple),
    "NumPy arrays": Numbers(np.array, np.array, np.array),
    "JAX arrays": Numbers(jnp.asarray, jnp.asarray, jnp.asarray),
}


def statistics():
    return aj.corpus_statistics(TOKENS, V)


def moments():
    return aj.effective_statistics(TOKENS, depth=L, vocab_size=V)


def quadratic(params, step):
    return jnp.sum(params**2) / 2, params


def of_train(n):
    start = jnp.arange(3.0)
    carry = start, optax.sgd(0.5).init(start)
    part = aj.train_segment(carry, quadratic, optax.sgd(0.5), 3, first=n.i(1), length=n.i(2))
    return part, aj.train(start, quadratic, optax.sgd(0.5), n.i(3))


def of_flow(n):
    times = n.list([0.5, 1.0])
    options = {"rtol": n.f(0.125), "atol": n.f(0.0), "max_steps": n.i(64)}
    return aj.gradient_flow(jnp.ones(2), lambda x: x, times, **options)


def of_influence(n):
    start = random_params(0, V=V, T=T, L=1)
    options = {"steps": n.i(2), "weight": "value", "index": n.list([0, 1, 2])}
    return aj.training_influence(start, TOKENS, optimizer=optax.sgd(0.5), **options)


def of_attribution(n):
    at = {"matrix": "value", "row": n.i(1), "column": n.i(0)}
    return (
        aj.attribute(statistics(), TOKENS, **at),
        aj.leave_out(statistics(), TOKENS, **at, which=n.list([1, 3])),
        aj.pair_shares(statistics(), TOKENS, **at, sequences=n.list([2, 0])),
    )


def of_closed_forms(n):
    coefficients = aj.Coefficients(n.f(0.5), n.f(0.25), n.f(0.125))
    return (
        aj.descent_coefficients(n.f(0.5), n.i(3)),
        aj.flow_coefficients(n.f(0.5)),
        aj.optimizer_coefficients(optax.sgd(0.5), n.i(2)),
        aj.leading_weights(statistics(), n.i(2), n.f(0.5), n.i(3)),
        aj.leading_weights_gradient(statistics(), n.i(2), n.f(0.5), n.i(3)),
        aj.weights_from_coefficients(statistics(), n.i(2), coefficients),
        aj.gradient_from_coefficients(statistics(), n.i(2), coefficients),
    )


def of_theories(n):
    sizes = {"num_layers": n.i(L), "learning_rate": n.f(0.25)}
    of_flow = aj.effective_weights(moments(), TOKENS, num_layers=n.i(L), duration=n.f(0.5))
    return (
        aj.effective_weights(moments(), TOKENS, steps=n.i(3), tolerance=n.f(0.125), **sizes),
        of_flow,
        aj.corrected_weights(
            moments(), TOKENS, steps=n.i(3), corrections=n.i(1), nodes=n.i(1), **sizes
        ),
    )


def of_bounds(n):
    return aj.theorem_conditions(
        num_layers=n.i(1),
        seq_len=n.i(64),
        vocab_size=n.i(500),
        learning_rate=n.f(0.5),
        steps=n.i(3),
        init_scale=n.f(0.25),
        xi=n.f(0.5),
    )


def of_plan(n):
    sizes = {"vocab_size": n.i(V), "seq_len": n.i(T), "num_layers": n.i(L)}
    sizes |= {"num_sequences": n.i(N), "memory_limit": n.i(1 << 20)}
    return aj.plan_exact_step(**sizes, microbatch_size=n.i(2), max_distinct=n.i(3))


def of_gradients(n):
    params, options = random_params(0, V=V, T=T, L=L), {"microbatch_size": n.i(2)}
    mesh = jax.make_mesh((1,), ("data",))
    return (
        aj.exact_gradient(
            params, TOKENS, memory_limit=n.i(1 << 20), max_distinct=n.i(T), **options
        ),
        aj.data_parallel_loss_and_gradient(
            params, TOKENS, mesh=mesh, max_distinct=n.i(T), **options
        ),
    )


def of_ablation(n):
    params = random_params(0, V=V, T=T, L=1)
    theory = aj.leading_weights(statistics(), 1, 0.5, 3)
    return aj.ablate(params, theory, TOKENS, draws=n.i(2), seed=n.i(3))


def of_associations(n):
    matrix, truth = np.arange(V * V, dtype=float).reshape(V, V), {"w1": {"w2"}}
    return (
        aj.top_associations(matrix, list(DATA.vocabulary), "w1", k=n.i(2)),
        aj.precision_at_k(matrix, list(DATA.vocabulary), truth, n.i(2)),
        aj.find_passages(DATA, "w1", "w0", top=n.i(2)),
    )


def of_run(n):
    config = aj.RunConfig(
        steps=n.i(2),
        num_layers=n.i(1),
        theories=("leading",),
        batch_size=n.i(4),
        microbatch_size=n.i(2),
    )
    hash(config)
    rows = aj.batch_indices(jax.random.key(0), n.i(1), n.i(N), n.i(2))
    return rows, aj.run_comparison(config, aj.Corpus.of(DATA, config), n.f(0.5), n.i(1), n.f(0.0))


def of_sweep(n):
    dataset = aj.sweep(
        DATA,
        learning_rates=n.list([0.25, 0.5]),
        seeds=n.list([1, 0]),
        init_scales=n.list([0.0, 0.125]),
        steps=n.i(2),
        num_layers=n.i(1),
        batch_size=n.i(4),
        microbatch_size=n.i(4),
        memory_limit=n.i(1 << 30),
    )
    return dataset, aj.validity_horizon(dataset, threshold=n.f(0.5))


def of_study(n):
    return aj.horizon_study(
        lambda vocab_size, seq_len: DATA,
        vocab_sizes=n.list([V]),
        seq_lens=n.list([T]),
        num_layers=n.list([1]),
        learning_rates=n.list([0.5]),
        duration=n.f(1.0),
        threshold=n.f(0.125),
    )


def of_law(n):
    rows = [{"learning_rate": n.f(x), "output": n.f(2 / x)} for x in (0.25, 0.5, 1.0, 2.0)]
    return aj.fit_power_law(rows, of="output")


def of_track(n):
    dataset = aj.track(
        DATA,
        learning_rate=n.f(0.5),
        steps=n.i(2),
        num_layers=n.i(1),
        record_at=n.list([0, 2]),
        k=n.i(2),
        seed=n.i(1),
        init_scale=n.f(0.125),
        batch_size=n.i(4),
        microbatch_size=n.i(4),
    )
    return dataset, aj.formation(dataset, threshold=n.f(0.5))


def of_corpora(n):
    data = aj.load_tokens(
        "fables",
        seq_len=n.i(8),
        vocab_size=n.i(20),
        num_sequences=n.i(4),
        seed=n.i(1),
        num_documents=n.i(30),
        default_vocab_size=n.i(30),
    )
    return data.describe(), data.tokens


def update(optimizer):
    return optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))[0]


def of_sizes(n):
    sizes = {"vocab_size": n.i(V), "seq_len": n.i(T), "num_layers": n.i(L)}
    return (
        aj.init_params(jax.random.key(0), **sizes, scale=n.f(0.5)),
        aj.corpus_statistics(TOKENS, n.i(V)),
        aj.effective_statistics(TOKENS, depth=n.i(1), vocab_size=n.i(V)),
        aj.is_linear("sgd"),
        update(aj.make_optimizer("sgd", n.f(0.5))),
    )


def of_llm(n):
    """What needs no language model."""
    rng = np.random.default_rng(0)
    A = rng.normal(size=(2, 4, 3)).astype(np.float32)
    counts = np.array([4, 2, 3, 1])
    streams = llm.Streams(*[A] * 3)
    matrices = {"uniform": {"value": rng.normal(size=(4, 4)).astype(np.float32)}}
    draws = {"num_shuffles": n.i(2), "seed": n.i(1)}
    dataset = llm.compare_model(
        streams,
        matrices,
        counts,
        layers=n.list([1, 2]),
        centerings=["feature"],
        num_bins=n.i(1),
        **draws,
    )
    interval = llm.bootstrap_similarity(
        A,
        DATA,
        n.list([0, 1, 2, 3]),
        num_groups=n.i(2),
        num_replicates=n.i(2),
        level=n.f(0.5),
        seed=n.i(1),
    )
    theory = llm.theory_of_tokens(DATA, n.i(3), min_count=n.i(1))
    config = llm.PretrainConfig(vocab_size=n.i(96), learning_rate=n.f(0.5), steps=n.i(2))
    json.dumps(vars(config))
    return (
        dataset,
        interval,
        theory.ids,
        config,
        llm.frequency_bins(counts, n.i(2)),
        llm.permutation_null(A[0], matrices["uniform"]["value"], **draws),
    )


def of_files(n):
    """Token files and the page, by their bytes; a figure by the labels that it shows."""
    dataset = aj.track(DATA, learning_rate=0.5, steps=4, num_layers=1, k=2)
    figure = aj.plot_context_graph(dataset, "w1", k=n.i(2), scoring="raw")
    labels = [text.get_text() for text in figure.axes[0].texts]
    with tempfile.TemporaryDirectory() as folder:
        options = {"seq_len": n.i(8), "vocab_size": n.i(20), "seed": n.i(1)}
        options |= {"num_documents": n.i(30), "default_vocab_size": n.i(30)}
        aj.write_tokens("fables", f"{folder}/tokens", **options)
        file = aj.open_tokens(f"{folder}/tokens", num_sequences=n.i(5))
        tokens = file.read(0, 5)
        aj.write_explorer(dataset, f"{folder}/page.html", max_steps=n.i(2))
        page = Path(f"{folder}/page.html").read_bytes()
    return labels, tokens, list(page)


CASES = {name[3:]: case for name, case in list(globals().items()) if name.startswith("of_")}


@pytest.fixture(scope="module")
def expected():
    found = {}
    return lambda name: found[name] if name in found else found.setdefault(name, plain(name))


def plain(name):
    return CASES[name](PYTHON)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_numbers_of_any_library_are_those_of_python(name, kind, expected):
    assert_same(CASES[name](KINDS[kind]), expected(name))


def assert_same(actual, expected):
    if isinstance(expected, xr.Dataset):
        xr.testing.assert_identical(actual, expected)
        json.dumps(results.decode(actual.attrs))
    elif isinstance(expected, tuple | list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, dict):
        assert list(actual) == list(expected)
        assert_same(list(actual.values()), list(expected.values()))
    else:
        for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_any_library_ask_a_language_model_alike(kind):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import tiny_models as tiny

    model = llm.LanguageModel(
        name="tiny",
        revision=None,
        family="gpt_neox",
        num_layers=tiny.LAYERS,
        num_heads=tiny.HEADS,
        width=tiny.D,
        vocab_size=tiny.V,
        tokenizer=None,
        file_hashes={},
        module=tiny.random_model("neox"),
    )

    def asked(n):
        options = {"layers": n.list([3, 1]), "batch_size": n.i(2)}
        ids = n.list([0, 1, 2, 3])
        streams = llm.single_token_streams(model, ids, **options)
        occurrences = llm.occurrence_streams(
            model, TOKENS, np.ones(TOKENS.shape, bool), ids, **options
        )
        E = np.asarray(streams.before[0])
        return streams, occurrences, llm.query_key_factors(model, n.i(1), E, head=n.i(2))

    assert_same(asked(KINDS[kind]), asked(PYTHON))


class Bad(Numbers):
    """Python's numbers, but for one, which is no number or one that nothing can hold."""

    def __init__(self, which: int):
        super().__init__(self.integer, self.number, self.listed)
        self.which, self.count = which, 0

    def chosen(self, value, bad):
        self.count += 1
        return bad[self.which % len(bad)] if self.count == self.which + 1 else value

    def integer(self, value):
        return self.chosen(value, [10**20, True, "1", 2.0, -(10**30)])

    def number(self, value):
        return self.chosen(value, [np.nan, True, "1", -np.inf, np.ones(2), 1j])

    def listed(self, values):
        changed = self.integer if isinstance(values[0], int) else self.number
        return [changed(values[0]), *values[1:]]


@pytest.mark.parametrize("name", CASES)
def test_what_is_no_number_or_too_large_is_refused_before_anything_is_built(name, expected):
    expected(name)  # compiles what stands before the function in question
    which = 0
    while True:
        bad, message = Bad(which), None
        try:
            CASES[name](bad)
        except (aj.InputError, aj.InputTypeError) as error:
            message = str(error)
        if bad.count <= which:
            break
        assert message is not None, f"number {which}"
        assert "\n" not in message
        which += 1

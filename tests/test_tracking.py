"""Associations over training, against loops over the definitions and weights trained apart."""

import dataclasses
import re
import signal

import jax
import numpy as np
import optax
import pytest
import xarray as xr
from conftest import count_by_loops, random_mask, random_params, random_tokens, token_data

import assocjax as aj
from assocjax.analysis import scorings
from assocjax.analysis.formations import precision
from assocjax.analysis.scorings import LAYERED, MATRICES, SCORINGS
from assocjax.corpora import fables
from assocjax.experiments import tracking
from assocjax.experiments.record import record_run
from assocjax.figures import plot_context_graph, plot_overlap, plot_precision

N, T, V, L, K = 6, 5, 9, 2, 4


# The definitions, entry by entry


def score_by_loops(M, r, s, scoring, per_occurrence=False):
    n, out = len(M), np.zeros_like(M)
    for i in range(n):
        for j in range(n):
            if scoring == "raw":
                out[i, j] = M[i, j]
            elif scoring == "independence":
                out[i, j] = M[i, j] - r[i] * sum(M[:, j]) - s[j] * sum(M[i]) + r[i] * s[j] * M.sum()
            else:
                divide = [x or np.inf for x in r] if per_occurrence else np.ones(n)
                column = [M[a, j] / divide[a] for a in range(n)]
                sd = np.sqrt(np.mean([(x - np.mean(column)) ** 2 for x in column]))
                out[i, j] = (column[i] - np.mean(column)) / sd if sd > 0 else 0
    return out


def matrices_by_loops(W, value, output, frequencies, scoring):
    """matrix -> what its rows and its columns are read from; as arrays whose rows are read."""
    p_x, p_y, c = (np.asarray(f) for f in frequencies)

    def both(M, r, s, per_occurrence=False):
        rows = score_by_loops(M, r, s, scoring, per_occurrence)
        return rows, score_by_loops(M.T, s, r, scoring, per_occurrence)

    bigram, V_l = both(output, p_x, p_y), both(value, c, p_x)
    columns = bigram[0].T
    if scoring == "z-score":
        columns = [x / (np.sqrt(x @ x) or 1) for x in columns]
    alike = np.array([[x @ y for y in columns] for x in columns])
    composed = V_l[0] @ bigram[0]
    return {
        "bigram": bigram,
        "interchangeability": (alike,),
        "value": V_l,
        "composed": (composed, composed.T),
        "query_key": both(W, p_x, c, per_occurrence=True),
    }


def listed_by_loops(W, value, output, frequencies, counts):
    """matrix -> which tokens its lists may hold, by the rule of the module."""
    p_x, p_y, _ = (np.asarray(f) for f in frequencies)
    beyond = score_by_loops(output, p_x, p_y, "independence")
    n = range(len(output))
    above = np.array([[output[i, j] > 0 or beyond[i, j] > 1e-13 for j in n] for i in n])
    occurs = {name: of > 0 for name, of in counts.items()}
    listed = {name: occurs[name] for name in MATRICES} | {
        "bigram": above & occurs["bigram"],
        "value": (value > 0) & occurs["value"],
        "query_key": (W > 0) & occurs["query_key"],
    }
    return {name: (of, of.T)[: 1 + (name != "interchangeability")] for name, of in listed.items()}


def ranks(row, own):
    return np.ptp(np.delete(row, own)) > 1e-13  # the rest of nothing, of entries of 0.01 and more


def list_by_loops(row, listed, own, k):
    found = [j for j in range(len(row)) if j != own and listed[j] and row[j] > 1e-13]
    return sorted(found, key=lambda j: (-row[j], j))[:k] if ranks(row, own) else []


@pytest.fixture
def case(x64):
    """Random weights, one layer of which has a row of zeros, and the theory of a text."""
    tokens, mask = random_tokens(3, N, T, V - 1), random_mask(3, N, T)  # one token never occurs
    statistics = aj.corpus_statistics(tokens, V, mask)
    params = random_params(1, V=V, T=T, L=L)
    params = params.replace(
        value=params.value.at[1, 2].set(0.0), query_key=params.query_key.at[0].set(0.0)
    )
    return params, statistics, count_by_loops(tokens, mask, V)


def of_layer(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


@pytest.mark.parametrize("scoring", SCORINGS)
def test_readings_against_loops(case, scoring):
    params, statistics, counts = case
    frequencies, support = scorings.Frequencies.of(statistics), support_of(counts)
    theory = scorings.theory_weights(statistics)
    options = {"scoring": scoring, "k": K}
    lists = scorings.theory_lists(theory, frequencies, support, **options)
    readings = scorings.read_weights(params, theory, lists, frequencies, support, **options)
    lists, readings = jax.tree.map(np.asarray, (lists, readings))
    expected = matrices_by_loops(
        *map(np.asarray, (statistics.query_key, statistics.value, statistics.bigram)),
        frequencies,
        scoring,
    )
    theirs_listed = listed_by_loops(
        *map(np.asarray, (statistics.query_key, statistics.value, statistics.bigram)),
        frequencies,
        counts,
    )
    compared = short = 0
    for layer in range(L):
        W, value = np.asarray(params.query_key[layer]), np.asarray(params.value[layer])
        found = matrices_by_loops(W, value, np.asarray(params.output), frequencies, scoring)
        listed = listed_by_loops(W, value, np.asarray(params.output), frequencies, counts)
        for name, sides in found.items():
            reading = of_layer(readings[name], layer) if name in LAYERED else readings[name]
            for side, matrix in enumerate(sides):
                if name != "interchangeability":
                    here, known = of_layer(reading, side), of_layer(lists[name], side)
                else:
                    here, known = reading, lists[name]
                for token in range(V):
                    mine = list_by_loops(matrix[token], listed[name][side][token], token, K)
                    row = expected[name][side][token]
                    theirs = list_by_loops(row, theirs_listed[name][side][token], token, K)
                    assert_listed(of_token(here.lists, token), matrix[token], mine)
                    assert here.lists.ids[token, : len(mine)].tolist() == mine
                    # Of tokens that are alike in the text rounding decides which comes first.
                    theirs = assert_listed(of_token(known, token), row, theirs)
                    overlap, cosine = here.overlap[token], here.cosine[token]
                    if not ranks(matrix[token], token) or not ranks(row, token):
                        assert np.isnan(overlap)
                        assert np.isnan(cosine)
                        continue
                    product = np.linalg.norm(row) * np.linalg.norm(matrix[token])
                    assert cosine == pytest.approx(row @ matrix[token] / product, abs=1e-10)
                    if not theirs:
                        assert np.isnan(overlap)
                        continue
                    compared += 1
                    short += len(theirs) < K
                    assert overlap == pytest.approx(len(set(mine) & set(theirs)) / len(theirs))
    assert compared > 70
    assert 0 < short < compared


def support_of(counts):
    return scorings.support_of(counts, [f"w{i}" for i in range(V)])


def of_token(lists, token):
    return jax.tree.map(lambda leaf: leaf[token], lists)


def assert_listed(lists, row, expected):
    """The list has as many entries as expected, of their scores; returns the ids."""
    end = len(expected)
    # Sums of tens of float64 numbers of order one, or ten in z-scores.
    np.testing.assert_allclose(lists.scores[:end], row[expected], atol=1e-12)
    assert np.isnan(lists.scores[end:]).all()
    ids = lists.ids[:end].tolist()
    np.testing.assert_allclose(lists.scores[:end], row[ids], atol=1e-12)
    return ids


def test_theory_lists_are_those_of_the_statistics(case):
    _, statistics, counts = case
    frequencies, support = scorings.Frequencies.of(statistics), support_of(counts)
    theory = scorings.theory_weights(statistics)
    lists = scorings.theory_lists(theory, frequencies, support, scoring="raw", k=3)
    Phi = scorings.context_lists(statistics.context, frequencies, support, scoring="raw", k=3)
    lists["context"] = Phi
    words = tuple(f"w{i}" for i in range(V))
    for name in ("bigram", "value", "query_key", "context"):
        matrix = np.asarray(getattr(statistics, name))
        for token in np.flatnonzero(counts[name].any(axis=1)):
            rows = of_layer(of_layer(lists[name], 0), token)
            best = aj.top_associations(
                matrix, words, words[token], 3, occurrences=counts[name][token]
            )
            np.testing.assert_allclose(rows.scores, scores_of(best, 3), atol=1e-15)


def scores_of(associations, k):
    """As in a list of length k."""
    return [a.score for a in associations] + [np.nan] * (k - len(associations))


@pytest.mark.parametrize("corpus", ["fables", "kjv", "tinystories_sample"])
def test_lists_hold_what_occurs_in_the_text(corpus, request):
    """Every list of theory and weights, for all scorings, against a plain count of the text."""
    source = corpus
    if corpus != "fables":
        source = request.getfixturevalue("data_dir") / f"{corpus}.txt"
    text = aj.load_tokens(source, seq_len=16, num_sequences=64, num_documents=500, vocab_size=150)
    counts = count_by_loops(text.tokens, text.mask, 150)
    unknown = text.vocabulary.index("<unk>")
    dataset = tracking.track(
        text, learning_rate=1.0, steps=2, num_layers=1, record_at=[0, 2], init_scale=1e-5
    )
    listed = 0
    for of in (*MATRICES, *(f"{name}_theory" for name in (*MATRICES, "context"))):
        names = ("id", "score", "count")
        ids, scores, found = (dataset[f"{of}_{what}"] for what in names)
        kept = np.isfinite(scores.values)
        expected = counts[of.removesuffix("_theory")]
        for side in ("row", "column") if "side" in ids.dims else (None,):
            at, pairs = {} if side is None else {"side": side}, expected
            pairs = pairs.T if side == "column" else pairs
            here = pairs[np.arange(150)[:, None], ids.sel(at).transpose(..., "token", "rank")]
            kept = np.isfinite(scores.sel(at).values)
            np.testing.assert_array_equal(found.sel(at), np.where(kept, here, 0))
            assert (here[kept] > 0).all()
            assert (scores.sel(at).values[kept] > 0).all()
            assert (ids.sel(at).values[kept] != unknown).all()
            # A list ends where it has ended, and those of the common tokens are full.
            assert (kept[..., :-1] >= kept[..., 1:]).all()
            listed += kept.sum()
    assert listed > 10_000


def test_independence_of_a_bigram_is_what_pairs_have_beyond_chance(case):
    _, statistics, _ = case
    p_x, p_y = statistics.input_frequency, statistics.target_frequency
    joint = statistics.bigram + np.outer(p_x, np.ones(V) / V)
    found = scorings._score(statistics.bigram, p_x, p_y, "independence")
    np.testing.assert_allclose(found, joint - np.outer(p_x, p_y), atol=1e-15)


# A run


@pytest.fixture(scope="module")
def data():
    return aj.load_tokens("fables", seq_len=8, num_sequences=8, num_documents=60, vocab_size=40)


RUN = {"learning_rate": 0.7, "steps": 6, "num_layers": 2, "k": 5, "init_scale": 0.0}
TRUTH = {
    "bigram": {"there": {"mia", "was"}, "nosuch": {"the"}},
    "context": {"the": {"and", "to", "by"}},
}


def momentum(learning_rate):
    return optax.sgd(learning_rate, momentum=0.5)


momentum.name = "sgd with momentum 0.5"


@pytest.fixture(scope="module")
def tracked(data):
    options = {"init_scale": 1e-3, "optimizer": momentum, "record_at": [5, 0, 2], "truth": TRUTH}
    return tracking.track(data, **RUN | options)


def test_track_records_what_a_run_has_learned(data, tracked):
    init_key, _ = jax.random.split(jax.random.key(0))
    start = aj.init_params(init_key, vocab_size=40, seq_len=8, num_layers=2, scale=1e-3)
    with jax.numpy_dtype_promotion("standard"):
        _, (losses, weights) = aj.train(
            start,
            lambda params, step: aj.exact_loss_and_gradient(params, data.tokens, data.mask),
            momentum(0.7),
            6,
            observe=lambda snapshot: (snapshot.loss, snapshot.params),
        )
    assert tracked["step"].values.tolist() == [0, 2, 5]
    assert tracked["bigram_id"].dims == ("step", "scoring", "side", "token", "rank")
    assert tracked["value_overlap"].dims == ("step", "layer", "scoring", "side", "token")
    assert tracked["bigram_id"].dtype == np.uint16
    for step in (0, 2, 5):
        at = tracked.sel(step=step, scoring="raw", side="row")
        # float32, and another order of compilation
        assert float(at["loss"]) == pytest.approx(float(losses[step]), rel=1e-5)
        output, value = weights.output[step], weights.value[step, 1]
        counts = count_by_loops(data.tokens, data.mask, 40)
        for name, matrix in (
            ("bigram", output),
            ("value", value),
            ("composed", value @ output),
            ("query_key", weights.query_key[step, 1]),
        ):
            lists = at.sel(layer=2) if name in LAYERED else at
            for word in ("and", "the", "."):
                row = counts[name][data.token_id(word)].copy()
                row[data.token_id("<unk>")] = 0
                best = aj.top_associations(matrix, data.vocabulary, word, 5, occurrences=row)
                scores = lists[f"{name}_score"].sel(token=word)
                expected = scores_of(best, 5)
                np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-6)
        found = at["bigram_precision"]
        truth = {word: of for word, of in TRUTH["bigram"].items() if word in data.vocabulary}
        for of in counts.values():
            of[:, data.token_id("<unk>")] = of[data.token_id("<unk>")] = 0
        output = np.where(counts["bigram"] > 0, output, 0)
        assert float(found) == aj.precision_at_k(output, data.vocabulary, truth, 5)
        before = np.where(counts["context"] > 0, (value @ weights.output[step]).T, 0)
        context = aj.precision_at_k(before, data.vocabulary, TRUTH["context"], 5)
        assert float(at["context_precision"].sel(layer=2)) == pytest.approx(context)
    assert "incomplete" not in tracked.attrs
    assert tracked.attrs["corpus_sha256"] == data.sha256


def test_a_zero_start_has_the_lists_of_the_theory_as_soon_as_it_has_any(data):
    dataset = tracking.track(data, **RUN | {"learning_rate": 0.05}, record_at=range(5))
    overlap = {name: tracking_overlap(dataset, name) for name in MATRICES}
    # W_O moves in the first step, V in the second and W in the third: before, they rank nothing.
    first = {"bigram": 1, "interchangeability": 1, "value": 2, "composed": 2, "query_key": 3}
    for name, step in first.items():
        assert np.isnan(overlap[name][:step]).all()
        # The leading term of small steps; of a text so short many entries are alike, and
        # rounding decides which of them are in a list.
        assert (overlap[name][step:] > 0.5).all()
        cosines = dataset[f"{name}_cosine"].sel(scoring="raw", step=slice(step, None))
        assert float(cosines.min()) > 0.999
    rows = {(row["scoring"], row["matrix"], row["layer"]): row for row in aj.formation(dataset)}
    assert len(rows) == 3 * (2 + 3 * 2)
    for name, step in first.items():
        row = rows["raw", name, 1 if name in LAYERED else None]
        assert row["formed"] == step
        assert row["end"] == overlap[name][-1]


def tracking_overlap(dataset, name):
    at = dataset.sel(scoring="raw", layer=1)
    return aj.mean_overlap(at, name).values


def test_an_interrupted_run_goes_on_and_gives_the_same(data, tracked, tmp_path):
    options = {"init_scale": 1e-3, "optimizer": momentum, "record_at": [0, 2, 5], "truth": TRUTH}

    def interrupt(done, total):
        assert total == 7
        if done == 5:
            raise KeyboardInterrupt

    folder = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt, match="3 of 7 steps are saved"):
        tracking.track(data, **RUN | options, checkpoint=folder, progress=interrupt)
    with pytest.raises(aj.InputError, match=r"config\.seed is 0, here it is 1"):
        tracking.track(data, **RUN | options, checkpoint=folder, seed=1)
    steps = []
    again = tracking.track(
        data, **RUN | options, checkpoint=folder, progress=lambda done, _: steps.append(done)
    )
    assert steps == [4, 5, 6, 7]
    assert again.identical(tracked)
    assert {path.name for path in folder.iterdir()} == {".assocjax.json", "track.nc"}
    same = tracking.track(data, **RUN | options, checkpoint=folder, progress=interrupt)
    assert same.identical(tracked)


def test_the_first_interrupt_waits_for_a_step_and_saves_it(data, tracked, tmp_path):
    options = {"init_scale": 1e-3, "optimizer": momentum, "record_at": [0, 2, 5], "truth": TRUTH}

    def interrupt(done, total):
        if done == 4:  # after step 3, which is not recorded
            signal.raise_signal(signal.SIGINT)

    folder = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt, match="5 of 7 steps are saved"):
        tracking.track(data, **RUN | options, checkpoint=folder, progress=interrupt)
    steps = []
    again = tracking.track(
        data, **RUN | options, checkpoint=folder, progress=lambda done, _: steps.append(done)
    )
    assert steps == [6, 7]
    assert again.identical(tracked)


@pytest.mark.parametrize("optimizer", ["sgd", momentum])
def test_a_recorded_run_is_the_run_of_a_sweep(data, optimizer):
    config = aj.RunConfig(steps=3, num_layers=2, theories=(), optimizer=optimizer, batch_size=3)
    found = record_run(
        config,
        aj.Corpus.of(data, config),
        0.5,
        1,
        1e-2,
        record_at=[0, 3],
        read=lambda step, params: {"output": np.asarray(params["run"].output)},
    )
    swept = aj.sweep(
        data,
        learning_rates=[0.5],
        seeds=[1],
        init_scales=[1e-2],
        steps=3,
        num_layers=2,
        optimizer=optimizer,
        batch_size=3,
    )
    np.testing.assert_allclose(found.loss, swept["loss"].values.ravel(), rtol=1e-6)
    assert found.diverged_step is None
    np.testing.assert_array_equal(found.records["output"][1], found.params["run"].output)
    assert not np.array_equal(*found.records["output"])


def test_a_run_that_diverges_ends_there(data):
    dataset = tracking.track(data, **RUN | {"learning_rate": 1e30, "record_at": [0, 1, 4]})
    assert dataset["step"].values[0] == 0
    assert dataset.sizes["step"] < 3
    assert "diverged at step" in dataset.attrs["incomplete"]


def test_results_survive_a_file(tracked, tmp_path):
    aj.save(tracked, tmp_path / "track.nc")
    assert aj.load(tmp_path / "track.nc").identical(tracked)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be positive"),
        ({"steps": -1}, ValueError, "steps must be at least 0"),
        ({"num_layers": 0}, ValueError, "num_layers"),
        ({"k": 0}, ValueError, "k must be at least 1"),
        ({"record_at": [7]}, ValueError, "every entry of record_at must be at most 6; got 7"),
        ({"record_at": []}, ValueError, "record_at must not be empty"),
        ({"init_scale": -1.0}, ValueError, "init_scale"),
        ({"batch_size": 9}, ValueError, "batch_size must be at most .* 8"),
        ({"optimizer": "nosuch"}, ValueError, "optimizer"),
        ({"seed": 2**31}, ValueError, "seed must be at most 2147483647"),
        ({"truth": {"bigrams": {}}}, ValueError, "key of truth must be one of 'bigram'"),
        ({"truth": {"bigram": {"nosuch": {"the"}}}}, ValueError, r"truth\['bigram'\] has no query"),
    ],
)
def test_bad_arguments(data, options, error, message):
    with pytest.raises(error, match=message):
        tracking.track(data, **RUN | options)


def test_data_must_be_of_load_tokens():
    with pytest.raises(TypeError, match="data must be TokenData"):
        tracking.track("fables", **RUN)


@pytest.mark.parametrize(("steps", "few"), [(0, 1), (1, 2), (5, 6), (64, 20), (100_000, 25)])
def test_default_steps_to_record(steps, few):
    record = tracking.steps_to_record(None, steps)
    assert record[0] == 0
    assert record[-1] == steps
    assert len(record) == len(set(record)) == few


def test_minibatches_are_those_of_the_library(data):
    dataset = tracking.track(data, **RUN | {"steps": 1, "record_at": [1], "batch_size": 3})
    _, batch_key = jax.random.split(jax.random.key(0))
    rows = aj.batch_indices(batch_key, 0, 8, 3)
    batch = token_data(data.tokens[rows], 40, data.mask[rows])
    # From zero the first step makes W_O the bigram matrix of its batch.
    statistics = aj.corpus_statistics(batch.tokens, 40, batch.mask)
    best = aj.top_associations(statistics.bigram, data.vocabulary, ".", 5)
    found = dataset["bigram_score"].sel(scoring="raw", side="row", step=1, token=".")
    np.testing.assert_allclose(found, 0.7 * np.array(scores_of(best, 5)), rtol=1e-4)


# Figures


def test_figures_draw_the_dataset(tracked, tmp_path):
    figure = plot_overlap(tracked)
    line = figure.axes[0].lines[0]
    mean = tracked["bigram_overlap"].sel(scoring=SCORINGS[0], side="row").mean("token")
    np.testing.assert_allclose(line.get_ydata(), mean, rtol=1e-6)
    figure = plot_precision(tracked)
    line = figure.axes[0].lines[0]
    np.testing.assert_allclose(
        line.get_ydata(), tracked["bigram_precision"].sel(scoring=SCORINGS[0])
    )
    assert {path.name for path in aj.save_track(tracked, tmp_path)} == {
        f"{name}.{kind}" for name in ("overlap", "precision") for kind in ("png", "pdf")
    }


def test_context_graph_names_what_stands_before(data, tracked):
    figure = plot_context_graph(tracked, "the", k=4)
    ids = tracked["context_theory_id"].sel(scoring="z-score", side="row", token="the")[:4]
    words = set(tracked["token"].values[ids.values.astype(int)])
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert words | {"the"} <= texts
    # The same from the matrix itself.
    statistics = aj.corpus_statistics(data)
    figure = plot_context_graph(aj.statistics_dataset(data, statistics), "the", k=4)
    assert {text.get_text() for text in figure.axes[0].texts} == {
        re.sub(r" \(\d+\)", "", text)  # the number of occurrences
        for text in texts
    }
    absent = str(tracked["token"].values[tracked["target_frequency"].values == 0][0])
    for arguments, message in (
        ({"token": "nosuch"}, "'nosuch' is not among"),
        ({"token": absent}, "has no context: in these sequences, nothing"),
        ({"token": "the", "scoring": "best"}, "scoring must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            plot_context_graph(tracked, **arguments)


def test_a_context_graph_has_as_many_tokens_as_the_list(tracked):
    scores = tracked["context_theory_score"].sel(scoring="z-score", side="row")
    length = scores.notnull().sum("rank")
    token = str(tracked["token"][((length > 0) & (length < RUN["k"])).argmax("token")].item())
    figure = plot_context_graph(tracked, token, k=RUN["k"])
    # Of each its name and its score, and the token's own name.
    assert len(figure.axes[0].texts) == 2 * int(length.sel(token=token)) + 1


def test_what_is_not_listed_is_not_found():
    """Of two associates one stands where the list has ended, with an id that means nothing."""
    dims = ("token", "rank")
    dataset = xr.Dataset(
        {"bigram_id": (dims, [[2, 1, 1]]), "bigram_score": (dims, [[0.5, np.nan, np.nan]])},
        {"rank": [1, 2, 3]},
    )
    found = precision(dataset, "bigram", "", np.array([0]), np.array([[False, True, True]]))
    assert float(found) == 1 / 2


def test_precision_needs_a_truth(tracked):
    kinds = [name for name in tracked if "precision" in str(name)]
    with pytest.raises(ValueError, match="truth"):
        plot_precision(tracked.drop_vars(kinds))


# What is planted in the fables


def test_planted_associations_are_in_the_theory_of_weights_alone():
    """The z-scores of theory matrices, without the text, find what the fables plant."""
    fable = aj.load_tokens("fables", seq_len=32, num_sequences=2000)
    statistics = aj.corpus_statistics(fable)
    occurrences = aj.count_occurrences(fable)
    counts = {name: occurrences.rows(name) for name in (*MATRICES, "context")}
    support, scored = scorings.support_of(counts, fable.vocabulary), {}
    for scoring in ("raw", "z-score"):
        scores = scorings.theory_scores(statistics, support, scoring=scoring)
        for name in MATRICES:
            truth = fables.ground_truth()[name]
            found = aj.precision_at_k(scores[name], fable.vocabulary, truth, 10)
            scored[scoring, name] = found
    # As in test_associations: nothing else competes.
    assert all(scored["z-score", name] >= 0.9 for name in MATRICES), scored
    assert scored["raw", "composed"] <= 0.1
    assert scored["raw", "value"] <= 0.1


def test_readings_do_not_know_the_layers_apart(case):
    """Layers that are alike are read alike: nothing mixes them."""
    params, statistics, counts = case
    same = dataclasses.replace(params, value=params.value[:1].repeat(2, axis=0))
    frequencies, support = scorings.Frequencies.of(statistics), support_of(counts)
    theory, options = scorings.theory_weights(statistics), {"scoring": "raw", "k": K}
    lists = scorings.theory_lists(theory, frequencies, support, **options)
    readings = scorings.read_weights(same, theory, lists, frequencies, support, **options)
    reading = readings["value"]
    for leaf in jax.tree.leaves(reading):
        np.testing.assert_array_equal(leaf[0], leaf[1])

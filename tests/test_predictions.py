"""When associations form, as statistics twins predict and real runs measure; and removals."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_described
from matplotlib.collections import LineCollection
from scipy.stats import spearmanr

import assocjax as aj
from assocjax import cli
from assocjax.analysis.strengths import (
    Associations,
    Probes,
    formed_at,
    model_strengths,
    strong_associations,
    sum_positions,
)
from assocjax.experiments.prediction import GROUPS
from assocjax.models.decoder import DecoderModel, neox
from assocjax.models.model import Sizes
from assocjax.statistics.contexts import without_bigrams
from assocjax.theories.twin_rows import twin_rows

V, T, N = 7, 6, 12
MODEL = DecoderModel("neox", neox(V, T, 1, 8, 1))


def corpus(seed=0):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, V, (N, T + 1)).astype(np.int32)
    tokens[:, 3] = (tokens[:, 2] + 1) % V  # bigrams that are more frequent than chance
    return tokens


def positions(tokens):
    """Input, target and shares of the context of every position, one by one."""
    for sequence in tokens:
        for t in range(T):
            share = np.bincount(sequence[: t + 1], minlength=V) / (t + 1)
            yield sequence[t], sequence[t + 1], share


def strengths(tokens, probabilities, kind, a, b):
    """By the definition; probabilities are [N T, V]."""
    with_a, weight = 0.0, 0.0
    for (x, _, share), p in zip(positions(tokens), probabilities, strict=True):
        w = float(x == a) if kind == "bigram" else share[a]
        with_a += w * p[b]
        weight += w
    return np.log(with_a / weight / probabilities[:, b].mean())


def test_strengths_of_a_text():
    tokens = corpus()
    statistics = aj.context_statistics(tokens, V)
    found = strong_associations(statistics, bigrams=(2, 0.1), contexts=(0.1, 0.05), leave_out=(3,))
    assert 3 not in found.first
    assert 3 not in found.second
    assert set(found.kind) == {"bigram", "context"}
    of_text = np.eye(V)[[y for _, y, _ in positions(tokens)]]
    listed = {}
    for kind, a, b, n, base, strength in zip(*found, strict=True):
        ws = [(x == a if kind == "bigram" else s[a]) * (y == b) for x, y, s in positions(tokens)]
        assert n == pytest.approx(sum(ws))
        assert base == pytest.approx(of_text[:, b].mean())
        assert strength == pytest.approx(strengths(tokens, of_text, kind, a, b))
        listed.setdefault(kind, []).append(n * strength)
        if kind == "context":  # no bigram of at least the least strength
            with np.errstate(divide="ignore"):
                assert not strengths(tokens, of_text, "bigram", a, b) > 0.05
    assert all(gains == sorted(gains, reverse=True) for gains in listed.values())
    few = strong_associations(statistics, most=2, bigrams=(2, 0.1), contexts=(0.1, 0.05))
    assert [sum(few.kind == kind) for kind in ("bigram", "context")] == [2, 2]
    assert not len(strong_associations(statistics, bigrams=(99, 1), contexts=(99, 1)).kind)


ASSOCIATIONS = Associations(
    np.array(["bigram", "bigram", "context", "context"], object),
    *(np.array([[2, 5, 2, 4], [3, 3, 1, 6]])),
    *np.full((3, 4), np.nan),
)


def test_strengths_in_a_model(x64):
    tokens = corpus()
    params = MODEL.init(jax.random.key(1), Sizes(V, T, 1), 3.0)
    probes = Probes.of(ASSOCIATIONS, V)
    mask = np.ones((N, T), bool)
    found = model_strengths(MODEL, params, jnp.asarray(tokens), mask, probes, at_once=5)
    p = np.asarray(jax.nn.softmax(MODEL.logits(params, jnp.asarray(tokens[:, :-1])))).reshape(-1, V)
    expected = [strengths(tokens, p, *of) for of in zip(*ASSOCIATIONS[:3], strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    assert np.abs(expected).max() > 0.01


@pytest.mark.parametrize("order", [0, 2, 3, 4, 5])
def test_rows_of_twins(order, x64):
    """Shares sum to 1 and have the mean of the statistics; probabilities are those of the loss."""
    tokens, rows = corpus(), 4000
    params = MODEL.init(jax.random.key(1), Sizes(V, T, 1), 3.0)
    prepared = aj.prepare_twin(aj.context_statistics(tokens, V))
    every, key = jnp.arange(V), jax.random.key(2)
    decoder = MODEL.decoder(params)
    of = twin_rows(decoder, params, prepared, key, every, every, order=order, rows=rows)
    np.testing.assert_allclose(np.sum(of.share, axis=1), 1)
    np.testing.assert_allclose(np.sum(of.probabilities, axis=1), 1)
    assert float(jnp.sum(of.weight)) == pytest.approx(1)
    mean = np.zeros((V, V))
    np.add.at(mean, np.asarray(of.inputs), np.asarray(of.share * of.weight[:, None]))
    expected = np.zeros((V, V))
    for x, _, share in positions(tokens):
        expected[x] += share / (N * T)
    if order < 3:
        np.testing.assert_allclose(mean, expected, atol=1e-12)
    else:  # drawn contexts have less of x itself before it: others have nearly their share
        np.testing.assert_allclose(mean.sum(1), expected.sum(1), atol=0.025)
        others = ~np.eye(V, dtype=bool)
        assert np.corrcoef(mean[others], expected[others])[0, 1] > 0.9
    if order == 2:  # the loss weighs these rows by the frequencies of pairs
        loss = aj.twin_loss(decoder, params, prepared, order=2)
        logs = np.log(of.probabilities)
        direct = -np.mean([logs[x, y] for x, y, _ in positions(tokens)])
        assert float(loss) == pytest.approx(direct)


def test_sums_of_weighted_rows():
    probes = Probes.of(ASSOCIATIONS, V)
    rng = np.random.default_rng(0)
    x, share = rng.integers(0, V, 9), rng.random((9, 3))
    p, weight = rng.random((9, 3)), np.array([2.0] * 4 + [1.0] * 5)
    twice = np.concatenate([np.arange(9), np.arange(4)])
    found = sum_positions(probes, *map(jnp.asarray, (x, share, p, weight)))
    rows = (jnp.asarray(of[twice]) for of in (x, share, p, np.ones(9)))
    other = sum_positions(probes, *rows)
    for a, b in zip(found, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_formed_at():
    steps, in_text = np.array([0, 2, 8]), np.array([2.0, 2.0, 2.0, 2.0])
    strength = np.array([[0, 0.5, 2], [0, 0, 0.9], [1, 0, 2], [0, np.nan, 4]])
    found = formed_at(steps, strength, in_text)
    np.testing.assert_allclose(found[:3], [2 + 6 * 0.5 / 1.5, np.nan, 0])
    np.testing.assert_allclose(formed_at(steps, strength, in_text, 0.25)[:2], [2, 2 + 6 * 5 / 9])
    with pytest.raises(aj.InputError, match="fraction must be positive"):
        formed_at(steps, strength, in_text, 0)


@pytest.fixture(scope="module")
def predicted():
    data = aj.load_tokens("fables", vocab_size=24, seq_len=8, num_sequences=40)
    statistics = aj.context_statistics(data)
    chosen = strong_associations(statistics, most=8, bigrams=(5, 0.5), contexts=(1, 0.2))
    told = []
    found = aj.predict_formation(
        DecoderModel("neox", neox(1, 1, 1, 8, 1)),
        data,
        optimizer=optax.sgd(0.5),
        steps=[1, 4, 32],
        batch_size=8,
        num_twins=2,
        num_runs=2,
        associations=chosen,
        statistics=statistics,
        read_sequences=40,
        progress=lambda name, step: told.append((name, step)),
    )
    return data, chosen, found, told


def test_prediction(predicted):
    data, chosen, found, told = predicted
    assert told == [(name, step) for step in (0, 1, 4, 32) for name in GROUPS]
    assert found["step"].values.tolist() == [0, 1, 4, 32]
    assert found.attrs["corpus_sha256"] == data.sha256
    names = np.array(data.vocabulary, object)
    assert (found["first"].values == names[chosen.first]).all()
    np.testing.assert_array_equal(found["strength"], chosen.strength)
    for name in ("twin", "run", "shuffled", "other_run"):
        values = found[name].values
        assert values.shape == (2, len(chosen.kind), 4)
        assert np.isfinite(values).all()
        assert (values[0] != values[1]).any()  # their starts differ
    # Bigrams are learned, by runs and by twins, and not by those of shuffled rows.
    last = found.isel(step=-1, association=chosen.kind == "bigram")
    learned = {name: float(last[name].mean()) for name in ("run", "twin", "shuffled")}
    assert learned["run"] > 0.5
    assert learned["twin"] > 0.5
    assert learned["shuffled"] < 0.3 * learned["twin"]


def test_steps_and_scores(predicted):
    _, chosen, found, _ = predicted
    steps = aj.formation_steps(found, 0.3)
    assert_described(steps)
    single = [
        formed_at(found["step"].values, found["twin"].values[i], chosen.strength, 0.3)
        for i in range(2)
    ]
    mean = formed_at(found["step"].values, found["run"].mean("run_member"), chosen.strength, 0.3)
    np.testing.assert_allclose(steps["measured"], mean)
    formed = np.isfinite(single).all(0)
    np.testing.assert_allclose(steps["earliest"][formed], np.min(single, 0)[formed])
    np.testing.assert_allclose(steps["latest"][formed], np.max(single, 0)[formed])
    assert steps["latest"][~formed].isnull().all()
    rows = aj.prediction_scores(steps)
    assert len(rows) == 8
    (row,) = [row for row in rows if row["kind"] == "bigram" and row["source"] == "predicted"]
    measured, predicted = (
        steps[name].values[chosen.kind == "bigram"] for name in ("measured", "predicted")
    )
    known = np.isfinite(measured)
    assert row["associations"] == known.sum() > 3
    ranks = spearmanr(np.nan_to_num(predicted[known], nan=1e9), measured[known])[0]
    assert row["rank_correlation"] == pytest.approx(ranks)
    both = known & np.isfinite(predicted)
    assert row["formed"] == both.sum()
    assert row["median_ratio"] == pytest.approx(
        np.median(predicted[both] / np.maximum(measured[both], 1e-9))
    )
    figure = aj.plot_predictions(steps)
    assert [ax.get_title().split("\n")[0] for ax in figure.axes[:2]] == [
        "other real runs (ceiling)",
        "statistics twins",
    ]
    assert any(isinstance(of, LineCollection) for of in figure.axes[1].collections)
    with pytest.raises(aj.InputError, match="measured"):
        aj.prediction_scores(steps.drop_vars("measured"))


def test_statistics_without_bigrams():
    tokens = corpus()
    statistics = aj.context_statistics(tokens, V)
    pairs = [(int(tokens[0, 2]), int(tokens[0, 3])), (int(tokens[1, 0]), int(tokens[1, 1]))]
    edited = without_bigrams(statistics, pairs)
    kept = [(x, y, share) for x, y, share in positions(tokens) if (x, y) not in pairs]
    assert len(kept) < N * T
    counts, contexts = np.zeros((V, V), int), np.zeros((V, V))
    for x, y, share in kept:
        counts[x, y] += 1
        contexts[x] += share
    np.testing.assert_array_equal(edited.bigram.toarray(), counts)
    np.testing.assert_allclose(edited.token.toarray() / 2.0**edited.digits, contexts, atol=1e-12)
    assert edited.bigram.nnz == statistics.bigram.nnz  # so that programs are not compiled again
    # An input that only ever has one target: without it nothing is left of the input.
    only = np.array([[0, 1, 2, 0, 1, 2, 0]], np.int32)
    left = aj.prepare_twin(without_bigrams(aj.context_statistics(only, 3), [(0, 1)]))
    np.testing.assert_allclose(left.context[0], [1, 0, 0])
    assert np.isfinite(left.backoff).all()
    assert float(jnp.sum(left.frequency)) == pytest.approx(1)
    absent = next(zip(*np.nonzero(statistics.bigram.toarray() == 0), strict=True))
    for wrong, message in (
        ([absent], "never follows"),
        ([(V, 0)], "at most 6"),
        (pairs[:1], "never follows"),
    ):
        given = edited if wrong == pairs[:1] else statistics
        with pytest.raises(aj.InputError, match=message):
            without_bigrams(given, wrong)


def test_removals(x64):
    """Each against trainings on the edited text, one by one."""
    tokens = corpus()
    counts = aj.context_statistics(tokens, V).bigram.toarray()
    pairs = [
        tuple(map(int, np.unravel_index(i, counts.shape))) for i in np.argsort(-counts.ravel())
    ]
    pairs = pairs[:3]
    optimizer = optax.sgd(0.5)
    some = {"optimizer": optimizer, "steps": 4, "batch_size": 4, "vocab_size": V}
    found = aj.remove_bigrams(MODEL, tokens, pairs, read_sequences=N, seed=3, **some)
    assert found["predicted"].shape == found["measured"].shape == (1, 3, 3)
    np.testing.assert_array_equal(found["occurrences"], [counts[pair] for pair in pairs])
    assert_described(found)
    own = np.diagonal(found["measured"].values[0])
    assert (own < 0).all()
    assert (np.diagonal(found["predicted"].values[0]) < 0).all()

    of_start, of_run, _ = jax.random.split(jax.random.split(jax.random.key(3), 1)[0], 3)
    start = MODEL.init(of_start, Sizes(V, T, 1), 1.0)

    def train(pair):
        @jax.jit
        def update(params, tokens):
            def loss(params):
                x, y = tokens[:, :-1], tokens[:, 1:]
                logs = jax.nn.log_softmax(MODEL.logits(params, x))
                each = -jnp.take_along_axis(logs, y[..., None], -1)[..., 0]
                return jnp.mean(each, where=(x != pair[0]) | (y != pair[1]))

            return jax.tree.map(lambda w, g: w - 0.5 * g, params, jax.grad(loss)(params))

        params = start
        for step in range(4):
            rows = np.asarray(aj.batch_indices(of_run, step, N, 4))
            params = update(params, jnp.asarray(tokens[rows]))
        p = jax.nn.softmax(MODEL.logits(params, jnp.asarray(tokens[:, :-1])))
        p = np.asarray(p).reshape(-1, V)
        return np.array([strengths(tokens, p, "bigram", *pair) for pair in pairs])

    whole = train((-1, -1))
    for removed, pair in enumerate(pairs[:2]):
        expected = train(pair) - whole
        np.testing.assert_allclose(found["measured"][0, removed], expected, rtol=1e-5, atol=1e-7)
    scores = aj.removal_scores(found)
    of_predicted = np.diagonal(found["predicted"].values[0])
    assert scores["correlation"] == pytest.approx(np.corrcoef(of_predicted, own)[0, 1])
    assert abs(scores["measured_elsewhere"]) < abs(scores["measured"])
    for wrong, message in (([(0, 1, 2)], "pairs must be pairs of ids"), ([], "pairs")):
        with pytest.raises(aj.InputError, match=message):
            aj.remove_bigrams(MODEL, tokens, wrong, **some)


def test_the_command_predicts_removals(tmp_path, capsys, promote):
    arguments = ["predict", "--vocab-size", "24", "--seq-len", "8", "--num-sequences", "40"]
    arguments += ["--batch-size", "8", "--num-layers", "1", "--width", "8", "--num-heads", "1"]
    arguments += ["--steps", "2", "--num-runs", "1", "--out", str(tmp_path / "out")]
    cli.main([*arguments, "--without", '.:"', ',:"', "to:<unk>"])
    printed = " ".join(capsys.readouterr().out.split())
    dataset = aj.load(tmp_path / "out" / "removals.nc")
    assert dataset["removed"].values.tolist() == ['. "', ', "', "to <unk>"]
    scores = aj.removal_scores(dataset)
    assert f"have correlation {scores['correlation']:.2f}" in printed
    row = json.loads((tmp_path / "out" / "summary.json").read_text())["summary"][1]
    assert row["measured"] == float(dataset["measured"][0, 1, 1])
    assert row["predicted elsewhere"] == float(abs(dataset["predicted"][0, 1, [0, 2]]).max())
    with pytest.raises(SystemExit):
        cli.main([*arguments[:-1], str(tmp_path / "other"), "--without", "to:nosuch"])
    assert "'to:nosuch'" in capsys.readouterr().err

"""Predictions after single tokens, against loops over positions; and what a small run learns."""

import json
import re

import jax
import numpy as np
import pytest
from conftest import random_mask, random_tokens, token_data
from scipy.stats import spearmanr

import assocjax as aj
from assocjax import cli, llm
from assocjax.corpora import read_documents
from assocjax.llm import pretrain
from assocjax.llm.next_tokens import BIGRAM, OTHER, READINGS, UNIGRAM
from assocjax.llm.recipe import revisions
from assocjax.models.decoder import DecoderModel, neox
from assocjax.models.model import Sizes

N, T, V = 40, 5, 7
IDS = np.array([2, 0, 1, 3])


@pytest.fixture(scope="module")
def data():
    return token_data(random_tokens(0, N, T, V), V, random_mask(1, N, T))


@pytest.fixture(scope="module")
def random_model():
    model = DecoderModel("neox", neox(V, T, 1, width=16, num_heads=2))
    start = jax.jit(lambda key: model.init(key, Sizes(V, T, 1), scale=3.0))
    return model, jax.tree.map(np.asarray, start(jax.random.key(0)))


@pytest.fixture(scope="module")
def ngrams(data):
    return aj.count_ngrams(data, range(30))


def log_softmax(z):
    z = np.asarray(z, np.float64)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def bigram_model(model, params, log_p):
    """A decoder whose layers add nothing, and whose logits are `log_p` [V,V] after each token."""
    params = jax.tree.map(np.copy, params)
    for name in ("attention_output", "mlp_out"):
        params["blocks_0"][name][:] = 0
    E = params["embedding"]
    E = E - E.mean(1, keepdims=True)
    E = E / np.sqrt((E**2).mean(1, keepdims=True) + model.config.norm_eps)
    params["unembedding"] = np.linalg.lstsq(E, log_p, rcond=None)[0].astype(np.float32)
    return params


def test_predictions_are_sums_over_positions(data, random_model, monkeypatch):
    monkeypatch.setattr("assocjax.llm.next_tokens._BLOCK_ENTRIES", 3 * T * V)
    model, params = random_model
    read = range(30, N)  # not a multiple of the 3 sequences of a block
    found = llm.read_predictions(model, params, data, IDS, sequences=read)
    tokens, mask = data.tokens[30:], data.mask[30:]
    log_p = log_softmax(model.logits(params, tokens[:, :-1], mask))
    nll = np.take_along_axis(log_p, tokens[:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(found.loss, -nll[mask].mean(), rtol=1e-6)
    alone = log_softmax(model.logits(params, IDS[:, None]))[:, 0]
    for i, x in enumerate(IDS):
        here = log_p[(tokens[:, :-1] == x) & mask]
        assert found.counts[i] == len(here)
        expected = alone[i], np.log(np.exp(here).mean(0)), here.mean(0)
        np.testing.assert_allclose(found.log_p[:, i], expected, rtol=2e-5)


def test_agreement_is_that_of_definitions(data, random_model, ngrams):
    model, params = random_model
    predictions = llm.read_predictions(model, params, data, IDS, sequences=range(30, N))
    twin = np.random.default_rng(0).dirichlet(np.ones(V), IDS.size)
    found = llm.ngram_agreement(predictions, ngrams, IDS, others={"twin": twin}, num_bins=2)
    assert found["reference"].values.tolist() == [UNIGRAM, BIGRAM, OTHER, "twin"]
    # Tokens in the order of their counts; each has the bigrams of the next.
    order = np.argsort(-predictions.counts, kind="stable").tolist()
    next_of = {order[i]: order[i + 1] for i in range(3)} | {order[3]: order[2]}
    bigram = ngrams.bigram(IDS)
    follows = ngrams.bigram_counts(IDS).toarray() > 0
    for i, _ in enumerate(IDS):
        for name, q in (
            (UNIGRAM, ngrams.unigram()),
            (BIGRAM, bigram[i]),
            (OTHER, bigram[next_of[i]]),
            ("twin", twin[i]),
        ):
            for j, reading in enumerate(READINGS):
                of = found.sel(reading=reading, reference=name).isel(token=i)
                log_p = predictions.log_p[j, i].astype(float)
                kl = sum(q[y] * (np.log(q[y]) - log_p[y]) for y in range(V))
                np.testing.assert_allclose(of["kl"], kl, rtol=1e-9)
                ranks = spearmanr(log_p[follows[i]], q[follows[i]]).statistic
                np.testing.assert_allclose(of["rank_correlation"], ranks, rtol=1e-9)
    mean = np.average(found["kl"], axis=2, weights=predictions.counts)
    np.testing.assert_allclose(found["kl_mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(found["kl_median"], np.median(found["kl"], axis=2), rtol=1e-12)

    P = ngrams.bigram_counts(IDS).toarray() / ngrams.counts[0].sum()
    g = np.bincount(ngrams.codes[0], ngrams.counts[0], V) / ngrams.counts[0].sum()
    for residual, chance in (("uniform", np.full(V, 1 / V)), ("unigram", g)):
        D = predictions.direct - (residual == "unigram") * predictions.direct.mean(0)
        B = P - np.outer(P.sum(1), chance)
        rows = [np.corrcoef(D[i], B[i])[0, 1] for i in range(4)]
        every = [np.corrcoef(D[i], B[j])[0, 1] for i in range(4) for j in range(4)]
        of = found.sel(residual=residual)
        np.testing.assert_allclose(of["head_correlation"], np.mean(rows), rtol=1e-4)
        # A uniform shuffle gives each token each other's row equally often.
        null = of.sel(null="all")
        error = float(null["head_null_sd"]) / np.sqrt(100)
        assert abs(float(null["head_null_mean"]) - np.mean(every)) < 4 * error


def test_a_model_of_bigrams_has_no_distance_from_them(data, random_model, ngrams):
    model, params = random_model
    log_p = np.log(ngrams.bigram(np.arange(V)))
    params = bigram_model(model, params, log_p)
    predictions = llm.read_predictions(model, params, data, IDS)
    found = llm.ngram_agreement(predictions, ngrams, IDS, num_bins=2)
    of = found.sel(reference=BIGRAM)
    np.testing.assert_allclose(of["kl"], 0, atol=1e-6)  # in every reading
    assert (of["rank_correlation_mean"] > 0.98).all()  # not 1: rounding parts equal probabilities
    kl = np.sum(ngrams.unigram() * (np.log(ngrams.unigram()) - log_p[IDS]), axis=1)
    np.testing.assert_allclose(found["kl"].sel(reference=UNIGRAM), [kl] * 3, rtol=1e-5)
    assert float(found["kl_mean"].sel(reference=OTHER).min()) > 0.05
    nll = -log_p[data.tokens[:, :-1], data.tokens[:, 1:]][data.mask].mean()
    np.testing.assert_allclose(predictions.loss, nll, rtol=1e-5)
    np.testing.assert_allclose(log_softmax(predictions.direct), log_p[IDS], rtol=1e-4)


def test_bad_arguments(data, random_model, ngrams):
    model, params = random_model
    for options, error, message in (
        ({"model": "neox"}, aj.InputTypeError, "model"),
        ({"token_ids": [0, 0]}, aj.InputError, "token_ids must be distinct"),
        ({"sequences": range(0)}, aj.InputError, "sequences must be some of 40"),
        ({"source": token_data(data.tokens, 9)}, aj.InputError, "at most the 7 tokens and 5"),
        ({"token_ids": [5], "sequences": range(1)}, aj.InputError, "token 5 does not"),
    ):
        given = {"model": model, "params": params, "source": data, "token_ids": IDS} | options
        with pytest.raises(error, match=message):
            llm.read_predictions(**given)
    predictions = llm.read_predictions(model, params, data, IDS)
    for options, message in (
        ({"token_ids": [0]}, "predictions must be of 1 tokens and 7 targets"),
        ({"others": {"twin": np.ones((4, V))}}, "others: 'twin' must be probabilities"),
        ({"num_shuffles": 1}, "num_shuffles must be at least 2"),
        ({"num_bins": 3}, "num_bins must leave two tokens in a bin"),
    ):
        given = {"predictions": predictions, "ngrams": ngrams, "token_ids": IDS} | options
        with pytest.raises(aj.InputError, match=message):
            llm.ngram_agreement(**given)


# A small run


CONFIG = llm.PretrainConfig(
    vocab_size=150,
    seq_len=16,
    batch_size=16,
    steps=256,
    num_layers=1,
    width=32,
    num_heads=2,
    learning_rate=2e-2,
)
NAMES = [f"step{step}" for step in revisions(CONFIG.steps)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run on 150 fables, and the fables in its tokens."""
    documents = read_documents("fables", num_documents=150)
    folder = tmp_path_factory.mktemp("run")
    with jax.numpy_dtype_promotion("standard"):
        llm.pretrain_tiny(documents, folder, CONFIG)
    tokenizer, tokens = pretrain.tokenize_corpus(documents, CONFIG)
    names = tuple(tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size()))
    mask = np.ones((len(tokens), CONFIG.seq_len), bool)
    return folder, aj.TokenData(tokens, mask, names, "fables", documents.sha256)


@pytest.fixture(scope="module")
def compared(run, tmp_path_factory):
    folder, source = run
    out = tmp_path_factory.mktemp("compared") / "out"
    options = {"num_shuffles": 10}
    return llm.compare_ngrams(folder, NAMES, source, out, **options), out, options


def test_unigrams_are_learned_first_then_bigrams_then_more(compared):
    found, *_ = compared
    step = found["step"].values
    kl = found["kl_mean"].sel(reading="each")
    unigram, bigram = (kl.sel(reference=of).values for of in (UNIGRAM, BIGRAM))
    assert unigram[0] == pytest.approx(0.69, abs=0.1)
    assert bigram[0] == pytest.approx(2.93, abs=0.2)
    first, second = step[unigram.argmin()], step[bigram.argmin()]
    assert (first, second) in {(4, 32), (8, 32), (4, 64), (8, 64)}
    assert unigram.min() == pytest.approx(0.39, abs=0.08)
    assert bigram.min() == pytest.approx(0.62, abs=0.08)
    # Away from the unigram when the bigram is nearest, away from both at the end.
    assert unigram[bigram.argmin()] > 4 * unigram.min()
    assert bigram[-1] > 1.7 * bigram.min()
    assert (np.diff(unigram[unigram.argmin() :]) > 0).all()
    # But the mean over the contexts of a token stays the bigram, as in calibrated models.
    of_mean = found["kl_mean"].sel(reading="mean", reference=BIGRAM).values
    assert (np.diff(of_mean) < 0).all()
    assert of_mean[-1] < 0.45 * bigram[-1]
    assert (found["kl_mean"].sel(reference=OTHER) > 2).all()  # the control
    # By its loss the model has left bigrams at the end, and even a held-out text says so.
    assert found["loss"].values[0] > found["cross_entropy"].values[0]
    assert found["loss"].values[-1] < found["entropy"].values[1]
    ranks = found["rank_correlation_mean"].sel(reading="mean")
    assert (
        ranks.sel(reference=UNIGRAM).values.argmax() < ranks.sel(reference=BIGRAM).values.argmax()
    )


def test_results_are_kept_by_revision(run, compared, monkeypatch):
    folder, source = run
    found, out, options = compared
    assert {f"revision-{name}.nc" for name in NAMES} <= {path.name for path in out.iterdir()}
    monkeypatch.setattr("assocjax.llm.ngram_revisions.load_decoder", None)
    again = llm.compare_ngrams(folder, NAMES[::2], source, out, **options)
    assert again.drop_attrs().equals(found.isel(revision=slice(None, None, 2)).drop_attrs())
    with pytest.raises(aj.InputError, match=r"its config\.min_count is 10, here it is 9"):
        llm.compare_ngrams(folder, NAMES, source, out, min_count=9, num_shuffles=10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"revisions": ["step0", "step0"]}, "revisions must differ"),
        ({"revisions": ["step3"]}, "has no revision 'step3'"),
        ({"held_out": 1.0}, "held_out must leave a sequence to read and one to count"),
        ({"num_tokens": 140}, r"num_tokens: \d+ different tokens occur 10 times"),
    ],
)
def test_bad_arguments_of_a_comparison(run, tmp_path, options, message):
    folder, source = run
    given = {"revisions": NAMES[:2], "num_shuffles": 2} | options
    with pytest.raises(aj.InputError, match=message):
        llm.compare_ngrams(folder, source=source, out=tmp_path / "out", **given)


# The command


def test_the_command(run, tmp_path, capsys):
    pytest.importorskip("transformers", reason="the command reads a text in a model's tokens")
    folder, _ = run
    command = ["ngrams", str(folder), "--revisions", "step0,step4,step32,step256"]
    command += ["--num-documents", "150", "--seq-len", "16", "--shuffles", "2"]
    command += ["--recipe", f"{folder}/pretraining.json", "--over", "summed_rate"]
    command += ["--out", str(tmp_path / "out")]
    cli.main(command)
    out = capsys.readouterr().out
    assert max(map(len, out.partition("written to")[0].splitlines())) <= 80
    verdict = "nearest to the unigram at step4, then farther; nearest to the bigram at step32, then"
    assert verdict in " ".join(out.split())
    (row,) = re.findall(r"^step32 .*", out, re.MULTILINE)
    dataset = aj.load(tmp_path / "out" / "ngrams.nc")
    assert dataset["summed_rate"].values[1] == pytest.approx(2e-2 * (1 / 3 + 2 / 3 + 2), rel=1e-3)
    kl = dataset.sel(revision="step32")["kl_mean"].sel(reference=[UNIGRAM, BIGRAM])
    expected = [float(dataset["loss"][2]), *kl.values.ravel()]
    np.testing.assert_allclose([float(x) for x in row.split()[1:]], expected, atol=6e-4)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [of["revision"] for of in summary["summary"]] == ["step0", "step4", "step32", "step256"]
    assert {"steps.png", "steps.pdf"} <= {path.name for path in (tmp_path / "out").iterdir()}
    cli.main(command)
    first, _, again = capsys.readouterr().out.partition("\n")
    assert first.startswith("already complete")
    assert out.endswith(again)

"""The paper's artefacts at a tiny size: they run, say what they must, and are found again."""

import dataclasses
import json
from functools import partial
from html import unescape

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from conftest import assert_described

import assocjax as aj
from assocjax import cli
from assocjax.analysis.ablation import RANK_NOISE, shuffled
from assocjax.analysis.scorings import theory_weights
from assocjax.reproduce import artefacts, paper
from assocjax.reproduce.lists import shuffled_text
from assocjax.reproduce.records import verdict
from assocjax.reproduce.report import cell
from assocjax.reproduce.scales import Text
from assocjax.reproduce.table_3 import as_in_paper
from assocjax.reproduce.work import Work, first_sequences
from assocjax.storage import claim, results
from assocjax.storage.checkpoints import Checkpoints
from assocjax.training.train import batch_indices

TINY = aj.reproduce.SCALES["tiny"]
FIRST = [name for name in aj.reproduce.ARTEFACTS if name != "figures6-8"]


@pytest.fixture(autouse=True)
def _default_promotion():
    """As users run them: strict promotion is for the package."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """All artefacts but those of language models, and their folder."""
    out = tmp_path_factory.mktemp("reproduce")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return out, aj.reproduce.reproduce(FIRST, scale="tiny", out=out)


@pytest.fixture(scope="module")
def run():
    work = Work("fables")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return work.tokens(TINY.small_step.text), work.run("small_step", TINY.small_step, 0)


def test_every_artefact_of_the_paper_has_a_section(reproduced):
    out, records = reproduced
    for path in out.rglob("*.nc"):
        assert_described(aj.load(path))
    html = unescape((out / "report.html").read_text("utf-8"))
    for record in records:
        name = record["artefact"]
        assert f'<section id="{name}">' in html
        assert paper.ARTEFACTS[name].title in html
        assert record["verdict"] in html
        assert all(record[part] for part in ("rows", "setting"))
        for row in record["rows"]:
            assert row.keys() == record["rows"][0].keys()
            assert row["reproduced"] in (True, False, None)
        assert record == json.loads((out / "fables" / f"{name}.json").read_text("utf-8"))
    assert html.count("data:image/png;base64,") == sum(len(r["figures"]) for r in records) > 0
    assert "http" not in html.replace("https://arxiv.org/abs/2601.19208", "")  # needs no network


def test_what_the_paper_reports_stands_beside_what_we_get(reproduced):
    _, records = reproduced
    by_name = {record["artefact"]: record for record in records}
    for name, reported in paper.MINIMUM_COSINES.items():
        rows = by_name[name]["rows"]
        assert {row["weight"]: row["paper"] for row in rows} == reported | {"position": None}
        for row in rows:
            agrees = row["ours"] > paper.CRITERION if row["weight"] in reported else None
            assert row["reproduced"] == agrees
    edited = {row["weight"]: row["paper, loss"] for row in by_name["table3"]["rows"]}
    assert edited == {unit: paper.EDITED_LOSS[unit] for unit in edited}
    assert {row["word"] for row in by_name["figure5"]["rows"]} == {w for _, w in paper.LISTS}
    for record in records:
        assert record["paper"]["setting"].keys() <= record["setting"].keys()


def test_lists_are_longer_than_what_a_small_vocabulary_has(tmp_path):
    """Of a text of five words every list ends early, and the lists of other words do too."""
    path = tmp_path / "pond.txt"
    path.write_text("the pond , a fish . " * 40 + "the tree , a bird . " * 40)
    lists = dataclasses.replace(TINY.lists, top=10)
    scale, work = dataclasses.replace(TINY, lists=lists), Work(str(path))
    graph = artefacts.ARTEFACTS["figure3"].compute(scale, work)
    assert graph.rows[0]["found"] == 1  # the pond; it says "contains" nowhere
    assert graph.rows[0]["ours"]
    lists = artefacts.ARTEFACTS["figure5"].compute(scale, work)
    words = set(work.tokens(scale.lists.text).vocabulary) | {""}
    assert set(lists.dataset["token"].values.ravel()) <= words


def test_a_figure_that_cannot_be_written_loses_no_numbers(tmp_path, monkeypatch):
    def fail(figure, path, into):
        raise aj.InputError("cannot write figure")

    monkeypatch.setattr(artefacts, "save", fail)
    with pytest.raises(aj.InputError, match="cannot write figure"):
        aj.reproduce.reproduce(["figure4"], scale="tiny", out=tmp_path)
    assert aj.load(tmp_path / "fables" / "figure4.nc").attrs["record"]


def test_rows_that_agree_are_counted():
    small = aj.reproduce.SCALES["small"]
    rows: list[dict] = [{"reproduced": of} for of in (True, None, False, True)]
    assert verdict(rows, small) == "agrees with the paper in 2 of 3 rows"
    assert verdict([{"reproduced": None}], small) == "nothing of the paper to compare with"
    assert verdict(rows, TINY).startswith("no verdict: ")
    known = "of the paper's in the vocabulary"
    lists = [
        {"reproduced": True, "paper": "pond, contains", known: 1, "found": 1},
        {"reproduced": False, "paper": "she, he, it", known: 3, "found": 2},
        {"reproduced": None, "paper": "sad", known: 0, "found": None},
    ]
    of_tokens = "3 of the 4 tokens in the vocabulary, of 5 that it shows"
    assert verdict(lists, small) == f"agrees with the paper in 1 of 2 rows: {of_tokens}"


def test_the_order_of_table_3_is_the_papers():
    """Attention below value below output: of each pair of classes."""
    harm = {"query_key 1": 0.2, "value 1": 1.0, "value 2": 0.1, "output": 2.0}
    units = [{"unit": unit, "theory": change} for unit, change in harm.items()]
    agree = {one["unit"]: all(as_in_paper(one, other) for other in units) for one in units}
    assert agree == {"query_key 1": False, "value 1": True, "value 2": False, "output": True}


def test_minimum_cosines_are_those_of_the_dataset(reproduced):
    out, records = reproduced
    table = next(r for r in records if r["artefact"] == "table1")
    dataset = aj.load(out / "fables" / "table1.nc")
    of = "theory of"
    for row in (row for row in table["rows"] if row[of] in ("corpus", "first batch")):
        cosines = dataset["cosine"].sel(weight=row["weight"], theory=row[of]).values
        assert np.isnan(cosines[:, 0]).all()  # all weights are zero
        assert row["ours"] == np.nanmin(cosines)
    assert len(table["rows"]) == 4 * len({row[of] for row in table["rows"]}) == 16


def test_a_run_is_that_of_train_and_its_cosines_those_of_compare_params(run):
    data, dataset = run
    settings = TINY.small_step
    _, key = jax.random.split(jax.random.key(0))
    steps = data.num_sequences // settings.batch_size * settings.epochs
    params = aj.init_params(
        key, vocab_size=data.vocab_size, seq_len=data.seq_len, num_layers=settings.num_layers
    )
    for step in range(steps):
        rows = np.asarray(
            batch_indices(key, jnp.int32(step), data.num_sequences, settings.batch_size)
        )
        gradient = aj.exact_gradient(params, data.tokens[rows], data.mask[rows])
        params = jax.tree.map(lambda w, g: w - settings.learning_rate * g, params, gradient)
    theory = theory_weights(aj.corpus_statistics(data))
    expected = aj.compare_params(params, theory)
    for name in aj.WEIGHTS:
        # float32: rounding of a few steps of another order of sums
        np.testing.assert_allclose(dataset[name], getattr(params, name), rtol=0, atol=1e-5)
        found = dataset["cosine"].sel(weight=name, theory="corpus").isel(epoch=-1)
        np.testing.assert_allclose(found, expected[name].cosine, atol=1e-4)
    final = aj.loss(params, data.tokens, data.mask)
    np.testing.assert_allclose(dataset["loss"][-1], final, rtol=1e-5)
    np.testing.assert_allclose(dataset["loss"][0], np.log(data.vocab_size), rtol=1e-5)


def test_the_first_batch_is_the_one_that_is_trained_on_first():
    """After an epoch of one batch, W_O is its B: a cosine of 1, which other batches do not have."""
    settings = dataclasses.replace(TINY.small_step, epochs=1, batch_size=20)  # of 32: one step
    work = Work("fables")
    data = work.tokens(settings.text)
    cosine = aj.reproduce.follow(data, settings, 3)["cosine"].isel(epoch=1, layer=-1)
    cosine = cosine.sel(weight="output")
    assert float(cosine.sel(theory="first batch")) == pytest.approx(1, abs=1e-6)
    assert float(cosine.sel(theory="corpus")) < 0.999
    assert float(cosine.sel(theory="matched")) < float(cosine.sel(theory="corpus"))


def test_the_effective_theory_is_followed_where_it_is_asked_for(run):
    data, expected = run
    settings = dataclasses.replace(TINY.small_step, epochs=2, effective_epochs=(1,))
    dataset = aj.reproduce.follow(data, settings, 0)
    moments = aj.effective_statistics(data, depth=1)
    theory = aj.effective_weights(
        moments, data.tokens, data.mask, num_layers=1, learning_rate=0.5, steps=4, tolerance=1e-2
    )
    one = dataclasses.replace(settings, epochs=1, effective_epochs=())
    found = aj.reproduce.follow(data, one, 0)
    weights = aj.Params(**{name: jnp.asarray(found[name].values) for name in aj.WEIGHTS})
    for name, agreement in aj.compare_params(weights, theory.params).items():
        cosine = dataset["cosine"].sel(weight=name, theory="effective").values.reshape(3)
        np.testing.assert_allclose(cosine[1], np.squeeze(agreement.cosine), rtol=1e-5)
        assert np.isnan(cosine[[0, 2]]).all()
    assert np.isnan(expected["cosine"].sel(theory="effective")).all()


def test_a_run_that_was_stopped_goes_on_to_the_same(run, tmp_path):
    data, expected = run

    length = 4  # steps of an epoch; each epoch is recorded, and saved, as a step further is taken

    def stop(done, total):
        assert total == 3 * length + 1
        if done == 2 * length:
            raise KeyboardInterrupt

    seen = []
    with claim(tmp_path / "c", "reproduce", {}) as folder:
        checkpoints = Checkpoints(folder, {"seed": 0})
        follow = partial(aj.reproduce.follow, data, TINY.small_step, 0, checkpoints=checkpoints)
        with pytest.raises(KeyboardInterrupt, match=f"{length + 1} of 13 steps are saved"):
            follow(progress=stop)
        found = follow(progress=lambda done, _: seen.append(done))
        checkpoints.close()
    assert seen == list(range(length + 2, 3 * length + 2))
    for name in expected.data_vars:
        np.testing.assert_array_equal(found[name], expected[name])


def test_what_is_there_is_not_computed_again(reproduced, monkeypatch):
    out, records = reproduced
    for name in FIRST:
        one = artefacts.ARTEFACTS[name]._replace(compute=None)
        monkeypatch.setitem(artefacts.ARTEFACTS, name, one)
    assert aj.reproduce.reproduce(FIRST, scale="tiny", out=out) == records


def test_another_configuration_is_refused_by_name(reproduced):
    out, _ = reproduced
    other = dataclasses.replace(TINY, draws=3)
    with pytest.raises(aj.InputError, match=r"table3\.nc is of another.*draws is 2, here it is 3"):
        aj.reproduce.reproduce(["table3"], scale=other, out=out)
    text = dataclasses.replace(TINY.subwords.text, seq_len=9)
    other = dataclasses.replace(TINY, subwords=dataclasses.replace(TINY.subwords, text=text))
    with pytest.raises(aj.InputError, match=r"table2\.nc is of another configuration.*seq_len"):
        aj.reproduce.reproduce(["table2"], scale=other, out=out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table9"], 'Invalid value "table9" for ARTEFACTS. Choose from: "table1", '),
        (["all", "--corpus", "missing.txt"], "missing.txt"),
        ([], "ARTEFACTS is missing (see assocjax reproduce --help)"),
    ],
)
def test_errors_are_one_line(arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["reproduce", *arguments, "--scale", "tiny", "--out", str(tmp_path)])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.count("\n") == 1
    assert message in error


def test_without_torch_the_report_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(artefacts, "LIBRARIES", ("no_such_library",))
    (record,) = aj.reproduce.reproduce(["figures6-8"], scale="tiny", out=tmp_path)
    assert "pip install 'assocjax[llm]'" in record["skipped"]
    assert "left out" in (tmp_path / "report.html").read_text("utf-8")
    assert not list(tmp_path.glob("fables/*.nc"))


@pytest.fixture(scope="module")
def language_models(tmp_path_factory):
    """Figures 6 to 8 of more sequences than are read by default, by the command: their folder."""
    pytest.importorskip("torch", reason="language models need the extra llm")
    pytest.importorskip("transformers", reason="language models need the extra llm")
    out = tmp_path_factory.mktemp("language-models")
    settings = dataclasses.replace(
        TINY.language_model, text=Text(0, 4, 4_321, tokenizer=""), other_corpus="python-docs"
    )
    with pytest.MonkeyPatch.context() as patch:
        scale = dataclasses.replace(TINY, language_model=settings)
        patch.setitem(aj.reproduce.SCALES, "tiny", scale)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            command = ["reproduce", "figures6-8", "--scale", "tiny", "--out", str(out)]
            cli.main(command)
            first = (out / "report.json").read_text("utf-8")
            # Stopped before its end it goes on, from what was compared; complete, it is only read.
            (out / "fables/figures6-8.nc").unlink()
            patch.setattr("assocjax.llm.revisions.load_files", None)
            patch.setattr(artefacts, "save", lambda figure, path, into: [into.path / f"{path}.png"])
            for _ in range(2):
                cli.main(command)
                assert (out / "report.json").read_text("utf-8") == first
                one = artefacts.ARTEFACTS["figures6-8"]._replace(compute=None)
                patch.setitem(artefacts.ARTEFACTS, "figures6-8", one)
    return out / "fables"


def test_language_models_are_compared_on_the_sequences_that_the_scale_says(language_models):
    record = json.loads((language_models / "figures6-8.json").read_text("utf-8"))
    assert record["setting"]["sequences N"] == "4,321; 4,321"
    assert record["setting"]["corpus"].startswith("fables")
    assert "python-docs" in record["setting"]["corpus"]
    compared = aj.load(language_models / "runs/compared-fables/revision-step0.nc")
    data = aj.llm.tokens_of_model(
        language_models / "runs/pretrained", "step0", "fables", seq_len=4, num_sequences=4_321
    )
    ids = [data.vocabulary.index(token) for token in compared["token"].values]
    inputs = np.bincount(data.tokens[:, :-1][data.mask], minlength=data.vocab_size)
    assert compared["token_count"].values.tolist() == inputs[ids].tolist()


def test_scores_of_language_models_stand_beside_their_controls(language_models):
    record = json.loads((language_models / "figures6-8.json").read_text("utf-8"))
    dataset = aj.load(language_models / "figures6-8.nc")
    assert_described(dataset)
    assert record["skipped"] is None
    assert record["figures"] == [
        f"figures6-8-{name}.png" for name in ("figure6", "figure8", "figure7")
    ]
    assert all((language_models / name).stat().st_size for name in record["figures"])
    assert len(record["rows"]) == 2 * len(dataset["revision"])
    row = record["rows"][1]
    at = dataset.sel(text=row["statistics of"], revision=row["checkpoint"], null="all")
    at = at.sel(theory="value", residual="uniform", stream="after_layer", centering="token")
    assert row["ours, token-centred"] == float(at["similarity"].isel(layer=-1))
    assert row["control: shuffled, token-centred"] == float(at["null_mean"].isel(layer=-1))


def test_the_papers_scale_is_the_papers_protocol():
    """Its code path is the one above; here at its own text options, on a text that allows them."""
    full = aj.reproduce.SCALES["paper"]
    for run, steps in ((full.small_step, 3200), (full.large_step, 3200), (full.subwords, 320)):
        assert (run.text.num_sequences // run.batch_size) * run.epochs == steps
    assert full.small_step.learning_rate * 3200 == pytest.approx(16)
    assert full.large_step.learning_rate * 3200 == pytest.approx(160)
    text = dataclasses.replace(
        full.small_step.text, vocab_size=190, seq_len=8, num_sequences=16, num_documents=400
    )
    data = Work("fables").tokens(text)
    assert (data.num_sequences, data.unk_fraction, data.mask.all()) == (16, 0, True)
    too_many = dataclasses.replace(text, num_sequences=10**5)
    with pytest.raises(aj.InputError, match="num_sequences"):
        Work("fables").tokens(too_many)


def test_a_file_is_found_by_what_decides_it(tmp_path):
    """With nested settings and tuples, and without a text, as where a model brings its tokens."""
    of = results.identity(None, {"read": "text", "model": {"heads_at": (1, 2), "name": None}})
    with claim(tmp_path / "out", "reproduce", {}) as folder:
        results.keep(folder, "a.nc", xr.Dataset({"x": 1.5}), of)
    path = tmp_path / "out" / "a.nc"
    found = results.reuse(path, of)
    assert found is not None
    assert float(found["x"]) == 1.5
    other = results.identity(None, {"read": "text", "model": {"heads_at": (1, 3), "name": None}})
    with pytest.raises(aj.InputError, match=r"model\.heads_at is \[1, 2\], here it is \[1, 3\]"):
        results.reuse(path, other)
    assert results.reuse(path, other, overwrite=True) is None


def test_fewer_sequences_and_what_of_them_is_unknown():
    data = Work("fables").tokens(Text(30, 8, 10**6))
    few = first_sequences(data, 7)
    assert few.num_sequences == 7
    share = np.mean([few.vocabulary[i] == "<unk>" for i in few.tokens[:, 1:].ravel()])
    assert few.unk_fraction == share


def test_a_vocabulary_no_larger_than_a_list(tmp_path):
    """Six words, lists of ten: a list has at most five. Subwords run out of pairs too."""
    stories = ["the" + 4 * " pond fish", "the" + 3 * " sat happy ."]
    (tmp_path / "few.txt").write_text("<|endoftext|>".join(12 * stories), "utf-8")
    lists = dataclasses.replace(TINY.lists, top=10)
    scale = dataclasses.replace(TINY, lists=lists)
    work = Work(str(tmp_path / "few.txt"))
    assert work.tokens(lists.text).vocab_size == 6
    graph, of_words = (artefacts.ARTEFACTS[f"figure{i}"].compute(scale, work) for i in (3, 5))
    others = {"the", "sat", "happy", "pond", "."}
    assert {"pond"} <= set(graph.rows[0]["ours"].split(", ")) <= others
    assert graph.rows[0]["found"] == 1
    at = {"matrix": "context", "word": "fish", "scores": "raw"}
    (row,) = [row for row in of_words.rows if at.items() <= row.items()]
    assert {"pond"} <= set(row["ours"].split(", ")) <= others
    assert row["found"] == 1
    assert row["reproduced"]  # of the paper's tokens the vocabulary has no other
    tokens = of_words.dataset["token"]
    assert tokens.sizes["rank"] == 10
    assert (tokens.isel(rank=slice(5, None)) == "").all()
    subwords = work.tokens(TINY.subwords.text)
    assert 12 < subwords.vocab_size < TINY.subwords.text.vocab_size


def test_a_shuffled_text_has_its_tokens_and_not_its_bigrams():
    data = Work("fables").tokens(Text(60, 8, 200))
    other = shuffled_text(data, 0)
    np.testing.assert_array_equal(
        np.bincount(other.tokens.ravel()), np.bincount(data.tokens.ravel())
    )
    one, two = (aj.corpus_statistics(d.tokens, 60, d.mask).bigram for d in (data, other))
    assert float(aj.agreement(one, two).cosine) < 0.9


def test_controls_of_a_run_are_those_of_ablation(run):
    data, dataset = run
    theory = theory_weights(aj.corpus_statistics(data))
    rank = np.argsort(
        np.argsort(
            -np.bincount(data.tokens[:, :-1].ravel(), minlength=data.vocab_size), kind="stable"
        )
    )
    control = shuffled(theory, jnp.asarray(rank), jax.random.key(0), noise=RANK_NOISE)
    params = aj.Params(**{name: jnp.asarray(dataset[name].values) for name in aj.WEIGHTS})
    for name, expected in aj.compare_params(params, control).items():
        found = dataset["cosine"].sel(weight=name, theory="matched").isel(epoch=-1)
        np.testing.assert_allclose(found, expected.cosine, atol=1e-5)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\N{EN DASH}"),
        (float("nan"), "\N{EN DASH}"),
        (0.9994961, "0.999496"),
        (-0.25, "\N{MINUS SIGN}0.25"),
        (1.5e-7, "1.5e\N{MINUS SIGN}7"),
        (65536, "65,536"),
        (1.0, "1"),
        ("all", "all"),
        (True, "yes"),
    ],
)
def test_numbers_are_readable(value, text):
    assert cell(value) == text

"""Edits of weights against their formulas in NumPy, and what the controls keep of the theory."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from conftest import random_mask, random_params, random_tokens

import assocjax as aj
from assocjax import cli, figures
from assocjax.analysis import ablation
from assocjax.models.params import WEIGHTS

N, T, V, L, DRAWS = 6, 4, 5, 2, 3


@pytest.fixture(scope="module")
def case():
    tokens, mask = random_tokens(0, N, T, V), random_mask(1, N, T)
    params = random_params(1, V=V, T=T, L=L, scale=1.0)
    return params, random_params(2, V=V, T=T, L=L), tokens, mask


@pytest.fixture(scope="module")
def measured(case):
    """All edits of all units."""
    _, theory, _, _ = case
    before = ablation._measure._cache_size()
    dataset = aj.ablate(
        *case, edits=ablation.EDITS, other=aj.exchanged(theory), draws=DRAWS, seed=3
    )
    return dataset, ablation._measure._cache_size() - before


def flat(tree):
    """The weights of single layers, by unit."""
    layered = {
        f"{name} {layer + 1}": np.asarray(getattr(tree, name)[layer], np.float64)
        for name in WEIGHTS[:-1]
        for layer in range(L)
    }
    return layered | {"output": np.asarray(tree.output, np.float64)}


def edited(edit, weight, theory, other, size=None):
    """The formulas of the module's docstring; `size` is that of the theory where it is given."""
    along = np.sum(weight * theory) / np.linalg.norm(theory) if size is None else size
    direction = theory / np.linalg.norm(theory)
    if edit == "remove":
        return weight - along * direction
    if edit == "keep":
        return along * direction
    if edit == "replace":
        return np.linalg.norm(weight) * direction
    return weight - along * direction + along * other / np.linalg.norm(other)


def loss_with(case, new):
    params, _, tokens, mask = case
    weights = flat(params) | new
    stacked = {
        name: jnp.stack([weights[f"{name} {layer + 1}"] for layer in range(L)])
        for name in WEIGHTS[:-1]
    }
    tree = aj.Params(**stacked, output=jnp.asarray(weights["output"]))
    tree = jax.tree.map(lambda a: a.astype(jnp.float32), tree)
    return float(aj.loss(tree, tokens, mask))


@pytest.mark.parametrize("edit", ablation.EDITS)
def test_losses_after_edits(case, measured, edit):
    params, theory, _, _ = case
    losses = measured[0]["loss"].sel(edit=edit)
    weights, terms, others = flat(params), flat(theory), flat(aj.exchanged(theory))
    new = {unit: edited(edit, weights[unit], terms[unit], others[unit]) for unit in weights}
    # float32: a few roundings of a loss of about 2
    for unit in new:
        expected = loss_with(case, {unit: new[unit]})
        np.testing.assert_allclose(losses.sel(unit=unit), expected, rtol=2e-6)
    both = {unit: new[unit] for unit in ("value 1", "value 2")}
    np.testing.assert_allclose(losses.sel(unit="value all"), loss_with(case, both), rtol=2e-6)
    np.testing.assert_allclose(losses.sel(unit="all"), loss_with(case, new), rtol=2e-6)
    np.testing.assert_allclose(measured[0]["trained_loss"], loss_with(case, {}), rtol=2e-6)


@pytest.mark.parametrize("edit", ["remove", "replace"])
@pytest.mark.parametrize("control", ablation.CONTROLS)
def test_losses_of_controls(case, measured, edit, control):
    params, theory, tokens, _ = case
    losses = measured[0]["control_loss"].sel(edit=edit, control=control, unit="value 2").values
    direction, size = control.split("_")
    if edit == "replace" and size == "projection":
        assert np.isnan(losses).all()
        return
    weight, term = flat(params)["value 2"], flat(theory)["value 2"]
    counts = np.bincount(tokens[:, :-1][case[3]], minlength=V)
    rank = jnp.asarray(np.argsort(np.argsort(-counts, kind="stable")))
    draw = ablation._DRAWS[1 + ablation.DIRECTIONS.index(direction)]
    keys = jax.random.split(jax.random.key(3), DRAWS)
    along = np.sum(weight * term) / np.linalg.norm(term)
    for key, loss in zip(keys, losses, strict=True):
        other = flat(draw(theory, rank, key))["value 2"]
        amount = along if size == "norm" and edit == "remove" else None
        new = edited(edit, weight, other, None, amount)
        np.testing.assert_allclose(loss, loss_with(case, {"value 2": new}), rtol=2e-6)
    assert len(set(losses.tolist())) > 1  # of five tokens few relabellings are matched


def test_one_program_for_all_units_and_draws(measured):
    # One for edits with six controls, one for those with three.
    assert measured[1] == 2


def test_change_by_target_token(case, measured):
    params, theory, tokens, mask = case
    dataset = measured[0]
    unit = dict(unit="output", edit="remove")
    new = edited("remove", flat(params)["output"], flat(theory)["output"], None)
    changed = params.replace(output=jnp.asarray(new, jnp.float32))
    total, count = np.zeros(V), np.zeros(V)
    for n in range(N):
        logs = [
            np.asarray(jax.nn.log_softmax(aj.logits(p, tokens[n, :-1], mask[n])))
            for p in (params, changed)
        ]
        for t in np.flatnonzero(mask[n]):
            y = tokens[n, t + 1]
            total[y] += logs[0][t, y] - logs[1][t, y]
            count[y] += 1
    assert (count > 0).all()
    np.testing.assert_allclose(
        dataset["token_change"].sel(unit), total / count, rtol=1e-4, atol=2e-6
    )
    # Weighted by how often each token is a target, changes add up to that of the loss.
    controls = dataset["control_token_change"].sel(unit)
    change = dataset["control_loss"].sel(unit).mean("draw") - dataset["trained_loss"]
    added = controls.values @ count / count.sum()
    np.testing.assert_allclose(added, change, rtol=1e-4, atol=1e-6)


def test_masked_positions_count_in_nothing(case, measured):
    params, theory, tokens, mask = case
    # Token i is the input of position i and the target of position i - 1.
    ends = np.zeros((N, 1), bool)
    unused = ~np.concatenate([mask, ends], axis=1) & ~np.concatenate([ends, mask], axis=1)
    assert unused.sum() > 3
    other = np.where(unused, (tokens + 1) % V, tokens)
    units = {"all": ablation.default_units(L)["all"]}
    dataset = aj.ablate(params, theory, other, mask, draws=DRAWS, seed=3, units=units)
    for name in ("loss", "control_loss", "token_change"):
        expected = measured[0][name].sel(edit=["remove"], unit=["all"])
        np.testing.assert_array_equal(dataset[name], expected)


@pytest.mark.parametrize("noise", [np.inf, 0.3])
def test_shuffled_theories_have_the_same_entries_and_singular_values(noise):
    V, T = 40, 12
    theory = random_params(0, V=V, T=T, L=1)
    rank = jnp.asarray(np.random.default_rng(0).permutation(V))
    drawn = ablation.shuffled(theory, rank, jax.random.key(1), noise=noise)
    for name in ("query_key", "value", "output"):
        old, new = (np.asarray(getattr(p, name)).reshape(V, V) for p in (theory, drawn))
        assert not np.array_equal(old, new)
        np.testing.assert_array_equal(np.sort(old, axis=None), np.sort(new, axis=None))
        # One permutation of rows and columns: the diagonal stays one.
        np.testing.assert_array_equal(np.sort(np.diag(old)), np.sort(np.diag(new)))
        values = [np.linalg.svd(a, compute_uv=False) for a in (old, new)]
        np.testing.assert_allclose(values[0], values[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.sort(theory.position), np.sort(drawn.position))


def test_matched_permutations_keep_tokens_among_those_of_similar_rank():
    V, T = 40, 12
    rank = np.random.default_rng(0).permutation(V)
    # A matrix that tells which token came where.
    labels = jnp.broadcast_to(jnp.arange(V, dtype=jnp.float32)[:, None], (V, V))
    none = random_params(0, V=V, T=T, L=1, scale=0.0)
    theory = none.replace(output=labels)

    def moved(noise):
        drawn = ablation.shuffled(theory, jnp.asarray(rank), jax.random.key(1), noise=noise)
        came = np.asarray(drawn.output[:, 0], int)
        return np.log((1 + rank[came]) / (1 + rank))

    # The sd of a difference of ranks of noisy ranks is about sqrt(2) of the noise at most.
    assert 0.15 < np.std(moved(0.3)) < 0.5
    assert np.std(moved(np.inf)) > 1


def test_edits_of_weights_whose_squares_vanish(case):
    # Attention starts near eta^4: <W, Theta> underflows in float32, its component does not.
    _, theory, _, _ = case
    weight = 1e-25 * theory.value[0]
    scaled = 1e-30 * theory.value[0]
    for edit, expected in (("remove", 0 * weight), ("keep", weight), ("replace", weight)):
        one = ablation._Case(
            jnp.int32(ablation.EDITS.index(edit)), jnp.int32(0), jnp.bool_(False), None
        )
        got = ablation._edit(one, weight, scaled, scaled)
        atol = 1e-6 * float(jnp.max(jnp.abs(weight)))
        np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


def test_a_theory_that_is_zero_takes_nothing_away(case):
    params, theory, tokens, mask = case
    zero = jax.tree.map(lambda a: jnp.zeros_like(a[:1]), theory).replace(output=theory.output * 0)
    dataset = aj.ablate(params, zero, tokens, mask, draws=DRAWS)
    np.testing.assert_array_equal(dataset["loss"], float(dataset["trained_loss"]))
    assert dataset["cosine"].isnull().all()


def test_summary(measured):
    dataset = measured[0]
    rows = ablation.summary(dataset)
    assert len(rows) == 4 * len(dataset["unit"])
    row = next(r for r in rows if (r["edit"], r["unit"]) == ("keep", "query_key all"))
    cell = dataset.sel(edit="keep", unit="query_key all")
    trained = float(dataset["trained_loss"])
    assert row["theory"] == pytest.approx(float(cell["loss"]) - trained)
    changes = cell["control_loss"].sel(control="matched_norm").values - trained
    assert row["matched_norm"] == pytest.approx(changes.mean())
    assert row["matched_norm_sd"] == pytest.approx(changes.std(ddof=1))
    assert "random_projection" not in rows[-1]  # of swap


def test_figure_shows_the_changes(measured):
    dataset = measured[0]
    figure = figures.plot_ablation(dataset)
    assert len(figure.axes) == 4
    for ax, edit in zip(figure.axes, dataset["edit"].values, strict=True):
        lines = {line.get_label(): line for line in ax.lines}
        change = dataset["loss"].sel(edit=edit) - dataset["trained_loss"]
        np.testing.assert_array_equal(lines["theory"].get_xdata(), change)
        assert ("random, projection" in lines) == (edit in ("remove", "keep"))
        drawn = lines["tokens shuffled, norm"].get_xdata()
        control = dataset["control_loss"].sel(edit=edit, control="shuffled_norm")
        np.testing.assert_array_equal(drawn, (control - dataset["trained_loss"]).values.ravel())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edits": ("remove", "burn")}, "edits must be one of 'remove'"),
        ({"edits": ()}, "edits must not be empty"),
        ({"edits": ("swap",)}, "other must be given with the edit 'swap'"),
        ({"other": random_params(0, V=V, T=T, L=L)}, "only with it"),
        ({"draws": 1}, "draws must be at least 2; got 1"),
        ({"theory": random_params(0, V=V + 1, T=T, L=L)}, "theory.query_key must have the shape"),
        ({"mask": np.ones((N, T + 1), bool)}, "mask must have one entry"),
    ],
)
def test_bad_arguments(case, change, message):
    names = ("params", "theory", "data", "mask")
    with pytest.raises(aj.InputError, match=message):
        aj.ablate(**(dict(zip(names, case, strict=True)) | change))


def test_command(tmp_path, capsys):
    tiny = ("--num-sequences", "8", "--seq-len", "6", "--num-layers", "1", "--num-documents", "60")
    with pytest.raises(SystemExit):
        cli.main(["ablate", *tiny, "--draws", "1", "--out", str(tmp_path)])
    assert '"1" for --draws. Must be >= 2' in capsys.readouterr().err
    training = ("--vocab-size", "30", "--steps", "4", "--batch-size", "4")
    edits = ("--edits", "remove", "swap", "--draws", "2")
    cli.main(["ablate", *tiny, *training, *edits, "--out", str(tmp_path)])
    out = capsys.readouterr().out
    dataset = aj.load(tmp_path / "ablation.nc")
    summary = json.loads((tmp_path / "summary.json").read_text("utf-8"))
    assert summary["config"]["batch_size"] == 4
    assert summary["corpus_sha256"] == dataset.attrs["corpus_sha256"]
    assert dataset["unit"].values.tolist() == [
        "query_key 1",
        "position 1",
        "value 1",
        "output",
        "all",
    ]
    assert dataset["token"].size == 30
    row = summary["summary"][3]
    assert row["unit"] == "output"
    assert row["loss"] == pytest.approx(float(dataset["loss"].sel(edit="remove", unit="output")))
    assert f"{row['theory']:+.1e}" in out
    for words in (
        "remove, controls of the same norm",
        "by projection",
        "swap, controls",
        "matched",
    ):
        assert words in out
    for kind in ("png", "pdf"):
        assert (tmp_path / f"ablation.{kind}").stat().st_size > 5000


def test_command_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    command = ["ablate", "--num-sequences", "8", "--seq-len", "6", "--num-layers", "1"]
    command += ["--num-documents", "60", "--vocab-size", "30", "--steps", "4", "--draws", "2"]
    cli.main([*command, "--out", str(tmp_path / "whole")])
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    drawn = {"ablation.pdf", "ablation.png"}
    assert names == drawn | {".assocjax.json", "ablation.nc", "summary.json"}
    done, measure = [], ablation.ablate

    def ablate(*args, units, **kwargs):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.extend(units)
        return measure(*args, units=units, **kwargs)

    monkeypatch.setattr(ablation, "ablate", ablate)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        cli.main([*command, "--out", str(tmp_path / "stopped")])
    monkeypatch.setattr(
        ablation, "ablate", lambda *a, **k: done.extend(k["units"]) or measure(*a, **k)
    )
    monkeypatch.setattr("assocjax.cli.ablate._trained", None)  # is not called again
    with pytest.raises(SystemExit):
        cli.main([*command, "--seed", "1", "--out", str(tmp_path / "stopped")])
    assert "its --seed is 0, here it is 1" in capsys.readouterr().err
    cli.main([*command, "--out", str(tmp_path / "stopped")])
    assert done == ["query_key 1", "position 1", "value 1", "output", "all"]
    expected, found = (aj.load(tmp_path / name / "ablation.nc") for name in ("whole", "stopped"))
    xr.testing.assert_identical(found, expected)

"""Horizons are read off errors that were written by hand; laws off rows that obey one."""

import json
import math
from functools import partial

import numpy as np
import pytest
import xarray as xr
from conftest import random_tokens, token_data

import assocjax as aj
from assocjax.experiments import horizons
from assocjax.models.params import WEIGHTS
from assocjax.storage import claim, results

NAN = np.nan


def made_up(errors, *, scale=0.0, diverged=-1, theory_diverged=-1, rates=(0.5,)) -> xr.Dataset:
    """One run per rate whose every weight, in every layer, has these relative errors by step."""
    grid = ("learning_rate", "seed", "init_scale")
    shape = (len(rates), 1, 1)
    variables = {
        "diverged_step": (grid, np.full(shape, diverged, np.int32)),
        "theory_diverged_step": ((*grid, "theory"), np.full((*shape, 1), theory_diverged)),
    }
    values = np.zeros((*shape, 1, 2, len(WEIGHTS), 2, len(errors))) + errors
    values[..., -1, 0, :] = NAN  # output, at the layer that is not its own
    values[:, :, :, :, 1] = 77.0  # gradients, which no horizon looks at
    dims = (*grid, "theory", "quantity", "weight", "layer", "step")
    variables["relative_error"] = dims, values.astype(np.float32)
    return xr.Dataset(
        variables,
        {
            "learning_rate": list(rates),
            "seed": [0],
            "init_scale": [scale],
            "theory": ["leading"],
            "quantity": ["weights", "gradients"],
            "weight": list(WEIGHTS),
            "has_layers": ("weight", [True, True, True, False]),
            "step": np.arange(len(errors), dtype=np.int32),
            "layer": [1, 2],
        },
        {"corpus_name": "a made-up corpus", "config": json.dumps({"steps": len(errors) - 1})},
    )


@pytest.mark.parametrize(
    ("case", "errors", "ends", "onset", "horizon"),
    [
        ("zero start", [NAN, NAN, 0.01, 0.05, 0.11, 0.3], {}, 2, 4),
        ("at the threshold it holds", [NAN, 0.1, 0.1, 0.2], {}, 1, 3),
        ("never passed", [NAN, 0.01, 0.02, 0.03], {}, 1, NAN),
        ("only the first stretch counts", [NAN, 0.01, 0.2, 0.05, 0.3], {}, 1, 2),
        ("Gaussian start: begins late", [1, 0.4, 0.05, 0.02, 0.2], {"scale": 0.1}, 2, 4),
        ("Gaussian start: lasts", [1, 0.4, 0.05, 0.02, 0.03], {"scale": 0.1}, 2, NAN),
        ("Gaussian start: never begins", [1, 0.4, 0.2, 0.4, 0.8], {"scale": 0.1}, NAN, 0),
        ("above from the first that is defined", [NAN, NAN, 0.2, 0.3, 0.5], {}, NAN, 0),
        ("diverged", [NAN, 0.01, 0.02, NAN, NAN], {"diverged": 3}, 1, 3),
        ("theory diverged", [NAN, 0.01, 0.02, 0.03, NAN], {"theory_diverged": 4}, 1, 4),
        (
            "the first of both",
            [NAN, 0.01, NAN, NAN, NAN],
            {"diverged": 3, "theory_diverged": 2},
            1,
            2,
        ),
        ("passed before it diverged", [NAN, 0.01, 0.2, NAN], {"diverged": 3}, 1, 2),
        ("diverged before it could hold", [NAN, NAN, NAN, NAN], {"diverged": 2}, NAN, 0),
        ("diverged at once", [NAN, NAN], {"diverged": 0}, NAN, 0),
        ("undefined in between", [NAN, 0.01, NAN, 0.02, 0.2], {}, 1, 4),
        ("undefined throughout", [NAN, NAN, NAN], {}, NAN, NAN),
        ("no step", [NAN], {}, NAN, NAN),
    ],
)
def test_onset_and_horizon(case, errors, ends, onset, horizon):
    result = aj.validity_horizon(made_up(errors, **ends))
    grid = ("learning_rate", "seed", "init_scale", "theory")
    for name, expected in (("onset", onset), ("horizon", horizon)):
        variable = result[name]
        assert variable.dims == (*grid, "weight", "layer")
        assert variable.dtype == float
        everywhere = np.full((len(WEIGHTS), 2), float(expected))
        everywhere[-1, 0] = NAN  # output has no first layer
        np.testing.assert_array_equal(variable.squeeze(), everywhere, case)


def test_each_run_theory_and_layer_has_its_own():
    steps = np.arange(9)
    dataset = made_up(np.where(steps > 0, 0.01, NAN), rates=(0.5, 1.0))
    other = dataset.assign_coords(theory=["effective"])
    dataset = xr.concat([dataset, other], "theory", data_vars="minimal")
    dataset["diverged_step"][:] = [[[-1]], [[7]]]
    dataset["theory_diverged_step"][{"learning_rate": 1, "theory": 0}] = 6
    for layer, at in ((0, 4), (1, 5)):
        cell = {"learning_rate": 0, "theory": 0, "layer": layer, "step": slice(at, None)}
        dataset["relative_error"][{"weight": WEIGHTS.index("value"), **cell}] = 0.5
    horizon = aj.validity_horizon(dataset)["horizon"].squeeze()
    assert horizon.sel(weight="value").values.tolist() == [
        [[4, 5], pytest.approx([NAN, NAN], nan_ok=True)],
        [[6, 6], [7, 7]],
    ]
    last = horizon.sel(weight="output", layer=2)
    np.testing.assert_array_equal(last, [[NAN, NAN], [6, 7]])
    assert horizon.sel(weight="output", layer=1).isnull().all()  # also of runs that diverged


def test_threshold_and_attributes():
    dataset = made_up([NAN, 0.01, 0.15, 0.25])
    for threshold, expected in ((0.1, 2), (0.2, 3), (0.3, NAN), (0, 0)):
        result = aj.validity_horizon(dataset, threshold)
        last = result["horizon"].sel(weight="output", layer=2)
        np.testing.assert_array_equal(last.item(), expected)
        assert result.attrs == {**dataset.attrs, "threshold": threshold, "steps": 3}
        for variable in result.data_vars.values():
            assert f"{threshold:g}" in variable.attrs["long_name"]
            assert "NaN" in variable.attrs["long_name"]
            assert variable.attrs["units"] == "updates"


def test_horizons_survive_a_file(tmp_path):
    result = aj.validity_horizon(made_up([NAN, 0.01, 0.2]))
    aj.save(result, tmp_path / "horizons.nc")
    xr.testing.assert_identical(aj.load(tmp_path / "horizons.nc"), result)


def test_horizons_need_a_sweep_and_a_threshold():
    dataset = made_up([NAN, 0.01])
    with pytest.raises(aj.InputError, match=r"threshold must be finite and at least 0; got -0\.1"):
        aj.validity_horizon(dataset, -0.1)
    with pytest.raises(aj.InputTypeError, match="threshold must be a number"):
        aj.validity_horizon(dataset, "small")  # type: ignore[arg-type]
    for name in ("relative_error", "theory_diverged_step"):
        with pytest.raises(aj.InputError, match=f"from sweep; it has no variable '{name}'"):
            aj.validity_horizon(dataset.drop_vars(name))


def grid_of_horizons(values: dict[str, list], steps=40, rates=(0.5, 2.0)) -> xr.Dataset:
    """For each weight [theory, learning_rate, init_scale, seed]; layered ones a second layer + 1.

    All other weights are those of the output.
    """
    arrays = [np.array(values.get(weight, values["output"]), float) for weight in WEIGHTS]
    layers = [[array, array + 1] for array in arrays[:-1]]
    layers.append([np.full_like(arrays[-1], NAN), arrays[-1]])
    dims = ("weight", "layer", "theory", "learning_rate", "init_scale", "seed")
    return xr.Dataset(
        {"horizon": (dims, np.array(layers))},
        {
            "theory": ["leading", "effective"][: len(values["output"])],
            "learning_rate": list(rates),
            "init_scale": [0.0, 0.1][: len(values["output"][0][0])],
            "seed": [3, 1][: len(values["output"][0][0][0])],
            "weight": list(WEIGHTS),
            "has_layers": ("weight", [True, True, True, False]),
            "layer": [1, 2],
        },
        {"corpus_name": "a made-up corpus", "threshold": 0.1, "steps": steps},
    )


# [theory, learning_rate, init_scale, seed]
GRID = {
    "output": [
        [[[10, 12], [0, 11]], [[5, 4], [3, NAN]]],
        [[[30, 20], [NAN, NAN]], [[NAN, 15], [7, 0]]],
    ]
}


def test_table_has_the_least_of_layers_and_seeds():
    table = aj.horizon_table(grid_of_horizons({**GRID, "value": np.full((2, 2, 2, 2), NAN)}))
    expected = [
        ("leading", 0.0, 0.5, 10.0, 5.0),
        ("leading", 0.0, 2.0, 4.0, 8.0),
        ("leading", 0.1, 0.5, 0.0, 0.0),
        ("leading", 0.1, 2.0, 3.0, 6.0),
        ("effective", 0.0, 0.5, 20.0, 10.0),
        ("effective", 0.0, 2.0, 15.0, 30.0),
        ("effective", 0.1, 0.5, None, None),
        ("effective", 0.1, 2.0, 0.0, 0.0),
    ]
    assert table == [
        {
            "theory": theory,
            "init_scale": scale,
            "learning_rate": rate,
            "query_key": steps,
            "position": steps,
            "value": None,
            "output": steps,
            "output*eta": time,
        }
        for theory, scale, rate, steps, time in expected
    ]
    json.dumps(table, allow_nan=False)  # plain numbers, as `save_json` writes them


def law_rows(law, noise=0.0):
    rng = np.random.default_rng(0)
    rows = []
    for eta in (0.05, 0.1, 0.4):
        for V in (100, 300):
            for L in (1, 2, 4):
                row = {"learning_rate": eta, "vocab_size": V, "seq_len": 32, "num_layers": L}
                horizon = law(eta, V, L) * math.exp(noise * rng.normal())
                rows.append({**row, "theory": "leading", "output": horizon})
    return rows


def test_a_law_is_recovered():
    rows = law_rows(lambda eta, V, L: 3 * eta**-1 * V**0.25 * L**-0.5)
    # Of no use to a law: beyond the sweep, in either spelling, and never held.
    for horizon in (None, NAN, 0.0):
        rows.append({**rows[0], "num_layers": 7, "output": horizon, "theory": "effective"})
    law = aj.fit_power_law(rows, of="output")
    assert law.exponents == pytest.approx(
        {"learning_rate": -1, "vocab_size": 0.25, "num_layers": -0.5}, rel=1e-10
    )
    assert law.standard_errors == pytest.approx(dict.fromkeys(law.exponents, 0), abs=1e-10)
    assert law.prefactor == pytest.approx(3, rel=1e-10)
    assert law.r_squared == pytest.approx(1, abs=1e-12)
    assert law.num_rows == 18


def test_standard_errors_are_those_of_the_textbook():
    rows = law_rows(lambda eta, V, L: 5 * eta**-0.9, noise=0.1)
    law = aj.fit_power_law(rows, ("learning_rate",), of="output")
    x, y = np.log([row["learning_rate"] for row in rows]), np.log([row["output"] for row in rows])
    slope = np.sum((x - x.mean()) * (y - y.mean())) / np.sum((x - x.mean()) ** 2)
    left = y - y.mean() - slope * (x - x.mean())
    error = math.sqrt(left @ left / (len(x) - 2) / np.sum((x - x.mean()) ** 2))
    assert law.exponents == {"learning_rate": pytest.approx(slope, rel=1e-10)}
    assert law.standard_errors == {"learning_rate": pytest.approx(error, rel=1e-10)}
    assert law.prefactor == pytest.approx(math.exp(y.mean() - slope * x.mean()), rel=1e-10)
    assert law.r_squared == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2, rel=1e-10)
    assert abs(law.exponents["learning_rate"] + 0.9) < 3 * error


def test_a_law_of_another_column_and_of_a_constant():
    rows = [{"learning_rate": eta, "value": 8 * eta, "output": 6.0} for eta in (1, 2, 3)]
    assert aj.fit_power_law(rows, of="value").exponents == pytest.approx({"learning_rate": 1})
    constant = aj.fit_power_law(rows, of="output")
    assert constant.exponents == pytest.approx({"learning_rate": 0})
    assert math.isnan(constant.r_squared)
    mean = aj.fit_power_law(rows, (), of="output")
    assert (mean.exponents, mean.prefactor, mean.num_rows) == ({}, pytest.approx(6), 3)


def test_a_law_needs_rows_that_decide_it():
    rows = [{"learning_rate": eta, "output": 1 / eta} for eta in (0.5, 1.0, 2.0)]
    aj.fit_power_law(rows, of="output")
    with pytest.raises(
        aj.InputError,
        match=r"at least 3, .*\(the prefactor, learning_rate\); got 2 with a 'output' horizon",
    ):
        aj.fit_power_law([*rows[:2], {"learning_rate": 2.0, "output": None}], of="output")
    with pytest.raises(aj.InputError, match=r"at least 2, .*; got 0"):
        aj.fit_power_law([], of="output")
    with pytest.raises(aj.InputError, match="rows must all have 'learning_rate'; got one with"):
        aj.fit_power_law([*rows, {"output": 2.0}], of="output")
    with pytest.raises(aj.InputError, match="rows must all have 'value'"):
        aj.fit_power_law(rows, of="value")
    with pytest.raises(aj.InputError, match="'learning_rate' of rows must be positive; got -1"):
        aj.fit_power_law([*rows, {"learning_rate": -1.0, "output": 2.0}], of="output")
    with pytest.raises(aj.InputError, match="'output' of rows must be positive; got -2"):
        aj.fit_power_law([*rows, {"learning_rate": 1.0, "output": -2.0}], of="output")
    with pytest.raises(aj.InputTypeError, match="'output' of rows must be a number; got 'long'"):
        aj.fit_power_law([*rows, {"learning_rate": 1.0, "output": "long"}], of="output")
    with pytest.raises(aj.InputError, match="independently of one another"):
        aj.fit_power_law(
            [{**row, "seq_len": 3 * row["learning_rate"]} for row in rows * 2], of="output"
        )
    with pytest.raises(aj.InputError, match=r"one theory; got \['effective', 'leading'\]"):
        aj.fit_power_law(
            [{**row, "theory": theory} for row in rows for theory in ("leading", "effective")],
            of="output",
        )
    with pytest.raises(aj.InputTypeError, match="exponents must be a sequence of names; got 'V'"):
        aj.fit_power_law(rows, "V", of="output")


STUDY = {
    "vocab_sizes": [6, 9],
    "seq_lens": [5, 7],
    "num_layers": [2, 1],
    "learning_rates": [1.0, 2.0, 0.5],
    "duration": 4.0,
}


def load(vocab_size, seq_len):
    return token_data(random_tokens(0, 8, seq_len, vocab_size), vocab_size)


def test_a_study_varies_one_thing_at_a_time(monkeypatch, tmp_path):
    """Which sweeps it runs, and what it makes of them; the sweeps themselves are made up."""
    calls, loads, reports = [], [], []

    def fake_sweep(data, *, learning_rates, steps, num_layers, model, theories, progress):
        calls.append((data.vocab_size, data.seq_len, num_layers, *learning_rates, steps))
        for step in range(steps + 1):
            progress(step + 1, steps + 1)
        errors = np.where(np.arange(steps + 1) > 1, 0.5, 0.01)
        dataset = made_up([NAN, *errors[1:]], rates=learning_rates)
        dataset["relative_error"][{"weight": WEIGHTS.index("value"), "layer": 0}] = 0.01
        dataset["relative_error"][{"weight": WEIGHTS.index("query_key")}] = NAN
        return dataset

    def counted(vocab_size, seq_len):
        loads.append((vocab_size, seq_len))
        return load(vocab_size, seq_len)

    monkeypatch.setattr(horizons, "sweep", fake_sweep)
    study = partial(aj.horizon_study, counted, **STUDY, progress=lambda *done: reports.append(done))
    rows = study()
    assert calls == [
        (6, 5, 2, 1.0, 4),
        (9, 5, 2, 1.0, 4),
        (6, 7, 2, 1.0, 4),
        (6, 5, 1, 1.0, 4),
        (6, 5, 2, 2.0, 2),
        (6, 5, 2, 0.5, 8),
    ]
    assert loads == [(6, 5), (9, 5), (6, 7)]
    total = sum(call[-1] + 1 for call in calls)
    assert reports == [(done, total) for done in range(1, total + 1)]
    assert rows[-1] == {
        "vocab_size": 6,
        "seq_len": 5,
        "num_layers": 2,
        "learning_rate": 0.5,
        "theory": "leading",
        "query_key": None,
        "position": 2.0,
        "value": 2.0,
        "output": 2.0,
        "query_key*eta": None,
        "position*eta": 1.0,
        "value*eta": 1.0,
        "output*eta": 1.0,
    }
    assert [row["output*eta"] for row in rows] == [2, 2, 2, 2, 4, 1]

    # A study that is stopped goes on, to the same rows.
    def stopped(name, compute):
        if name.startswith("V6-T7"):
            raise KeyboardInterrupt
        return part(name, compute)

    calls.clear()
    with claim(tmp_path / "of", "horizon", {}) as folder:
        part = results.parts_kept_in(folder)
        with pytest.raises(KeyboardInterrupt):
            study(part=stopped)
        assert study(part=part) == rows
    assert len(calls) == len(rows)


def test_a_study_of_real_runs():
    """The horizon of each theory is the one read off a sweep; later for the effective theory."""
    base = {name: values[:1] for name, values in STUDY.items() if name != "duration"}
    rows = aj.horizon_study(load, **base, duration=12.0, threshold=0.02)
    dataset = aj.sweep(
        load(6, 5),
        learning_rates=[1.0],
        steps=12,
        num_layers=2,
        theories=("leading", "effective"),
    )
    for row, theory in zip(rows, ("leading", "effective"), strict=True):
        assert row["theory"] == theory
        error = dataset["relative_error"].sel(
            theory=theory, quantity="weights", weight="output", layer=2
        )
        error = error.values.squeeze()
        above = np.flatnonzero(error > 0.02)
        assert row["output"] == (above[0] if above.size else None)
    assert rows[0]["output"] < (rows[1]["output"] or math.inf)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"vocab_sizes": []}, aj.InputError, "vocab_sizes must not be empty"),
        ({"seq_lens": [4, 4]}, aj.InputError, "seq_lens must not repeat a value"),
        ({"seq_lens": [4.5]}, aj.InputTypeError, "every entry of seq_lens must be an integer"),
        ({"num_layers": 2}, aj.InputTypeError, "num_layers must be a sequence of numbers"),
        ({"num_layers": [0]}, aj.InputError, "every entry of num_layers must be .* at least 1"),
        ({"learning_rates": [0.0]}, aj.InputError, "learning_rates must be positive; got 0"),
        ({"duration": 0}, aj.InputError, "duration must be positive; got 0"),
        ({"duration": math.inf}, aj.InputError, "duration must be finite"),
        ({"threshold": -1}, aj.InputError, "threshold must be finite and at least 0"),
        ({"load": None}, aj.InputTypeError, "load must be a function"),
        ({"load": lambda **_: None}, aj.InputTypeError, "the result of load must be TokenData"),
        (
            {"load": lambda **_: load(6, 4)},
            aj.InputError,
            "vocab_size=6 and seq_len=5; got 6 and 4",
        ),
    ],
)
def test_a_study_checks_its_arguments(change, error, message):
    with pytest.raises(error, match=message):
        aj.horizon_study(**{"load": load, **STUDY, **change})


def shown(line):
    """The points of a line that can be seen."""
    x, y = (np.asarray(values, float) for values in line.get_data())
    return {(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True) if math.isfinite(b)}


def test_figure_shows_least_range_and_what_did_not_end():
    figure = aj.plot_horizons(grid_of_horizons(GRID, steps=40).isel(learning_rate=[1, 0]))
    axes = np.array(figure.axes).reshape(2, len(WEIGHTS))
    assert "leading" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert "layers and seeds" in figure.get_suptitle()
    assert "a made-up corpus" in figure.get_suptitle()
    # (rate, time) of the least horizon; triangles at the end of the sweep and at one step.
    expected = {
        (0, "leading"): ({(0.5, 5.0), (2.0, 8.0)}, set(), set()),
        (0, "effective"): ({(0.5, 10.0), (2.0, 30.0)}, {(2.0, 80.0)}, set()),
        (1, "leading"): ({(2.0, 6.0)}, {(2.0, 80.0)}, {(0.5, 0.5)}),
        (1, "effective"): (set(), {(0.5, 20.0)}, {(2.0, 2.0)}),
    }
    for (i, theory), (line, up, down) in expected.items():
        ax = axes[i, WEIGHTS.index("output")]
        assert ax.get_xscale() == ax.get_yscale() == "log"
        drawn = [each for each in ax.lines if each.get_label() == theory]
        assert len(drawn) == 1
        assert shown(drawn[0]) == line
        same = [each for each in ax.lines if each.get_color() == drawn[0].get_color()]
        for marker, points in (("^", up), ("v", down)):
            assert set().union(*(shown(m) for m in same if m.get_marker() == marker)) == points
    # The shade of the leading theory at rate 2.0 from a zero start: seeds 4 and 5, layers + 1.
    corners = axes[0, 0].collections[0].get_paths()[0].vertices
    at = corners[corners[:, 0] == 2.0, 1]
    assert (at.min(), at.max()) == (8, 12)


@pytest.mark.parametrize("value", [0.0, NAN, 1.0])
@pytest.mark.parametrize("steps", [0, 1])
def test_figure_of_the_smallest_study(value, steps):
    """One of everything; warnings are errors in this suite."""
    figure = aj.plot_horizons(grid_of_horizons({"output": [[[[value]]]]}, steps, rates=[0.5]))
    figure.canvas.draw()
    assert "seeds" not in figure.get_suptitle()

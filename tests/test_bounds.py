"""The theorem's conditions at their edges, and its bounds by hand."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import xarray as xr
from conftest import assert_described, random_tokens, token_data

import assocjax as aj
from assocjax.models.params import WEIGHTS

ZERO = [
    "num_layers <= sqrt(seq_len)/4",
    "seq_len >= 60",
    "vocab_size >= 500",
    "steps*learning_rate <= 1/(12*num_layers)",
    "steps*learning_rate <= 5/(8*sqrt(seq_len))",
]
GAUSSIAN = [
    "init_scale <= learning_rate^2/(seq_len^2*vocab_size^(1+xi))",
    "learning_rate >= 1/seq_len",
    "seq_len <= vocab_size",
]
# Every condition is met with room to spare.
MET = {
    "num_layers": 1,
    "seq_len": 64,
    "vocab_size": 1000,
    "learning_rate": 1 / 50,
    "steps": 2,
    "init_scale": 1e-12,
}


def beyond(x: float) -> float:
    return math.nextafter(x, math.inf)


def below(x: float) -> float:
    return math.nextafter(x, 0)


def failing(**change) -> set[str]:
    return {name for name, met in aj.theorem_conditions(**{**MET, **change}).items() if not met}


def test_conditions_are_named_and_met():
    assert aj.theorem_conditions(**MET) == dict.fromkeys(ZERO + GAUSSIAN, True)
    assert list(aj.theorem_conditions(**MET)) == ZERO + GAUSSIAN
    zero = aj.theorem_conditions(**{**MET, "init_scale": 0.0})
    assert list(zero.items()) == [(name, True) for name in ZERO]


@pytest.mark.parametrize(
    ("edge", "outside", "condition"),
    [
        # sqrt(144) / 4 = 3; one position fewer is outside, and so is one layer more.
        ({"num_layers": 3, "seq_len": 144}, {"num_layers": 3, "seq_len": 143}, ZERO[0]),
        ({"num_layers": 3, "seq_len": 144}, {"num_layers": 4, "seq_len": 144}, ZERO[0]),
        ({"seq_len": 60}, {"seq_len": 59}, ZERO[1]),
        ({"vocab_size": 500}, {"vocab_size": 499}, ZERO[2]),
        (
            {"learning_rate": 1 / 12, "steps": 1},
            {"learning_rate": beyond(1 / 12), "steps": 1},
            ZERO[3],
        ),
        (
            {"learning_rate": 1 / 240, "steps": 10, "num_layers": 2},
            {"learning_rate": beyond(1 / 240), "steps": 10, "num_layers": 2},
            ZERO[3],
        ),
        # 5 / (8 * 16) = 0.0390625, below 1/12.
        (
            {"learning_rate": 0.0390625, "steps": 1, "seq_len": 256},
            {"learning_rate": beyond(0.0390625), "steps": 1, "seq_len": 256},
            ZERO[4],
        ),
        # (1/64)^2 / (64^2 * 1024) = 2^-34
        (
            {"init_scale": 2.0**-34, "learning_rate": 1 / 64, "vocab_size": 1024},
            {"init_scale": beyond(2.0**-34), "learning_rate": 1 / 64, "vocab_size": 1024},
            GAUSSIAN[0],
        ),
        # With xi = 1/2 the vocabulary counts 1024^1.5 = 2^15.
        (
            {"init_scale": 2.0**-39, "learning_rate": 1 / 64, "vocab_size": 1024, "xi": 0.5},
            {
                "init_scale": beyond(2.0**-39),
                "learning_rate": 1 / 64,
                "vocab_size": 1024,
                "xi": 0.5,
            },
            GAUSSIAN[0],
        ),
        ({"learning_rate": 1 / 64}, {"learning_rate": below(1 / 64)}, GAUSSIAN[1]),
        (
            {"seq_len": 512, "vocab_size": 512, "steps": 1},
            {"seq_len": 513, "vocab_size": 512, "steps": 1},
            GAUSSIAN[2],
        ),
    ],
)
def test_conditions_at_their_edges(edge, outside, condition):
    """Equality meets a condition; the next number beyond does not."""
    assert condition not in failing(**edge)
    assert condition in failing(**outside)


def test_the_edge_of_the_rate_is_exact_at_every_number_of_steps():
    """s * (1 / (12 L s)) may round to above 1 / (12 L): that must not decide."""
    for steps in range(1, 200):
        for layers in (1, 2, 3):
            edge = float(Fraction(1, 12 * layers * steps))
            common = {"num_layers": layers, "steps": steps}
            assert ZERO[3] not in failing(learning_rate=edge, **common)
            assert ZERO[3] in failing(learning_rate=beyond(edge), **common)
    assert any(s * float(Fraction(1, 12 * s)) > 1 / 12 for s in range(1, 200))


def test_before_the_first_step_any_rate_will_do():
    assert failing(steps=0, learning_rate=1e300, init_scale=0.0) == set()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_layers": 0}, aj.InputError, "num_layers must be at least 1; got 0"),
        ({"seq_len": 1.5}, aj.InputTypeError, "seq_len must be an integer"),
        ({"vocab_size": 1}, aj.InputError, "vocab_size must be at least 2; got 1"),
        ({"steps": -1}, aj.InputError, "steps must be at least 0; got -1"),
        ({"learning_rate": 0}, aj.InputError, "learning_rate must be positive; got 0"),
        ({"learning_rate": math.nan}, aj.InputError, "learning_rate must be finite"),
        ({"init_scale": -1e-9}, aj.InputError, "init_scale must be finite and at least 0"),
        ({"xi": -0.1}, aj.InputError, "xi must be finite and at least 0"),
    ],
)
def test_conditions_check_their_arguments(change, error, message):
    with pytest.raises(error, match=message):
        aj.theorem_conditions(**{**MET, **change})


RATES, SCALES, SEEDS, STEPS, L, T, V = [0.01, 0.25], [0.0, 1e-3], [0, 1], 200, 2, 64, 500
CONFIG = {"gradient": "exact", "optimizer": "sgd", "batch_size": None, "num_layers": L}


def made_up(config=CONFIG, theories=("effective", "leading"), steps=STEPS) -> xr.Dataset:
    """A sweep's Dataset with random distances; at step 0 none, and one run has diverged."""
    rng = np.random.default_rng(0)
    coords = {
        "learning_rate": RATES,
        "seed": SEEDS,
        "init_scale": SCALES,
        "theory": list(theories),
        "step": np.arange(steps + 1, dtype=np.int32),
        "quantity": ["weights", "gradients"],
        "weight": list(WEIGHTS),
        "has_layers": ("weight", [True, True, True, False]),
        "layer": np.arange(1, L + 1),
    }
    dims = [name for name in coords if name != "has_layers"]
    distance = rng.uniform(1e-9, 1e-3, [len(coords[dim]) for dim in dims]).astype(np.float32)
    distance[..., -1, :-1] = np.nan  # output, at layers that are not its own
    dataset = xr.Dataset(
        {"distance": (dims, distance)},
        coords,
        {
            "corpus_name": "a made-up corpus",
            "config": json.dumps(config),
            "corpus": json.dumps({"seq_len": T, "vocab_size": V}),
        },
    )
    at_zero = (dataset["step"] == 0) & (dataset["init_scale"] == 0)
    dataset["distance"] = dataset["distance"].where(~at_zero | dataset["distance"].isnull(), 0)
    dataset["distance"][{"step": slice(50, None), "learning_rate": 1}] = np.nan
    return dataset


def test_bounds_by_hand():
    bounds = aj.theorem_bounds(made_up())
    # s eta = 2: 3 * 4, 12 * 8, 13 * 32 * 64. Powers of the step alone would overflow int32.
    at = {"learning_rate": 0.01, "step": 200}
    expected = {"output": 12, "value": 96, "query_key": 26624, "position": 26624}
    assert bounds["bound"].dims == ("weight", "learning_rate", "step")
    for weight in WEIGHTS:
        bound = bounds["bound"].sel(weight=weight)
        assert bound.dtype == np.float64
        assert bound.sel(at).item() == pytest.approx(expected[weight], rel=1e-14)
        assert (bound.isel(step=0) == 0).all()
    # s = 3, eta = 1/4: 3 * 9/16, 12 * 27/64, 13 * 243/1024 * 64
    at = {"learning_rate": 0.25, "step": 3}
    expected = {"output": 1.6875, "value": 5.0625, "query_key": 197.4375, "position": 197.4375}
    for weight in WEIGHTS:
        assert bounds["bound"].sel(weight=weight, **at).item() == expected[weight]


def test_distance_and_looseness():
    dataset = made_up()
    bounds = aj.theorem_bounds(dataset)
    assert bounds.attrs == dataset.attrs
    distances = dataset["distance"].sel(theory="leading", quantity="weights", drop=True)
    xr.testing.assert_equal(bounds["distance"], distances)
    assert bounds["looseness"].dims == distances.dims
    assert bounds["looseness"].sel(weight="output", layer=1).isnull().all()
    for weight in WEIGHTS:
        layers = slice(L if weight == "output" else 1, L)
        distance = distances.sel(weight=weight, layer=layers)
        looseness = bounds["looseness"].sel(weight=weight, layer=layers)
        for rate, scale, step in ((0.01, 0.0, 200), (0.25, 1e-3, 7)):
            at = {"learning_rate": rate, "step": step}
            cell = {**at, "init_scale": scale}
            np.testing.assert_allclose(
                looseness.sel(cell),
                bounds["bound"].sel(weight=weight, **at).item()
                / distance.sel(cell).values.astype(float),
                rtol=1e-12,
            )
        # Undefined at the start and after a divergence, and nowhere else.
        undefined = looseness.isnull()
        assert undefined.isel(step=0).all()
        assert undefined.isel(step=slice(50, None), learning_rate=1).all()
        assert undefined.sum() == undefined.size * (1 + 0.5 * 151) / (STEPS + 1)


def test_conditions_of_a_sweep_are_those_of_each_of_its_points():
    bounds = aj.theorem_bounds(made_up())
    conditions, met = bounds["conditions"], bounds["conditions_met"]
    assert conditions.dims == ("init_scale", "learning_rate", "step", "condition")
    assert conditions["condition"].values.tolist() == ZERO + GAUSSIAN
    assert conditions.dtype == met.dtype == bool
    for scale in SCALES:
        for rate in RATES:
            for step in (0, 1, 4, 5, 20):
                expected = aj.theorem_conditions(
                    num_layers=L,
                    seq_len=T,
                    vocab_size=V,
                    learning_rate=rate,
                    steps=step,
                    init_scale=scale,
                )
                cell = conditions.sel(init_scale=scale, learning_rate=rate, step=step)
                for name in ZERO + GAUSSIAN:
                    assert cell.sel(condition=name).item() == expected.get(name, True)
                at = {"init_scale": scale, "learning_rate": rate, "step": step}
                assert met.sel(at).item() == all(expected.values())
    # s <= 1 / (24 * 0.01) = 4.17 from zero; a start of 1e-3 is too large for the theorem.
    assert met.sel(learning_rate=0.01, init_scale=0.0).sum() == 5
    assert met.sel(init_scale=1e-3).sum() == 0
    from_zero = aj.theorem_bounds(made_up().sel(init_scale=[0.0]))
    assert from_zero["condition"].values.tolist() == ZERO


def test_bounds_survive_a_file(tmp_path):
    bounds = aj.theorem_bounds(made_up())
    aj.save(bounds, tmp_path / "bounds.nc")
    xr.testing.assert_identical(aj.load(tmp_path / "bounds.nc"), bounds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gradient": "leading"}, "a sweep with gradient='exact', .*; got 'leading'"),
        ({"optimizer": "adam"}, "a sweep with optimizer='sgd', .*; got 'adam'"),
        ({"batch_size": 4}, "a sweep with batch_size=None, .*; got 4"),
    ],
)
def test_the_theorem_says_nothing_of_other_training(change, message):
    with pytest.raises(aj.InputError, match=message):
        aj.theorem_bounds(made_up({**CONFIG, **change}))


def test_bounds_need_a_sweep_with_the_leading_theory():
    with pytest.raises(aj.InputError, match=r"the theory 'leading'; got \['effective'\]"):
        aj.theorem_bounds(made_up(theories=("effective",)))
    with pytest.raises(aj.InputError, match="from sweep; it has no variable 'distance'"):
        aj.theorem_bounds(made_up().drop_vars("distance"))
    with pytest.raises(aj.InputError, match="from sweep; it has no attribute 'corpus'"):
        aj.theorem_bounds(made_up().drop_attrs().assign_attrs(config="{}"))


def test_a_real_run_keeps_within_the_bounds(x64):
    """Where the theorem speaks it must be right; the run also has both ends of the conditions."""
    data = token_data(random_tokens(0, 2, 64, 500), 500)
    leading = {"theories": ["leading"]}
    dataset = aj.sweep(data, learning_rates=[1 / 64], steps=8, num_layers=2, **leading)
    bounds = aj.theorem_bounds(dataset)
    assert_described(bounds)
    met = bounds["conditions_met"]
    assert met.squeeze().values.tolist() == [True] * 3 + [False] * 6  # s <= 64 / 24
    for weight in WEIGHTS:
        looseness = bounds["looseness"].sel(weight=weight).where(met)
        assert looseness.notnull().any() or weight in ("query_key", "position")
        assert not (looseness < 1).any()


def shown(line):
    x, y = (np.asarray(values, float) for values in line.get_data())
    return x[np.isfinite(y)], y[np.isfinite(y)]


def test_figure_shows_distance_bound_and_where_it_holds():
    bounds = aj.theorem_bounds(made_up())
    figure = aj.plot_bounds(bounds)
    axes = np.array(figure.axes).reshape(2, len(WEIGHTS))
    steps = np.arange(1, STEPS + 1)
    for i, scale in enumerate(SCALES):
        for ax, weight in zip(axes[i], WEIGHTS, strict=True):
            assert f"{scale:g}" in ax.get_title()
            assert ax.get_xscale() == ax.get_yscale() == "log"
            for rate in RATES:
                cell = bounds.sel(learning_rate=rate, init_scale=scale, weight=weight)
                cell = cell.isel(step=slice(1, None))
                measured = [x for x in ax.lines if x.get_label() == rf"$\eta$ = {rate:g}"]
                assert len(measured) == 1
                distance = cell["distance"]
                x, y = measured[0].get_data()
                np.testing.assert_array_equal(x, steps)
                mean = distance.mean(set(distance.dims) - {"step"})  # in any order of sums
                np.testing.assert_allclose(y, mean, rtol=1e-6)
                others = ax.lines[ax.lines.index(measured[0]) + 1 :]
                dashed, broad = others[:2]
                assert dashed.get_linestyle() == "--"
                np.testing.assert_array_equal(dashed.get_ydata(), cell["bound"])
                assert broad.get_linewidth() > 3
                met = cell["conditions_met"].values
                np.testing.assert_array_equal(shown(broad)[0], steps[met])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [*(rf"$\eta$ = {rate:g}" for rate in RATES), "bound", "conditions hold"]
    assert "layers and seeds" in figure.get_suptitle()
    assert "a made-up corpus" in figure.get_suptitle()


def test_figure_shows_at_most_three_rates():
    dataset = xr.concat(
        [
            made_up().assign_coords(learning_rate=rates)
            for rates in ([5.0, 2.0], [4.0, 1.0], [3, 6])
        ],
        "learning_rate",
    )
    figure = aj.plot_bounds(aj.theorem_bounds(dataset))
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:-2] == [rf"$\eta$ = {rate:g}" for rate in (1, 4, 6)]


@pytest.mark.parametrize("steps", [0, 1])
def test_figure_of_the_smallest_sweep(steps):
    """One of everything; warnings are errors in this suite."""
    dataset = made_up(theories=("leading",), steps=steps)
    first = {"learning_rate": [0], "seed": [0], "init_scale": [0], "layer": [-1]}
    for each in (dataset, dataset.where(False)):
        figure = aj.plot_bounds(aj.theorem_bounds(each.isel(first)))
        figure.canvas.draw()
        assert "seeds" not in figure.get_suptitle()


def test_conditions_beyond_the_range_of_numbers():
    assert "init_scale <= learning_rate^2/(seq_len^2*vocab_size^(1+xi))" in failing(xi=1e20)
    huge = aj.theorem_conditions(**{**MET, "learning_rate": 1e200, "init_scale": 1.0})
    assert huge["init_scale <= learning_rate^2/(seq_len^2*vocab_size^(1+xi))"]

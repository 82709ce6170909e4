"""Figures show the numbers of the Dataset they are drawn from, and nothing else."""

import logging

import numpy as np
import pytest
import xarray as xr
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib.tables._g_l_y_f import Glyph
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

import assocjax as aj
from assocjax import cli, figures
from assocjax.analysis.ablation import CONTROLS
from assocjax.analysis.associations import MATRICES
from assocjax.analysis.scorings import SCORINGS, SIDES
from assocjax.arguments import DPI
from assocjax.figures import style
from assocjax.llm.next_tokens import BIGRAM, READINGS, UNIGRAM
from assocjax.models.params import WEIGHTS

RATES, SEEDS, SCALES, STEPS, LAYERS = [0.5, 2.0, 8.0], [0, 1], [0.0, 1e-3], 6, 2


def synthetic(
    rates=RATES, seeds=SEEDS, scales=SCALES, steps=STEPS, layers=LAYERS, theories=("leading",)
) -> xr.Dataset:
    """A sweep's Dataset of random numbers in which the last rate diverges on its way."""
    rng = np.random.default_rng(0)
    grid = ("learning_rate", "seed", "init_scale")
    shape = (len(rates), len(seeds), len(scales))
    variables = {"loss": ((*grid, "step"), rng.uniform(1, 5, (*shape, steps + 1)))}
    grid, shape = (*grid, "theory", "step"), (*shape, len(theories), steps + 1)
    by_layer, size = (*grid, "weight", "layer"), (*shape, len(WEIGHTS), layers)
    of_both, both = (*by_layer, "quantity"), (*size, 2)
    variables |= {
        "cosine": (of_both, rng.uniform(-1, 1, both)),
        "relative_error": (of_both, rng.uniform(1e-4, 1, both)),
        "sampling_error": (by_layer, rng.uniform(1e-4, 1, size)),
        "truncation_error": (by_layer, rng.uniform(1e-4, 1, size)),
    }
    dataset = xr.Dataset(
        variables,
        {
            "learning_rate": rates,
            "seed": seeds,
            "init_scale": scales,
            "theory": list(theories),
            "step": np.arange(steps + 1),
            "weight": list(WEIGHTS),
            "has_layers": ("weight", [True, True, True, False]),
            "layer": np.arange(1, layers + 1),
            "quantity": ["weights", "gradients"],
        },
        {"corpus_name": "a made-up corpus"},
    )
    for name in set(dataset.data_vars) - {"loss"}:
        # output has no layers, and is at the last one.
        dataset[name][{"weight": -1, "layer": slice(layers - 1)}] = np.nan
        # Weights start at zero, where no cosine and no relative error is defined.
        weights = {"quantity": 0} if "quantity" in dataset[name].dims else {}
        dataset[name][{"step": 0, **weights}] = np.nan
    if len(rates) > 1:
        for name in dataset.data_vars:
            # One seed a step before the other, so that part of a mean is missing.
            for seed, step in zip(range(len(seeds)), (3, 4), strict=False):
                cell = {"learning_rate": -1, "seed": seed, "step": slice(step, None)}
                dataset[name][cell] = np.nan
    return dataset


@pytest.fixture(scope="module")
def dataset():
    return synthetic()


def numbers(dataset, name, **where):
    """Mean, least and largest over layers and seeds, by NumPy: arrays over the axis that is left.

    `over` is the axis that stays; the others are reduced, not counting NaN.
    """
    over = where.pop("over", "step")
    values = dataset[name].sel(where)
    rest = values.transpose(over, ...).values.reshape(values.sizes[over], -1)
    rows = [row[~np.isnan(row)] for row in rest]
    pick = lambda f: np.array([f(row) if row.size else np.nan for row in rows])  # noqa: E731
    return pick(np.mean), pick(np.min), pick(np.max)


def drawn(ax, label):
    """The line of a label and the range that its shade covers at each of its points."""
    lines = [line for line in ax.lines if line.get_label() == label]
    assert len(lines) == 1, label
    x, y = lines[0].get_data()
    labels = [line.get_label() for line in ax.lines if not line.get_label().startswith("_")]
    shade = ax.collections[labels.index(label)]
    # Paths of a shade hold the corners: NaN splits it, and each x has a low and a high one.
    corners = np.concatenate([path.vertices for path in shade.get_paths()] or [np.zeros((0, 2))])
    low, high = np.full(len(x), np.nan), np.full(len(x), np.nan)
    for i, position in enumerate(x):
        at = corners[corners[:, 0] == position, 1]
        if at.size:
            low[i], high[i] = at.min(), at.max()
    return np.asarray(x), np.asarray(y), low, high


def assert_drawn(ax, label, x, expected):
    got_x, mean, low, high = drawn(ax, label)
    np.testing.assert_array_equal(got_x, x)
    np.testing.assert_allclose(mean, expected[0])
    np.testing.assert_allclose(low, expected[1])
    np.testing.assert_allclose(high, expected[2])


def panels(figure, rows, columns):
    return np.array(figure.axes[: rows * columns]).reshape(rows, columns)


@pytest.mark.parametrize("gradients", [False, True])
def test_cosines_are_those_of_the_dataset(dataset, gradients):
    figure = figures.plot_cosines(dataset, gradients=gradients)
    quantity = "gradients" if gradients else "weights"
    axes = panels(figure, len(SCALES), len(RATES))
    for i, scale in enumerate(SCALES):
        for j, rate in enumerate(RATES):
            ax = axes[i, j]
            assert f"{rate:g}" in ax.get_title()
            assert f"{scale:g}" in ax.get_title()
            low = 0.0
            for weight in WEIGHTS:
                at = {"weight": weight, "quantity": quantity}
                expected = numbers(dataset, "cosine", learning_rate=rate, init_scale=scale, **at)
                assert_drawn(ax, figures.LABELS[weight], np.arange(STEPS + 1), expected)
                low = min(low, np.nanmin(expected[1]))
            assert ax.get_ylim()[0] < low
            assert ax.get_ylim()[1] > 1
            assert ax.get_xlim()[0] < 0
            assert ax.get_xlim()[1] > STEPS
    assert axes[0, 0].get_ylabel() == "cosine with theory"
    assert axes[-1, 0].get_xlabel() == "step"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == list(figures.LABELS.values())
    title = figure.get_suptitle()
    assert ("Gradients" if gradients else "Weights") in title
    assert "layers and seeds" in title
    assert "a made-up corpus" in title


@pytest.mark.parametrize("scale", [None, *SCALES])
def test_errors_are_those_of_the_dataset(dataset, scale):
    figure = figures.plot_errors(dataset, init_scale=scale)
    shown = min(SCALES) if scale is None else scale
    axes = panels(figure, 2, len(WEIGHTS))
    steps = [1, 3, 6]  # an eighth (at least 1), a quarter (the same), a half and all of them
    for j, weight in enumerate(WEIGHTS):
        of_weight = dataset.sel(weight=weight, quantity="weights")
        top, bottom = axes[:, j]
        assert top.get_title() == figures.LABELS[weight]
        assert top.get_xlabel() == "step"
        assert "learning rate" in bottom.get_xlabel()
        assert {ax.get_xscale() for ax in (top, bottom)} == {"log"}
        assert {ax.get_yscale() for ax in (top, bottom)} == {"log"}
        for rate in RATES:
            expected = numbers(of_weight, "relative_error", learning_rate=rate, init_scale=shown)
            label = rf"$\eta$ = {rate:g}"
            # Step 0 has no place on a log axis.
            assert_drawn(top, label, np.arange(1, STEPS + 1), [e[1:] for e in expected])
        for step in steps:
            at = {"step": step, "init_scale": shown, "over": "learning_rate"}
            expected = numbers(of_weight, "relative_error", **at)
            assert_drawn(bottom, f"step {step}", RATES, expected)
    legends = [[text.get_text() for text in ax.get_legend().get_texts()] for ax in axes[:, -1]]
    assert legends[0] == [rf"$\eta$ = {rate:g}" for rate in RATES]
    assert legends[1] == [f"step {step}" for step in steps]
    assert f"start sd {shown:g}" in figure.get_suptitle()


@pytest.mark.parametrize("plot", [figures.plot_cosines, figures.plot_errors])
def test_each_theory_has_a_line_of_its_own_kind(plot):
    dataset = synthetic([0.5, 2.0], [0], [0.0], theories=("leading", "effective"))
    figure = plot(dataset)
    cosines = plot is figures.plot_cosines
    ax = figure.axes[0]
    name = "cosine" if cosines else "relative_error"
    of_weight = dataset.sel(weight="query_key", quantity="weights")
    for theory, line in (("leading", "-"), ("effective", "--")):
        values = of_weight[name].sel(theory=theory, learning_rate=0.5, init_scale=0.0, seed=0)
        expected = values.mean("layer").values[0 if cosines else 1 :]
        drawn = [
            np.asarray(found.get_ydata(), float)
            for found in ax.lines
            if found.get_linestyle() == line and len(found.get_ydata()) == len(expected)
        ]
        assert any(np.allclose(y, expected, equal_nan=True) for y in drawn), theory
    legends = [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]
    for legend in legends:
        labels = [text.get_text() for text in legend.get_texts()]
        assert labels[-2:] == ["leading terms", "effective theory"]


def test_disagreement_is_that_of_the_dataset():
    dataset = synthetic([0.5, 2.0], [0], [0.0], theories=("leading", "effective"))
    figure = figures.plot_disagreement(dataset)
    axes = panels(figure, 2, len(WEIGHTS))
    for i, theory in enumerate(("leading", "effective")):
        for j, weight in enumerate(WEIGHTS):
            for error, line in (("sampling", ":"), ("truncation", "-")):
                values = dataset[f"{error}_error"].sel(weight=weight)
                values = values.sel(theory=theory, learning_rate=0.5).squeeze(drop=True)
                expected = values.mean(set(values.dims) - {"step"}).values[1:]
                drawn = [
                    np.asarray(found.get_ydata(), float)
                    for found in axes[i, j].lines
                    if found.get_linestyle() == line and len(found.get_ydata()) == STEPS
                ]
                assert any(np.allclose(y, expected, equal_nan=True) for y in drawn)
    names = [name for name in dataset.data_vars if "sampling" not in str(name)]
    with pytest.raises(ValueError, match="dataset must be from a sweep with a batch_size"):
        figures.plot_disagreement(dataset[names])


def test_a_study_is_drawn_over_what_it_varied():
    settings = {"vocab_size": 10, "seq_len": 4, "num_layers": 2, "learning_rate": 0.5}
    rows = []
    for changed in ({}, {"vocab_size": 20}, {"vocab_size": 5}, {"learning_rate": 1.0}):
        for theory, end in (("leading", 3.0), ("effective", None)):
            ends = {f"{weight}*eta": end and end + len(rows) for weight in WEIGHTS}
            rows.append({**settings, **changed, "theory": theory, **ends})
    rows[2]["position*eta"] = 0.0
    figure = figures.plot_horizon_study(rows, corpus_name="a made-up corpus")
    figure.canvas.draw()
    assert r"$\eta$ = 0.5, V = 10, T = 4, L = 2" in figure.get_suptitle()
    assert "a made-up corpus" in figure.get_suptitle()
    assert [ax.get_xlabel() for ax in figure.axes] == [
        r"learning rate $\eta$",
        "vocabulary size $V$",
    ]
    sizes = figure.axes[1].lines[0].get_xydata()
    np.testing.assert_array_equal(sizes, [[5, 7], [10, 3], [20, 5]])  # in order of size
    position = figure.axes[1].lines[1].get_ydata()
    np.testing.assert_array_equal(position, [7, 3, np.nan])  # never held: no place on a log axis
    assert np.isnan(figure.axes[1].lines[len(WEIGHTS)].get_ydata()).all()  # never ended


def test_loss_is_that_of_the_dataset(dataset):
    figure = figures.plot_loss(dataset)
    for ax, scale in zip(figure.axes, SCALES, strict=True):
        assert f"{scale:g}" in ax.get_title()
        for rate in RATES:
            expected = numbers(dataset, "loss", learning_rate=rate, init_scale=scale)
            assert_drawn(ax, rf"$\eta$ = {rate:g}", np.arange(STEPS + 1), expected)
    assert "nats" in figure.axes[0].get_ylabel()


def test_diverged_runs_end(dataset):
    # The last rate has NaN in one seed from step 3 and in both from step 4.
    _, mean, _, high = drawn(figures.plot_loss(dataset).axes[0], r"$\eta$ = 8")
    assert np.isfinite(mean).tolist() == [True] * 4 + [False] * 3
    assert np.isfinite(high).tolist() == [True] * 4 + [False] * 3
    seed = dataset["loss"].isel(learning_rate=-1, seed=1, init_scale=0)
    assert mean[3] == pytest.approx(float(seed[3]))


def test_a_diverging_loss_does_not_flatten_the_others(dataset):
    dataset = dataset.copy(deep=True)
    dataset["loss"][{"step": 0}] = 4.0
    dataset["loss"] = dataset["loss"].where(dataset["learning_rate"] < 8, 1e27)
    dataset["loss"][{"learning_rate": -1, "step": 0}] = 4.0
    low, high = figures.plot_loss(dataset).axes[0].get_ylim()
    others = dataset["loss"].isel(learning_rate=slice(2))
    assert float(others.min()) - 1 < low < float(others.min())
    assert float(others.max()) < high < float(others.max()) + 1


def test_rates_are_drawn_from_small_to_large(dataset):
    # A line over learning rates must not zigzag because a user gave them in another order.
    figure = figures.plot_errors(dataset.isel(learning_rate=[2, 0, 1]))
    ax = panels(figure, 2, len(WEIGHTS))[1, 0]
    at = {"weight": "query_key", "quantity": "weights", "step": 6, "init_scale": 0.0}
    expected = numbers(dataset, "relative_error", **at, over="learning_rate")
    assert_drawn(ax, "step 6", RATES, expected)


def test_statistics_show_the_most_associated_tokens():
    # "$ b" always occur together, the frequent "a" and "<unk>" with everything.
    rng = np.random.default_rng(0)
    text = np.concatenate(
        [[1, 3] if rng.random() < 0.1 else [rng.choice([0, 2])] for _ in range(999)]
    )
    tokens = ("a", "$", "<unk>", "b")
    data = aj.TokenData(
        text[None].astype(np.int32), np.ones((1, len(text) - 1), bool), tokens, "text", "0" * 64
    )
    dataset = aj.statistics_dataset(data, aj.corpus_statistics(data))
    figure = figures.plot_statistics(dataset, top=2)
    names, shown = figures.matrices._ORDER, [1, 3]
    for ax, name in zip(figure.axes, names, strict=False):
        assert ax.get_title().splitlines()[0] == name.replace("_", "-")
        image = ax.images[0]
        expected = dataset[name].values[np.ix_(shown, shown)]
        np.testing.assert_array_equal(image.get_array(), expected)
        # Zero is white.
        assert image.norm.vmin == -image.norm.vmax
        assert [text.get_text() for text in ax.get_yticklabels()] == [r"\$", "b"]
    labels = figures.plot_statistics(dataset).axes[0].get_yticklabels()
    assert [text.get_text() for text in labels] == [r"\$", "b", "a"]  # all but <unk>
    figure.canvas.draw()  # a dollar sign must not be taken for mathematics


def test_files_are_written_and_equal_input_gives_equal_bytes(dataset, tmp_path):
    paths = {}
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        paths[folder] = figures.save(figures.plot_loss(dataset), tmp_path / folder / "a.loss")
    assert [path.name for path in paths["first"]] == ["a.loss.png", "a.loss.pdf"]
    for first, second, magic in zip(
        paths["first"], paths["second"], (b"\x89PNG", b"%PDF"), strict=True
    ):
        assert first.read_bytes().startswith(magic)
        assert first.read_bytes() == second.read_bytes()


def test_save_sweep_writes_every_figure(dataset, tmp_path):
    paths = figures.save_sweep(dataset.isel(learning_rate=[0], init_scale=[0]), tmp_path)
    names = ("cosine_weights", "cosine_gradients", "relative_error", "loss", "disagreement")
    assert {path.name for path in paths} == {
        f"{n}.{kind}" for n in names for kind in ("png", "pdf")
    }
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths}
    assert all(path.stat().st_size > 1000 for path in paths)


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("all_nan", [False, True])
def test_smallest_sweep(steps, all_nan):
    """One of everything; warnings are errors in this suite."""
    dataset = synthetic([0.5], [3], [0.0], steps, 1)
    if all_nan:
        dataset = dataset.where(False)
    for figure in (
        figures.plot_cosines(dataset),
        figures.plot_cosines(dataset, gradients=True),
        figures.plot_errors(dataset),
        figures.plot_loss(dataset),
    ):
        figure.canvas.draw()
        assert "seeds" not in figure.get_suptitle()


def test_a_single_point_is_marked():
    # A line through one point is invisible.
    figure = figures.plot_cosines(synthetic([0.5], [3], [0.0], 1, 1))
    lines = [line for line in figure.axes[0].lines if not line.get_label().startswith("_")]
    assert len(lines) == len(WEIGHTS)
    assert all(line.get_marker() == "o" for line in lines)


def test_unknown_init_scale(dataset):
    with pytest.raises(ValueError, match=r"init_scale must be one of \[0.0, 0.001\]; got 0.5"):
        figures.plot_errors(dataset, init_scale=0.5)


# Any text, and what is no Dataset of ours

AWKWARD = [
    "Ba$$in.txt", "a$_x^$b.txt", "$", "$$", r"\$", r"\frac{1}{0}$", "_under^", "{", "a\nb", "\0",
    "\ufeff", "\u200b\u202e", "日本語", "🐦", "שלום", "سلام", "e\u0301\u20dd", "", " ", "x" * 200,
]  # fmt: skip


def made_up(names=AWKWARD) -> dict[str, tuple]:
    """Of every plot function what it draws, whose every name is one of these, its options, and a
    variable that it needs."""
    rng, V = np.random.default_rng(0), len(names)
    k, words = 3, np.array(names, object)
    attrs = {"corpus_name": f"{names[0]}\udcff{names[1]}", "model": names[1]}
    numbers = lambda *shape: rng.uniform(0.1, 1, shape)  # noqa: E731

    def of(sizes: dict, variables: dict, **coords) -> xr.Dataset:
        found = {
            name: (dims.split(), numbers(*(sizes[dim] for dim in dims.split())))
            for name, dims in variables.items()
        }
        return xr.Dataset(found, coords, attrs)

    sweep = synthetic([0.5, 2.0], [0], [0.0]).assign_attrs(attrs)
    grid = {"learning_rate": [0.5, 2.0], "seed": [0], "init_scale": [0.0]}
    sizes = {"learning_rate": 2, "seed": 1, "init_scale": 1, "theory": 1, "step": 4}
    sizes |= {"weight": len(WEIGHTS), "layer": 2}
    rate = "learning_rate seed init_scale"
    grid |= {"weight": list(WEIGHTS), "layer": [1, 2]}
    grid["has_layers"] = ("weight", [True, True, True, False])
    horizons = of(sizes, {"horizon": f"{rate} theory weight layer"}, theory=["leading"], **grid)
    bounds = {"distance": f"{rate} weight layer step", "bound": "weight learning_rate step"}
    bounds = of(sizes, bounds | {"conditions_met": "learning_rate init_scale step"}, **grid)
    rows = [
        {"vocab_size": 10 * n, "seq_len": 4, "num_layers": 2, "learning_rate": 0.5}
        | {"theory": "leading", **{f"{weight}*eta": 1.0 for weight in WEIGHTS}}
        for n in (1, 2)
    ]
    sizes = {"unit": V, "edit": 2, "control": len(CONTROLS), "draw": 2}
    ablation = {"loss": "unit edit", "trained_loss": "", "control_loss": "unit edit control draw"}
    ablation = of(sizes, ablation, unit=words, edit=words[:2], control=list(CONTROLS))
    sizes = {"step": 3, "layer": 2, "scoring": 3, "side": 2, "token": V, "rank": k}
    track = {f"{m}_overlap": "step layer scoring side token" for m in figures.associations.MATRICES}
    track |= {"context_theory_score": "scoring side token rank", "target_frequency": "token"}
    track |= {"context_theory_count": "scoring side token rank"}
    track |= {"bigram_precision": "step scoring", "bigram_theory_precision": "scoring"}
    coords = {"scoring": list(SCORINGS), "side": list(SIDES), "step": [0, 1, 4]}
    track = of(sizes, track, token=words, layer=[1, 2], **coords)
    ids = rng.integers(0, V, (3, 2, V, k))
    track["context_theory_id"] = ("scoring", "side", "token", "rank"), ids
    sizes = {"token": V, "other_token": V, "lag": 3}
    statistics = of(
        sizes,
        dict.fromkeys(MATRICES, "token other_token")
        | dict.fromkeys(("input_frequency", "target_frequency", "context_frequency"), "token")
        | {"position": "lag", "num_positions": ""},
        token=words,
        other_token=words,
    ).assign(num_positions=1000)
    scores = ("similarity", "null_mean", "null_sd", "z")
    shared = "null residual centering layer revision"
    compared = {name: f"{shared} theory stream" for name in scores}
    compared |= {f"attention_{name}": f"{shared} head" for name in scores}
    for name in ("similarity", "attention_similarity"):
        compared[name] = compared[name].removeprefix("null ")
    coords = {
        "null": ["all"], "residual": ["uniform"], "centering": ["feature", "token"],
        "layer": [1, 2], "revision": words, "theory": [names[0]], "head": ["0", "mean"],
        "stream": ["before", "after_attention", "after_layer"],
    }  # fmt: skip
    compared = of({dim: len(of_dim) for dim, of_dim in coords.items()}, compared, **coords)
    coords = {
        "twin": ["run", "other run", names[0]], "held_out": [0, 1], "weight": words,
        "layers": ["all", "1"], "step": [1, 4],
    }  # fmt: skip
    twins = dict.fromkeys(("cosine", "partial_cosine"), "twin held_out weight layers step")
    twins = of({dim: len(of_dim) for dim, of_dim in coords.items()}, twins, **coords)
    coords = {
        "part": [names[0], "rest", "chance"], "weight": words, "layers": ["all", "1"],
        "step": [1, 4],
    }  # fmt: skip
    shares = {"share": "part weight layers step"}
    shares = of({dim: len(of_dim) for dim, of_dim in coords.items()}, shares, **coords)
    steps = ("measured", "other_runs", "predicted", "earliest", "latest", "frequencies", "shuffled")
    kinds = {"kind": ("association", np.array(["bigram", "bigram", "context"], object))}
    formed = of({"association": 3}, dict.fromkeys(steps, "association"), **kinds)
    coords = {
        "revision": words[:2], "reading": list(READINGS), "reference": [UNIGRAM, BIGRAM, names[0]],
        "residual": ["uniform", "unigram"], "null": ["all", "frequency"], "order": [1, 2, 3],
    }  # fmt: skip
    ngrams = dict.fromkeys(("kl_mean", "rank_correlation_mean"), "revision reading reference")
    ngrams |= dict.fromkeys(("head_null_mean", "head_null_sd"), "revision residual null")
    ngrams |= dict.fromkeys(("entropy", "cross_entropy"), "order")
    ngrams |= {"head_correlation": "revision residual", "loss": "revision", "kl_of_text": ""}
    sizes = {dim: len(of_dim) for dim, of_dim in coords.items()}
    ngrams = of(sizes, ngrams, **coords, step=("revision", [0, 4]))
    return {
        "plot_ngrams": (ngrams, {}, "kl_mean"),
        "plot_shares": (shares, {}, "share"),
        "plot_predictions": (formed, {}, "measured"),
        "plot_cosines": (sweep, {}, "cosine"),
        "plot_errors": (sweep, {}, "relative_error"),
        "plot_disagreement": (sweep, {}, "sampling_error"),
        "plot_loss": (sweep, {}, "loss"),
        "plot_horizons": (horizons.assign_attrs(steps=4, threshold=0.1), {}, "horizon"),
        "plot_horizon_study": (rows, {"corpus_name": attrs["corpus_name"]}, ""),
        "plot_bounds": (bounds, {}, "bound"),
        "plot_ablation": (ablation, {}, "control_loss"),
        "plot_twins": (twins, {}, "partial_cosine"),
        "plot_twins_by_step": (twins, {"measure": "partial_cosine"}, "partial_cosine"),
        "plot_overlap": (track, {}, "value_overlap"),
        "plot_precision": (track, {}, "bigram_precision"),
        "plot_context_graph": (track, {"token": names[0]}, "context_theory_id"),
        "plot_statistics": (statistics, {}, "context"),
        "plot_layers_by_step": (compared, {"theory": names[0]}, "z"),
        "plot_heads": (compared, {}, "attention_z"),
        "plot_by_layer": (compared.isel(revision=1), {"theory": names[0]}, "z"),
    }


@pytest.mark.parametrize("name", ["plot_layers_by_step", "plot_heads"])
def test_checkpoints_over_the_clock(name):
    """Columns are labelled by name, step or summed learning rate."""
    drawn, options, _ = made_up(["a", "b"])[name]
    timed = drawn.assign_coords(step=("revision", [0, 16]), summed_rate=("revision", [0, 0.014]))
    for of, over, label, ticks in (
        (drawn, "step", "revision", ["a", "b"]),
        (timed, "step", "step", ["0", "16"]),
        (timed, "summed_rate", "summed learning rate", ["0", "0.014"]),
    ):
        figure = getattr(figures, name)(of, over=over, **options)
        (ax, *_) = [ax for ax in figure.axes if ax.get_xlabel()]
        assert ax.get_xlabel() == label
        assert [text.get_text() for text in ax.get_xticklabels()] == ticks
    with pytest.raises(aj.InputError, match="over must be one of"):
        getattr(figures, name)(timed, over="loss", **options)
    with pytest.raises(aj.InputError, match="must have a coordinate 'summed_rate'"):
        getattr(figures, name)(drawn, over="summed_rate", **options)


@pytest.mark.parametrize("name", ["plot_cosines", "plot_horizons", "plot_ablation", "plot_overlap"])
def test_a_dimension_of_which_one_value_is_chosen_is_drawn(name):
    """As the same selection with a list, which keeps the dimension."""
    drawn, options, variable = made_up(["a", "b", "c", "d"])[name]
    for dim in set(drawn[variable].dims) & set(drawn.indexes) - {"quantity", "step"}:
        axes = [
            getattr(figures, name)(drawn.isel({dim: which}), **options).axes for which in (0, [0])
        ]
        shown = [[line.get_xydata() for ax in of for line in ax.lines] for of in axes]
        assert shown[0]
        for one, other in zip(*shown, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_figure_is_an_image_in_a_notebook_and_of_the_size_that_is_asked(dataset):
    figure = aj.plot_loss(dataset, figsize=(np.float32(7), 3))
    width, height = np.frombuffer(figure._repr_png_()[16:24], ">u4")
    assert (width, height) == (7 * DPI, 3 * DPI)
    assert figure.get_facecolor() == (1, 1, 1, 1)
    for bad in ((7,), (7, -1), "large", (7, np.nan)):
        with pytest.raises((aj.InputError, aj.InputTypeError), match="figsize"):
            aj.plot_loss(dataset, figsize=bad)


def test_a_single_panel_is_drawn_into_given_axes(dataset):
    ax = Figure().subplots()
    assert aj.plot_loss(dataset.sel(init_scale=0), ax=ax) is ax.figure
    assert len(ax.lines) == len(RATES)
    with pytest.raises(aj.InputError, match="ax must be left out: there are 2 panels"):
        aj.plot_loss(dataset, ax=ax)


def test_lines_of_two_theories_that_coincide_are_both_seen():
    """The solid one is wide, pale and beneath the dashed one."""
    both = synthetic(theories=("leading", "effective"))
    both["cosine"][:] = 0.5
    ax = aj.plot_cosines(both).axes[0]
    wide, thin = (
        next(line for line in ax.lines if line.get_linestyle() == style and len(line.get_xdata()))
        for style in ("-", "--")
    )
    assert wide.get_linewidth() > 2 * thin.get_linewidth()
    assert wide.get_zorder() < thin.get_zorder()
    assert wide.get_alpha() < 1


PLOTS = sorted(name for name in dir(figures) if name.startswith("plot_"))


@pytest.mark.parametrize("name", PLOTS)
def test_every_figure_draws_any_text(name, tmp_path, caplog):
    data, options, _ = made_up()[name]
    figure = getattr(figures, name)(data, **options)
    assert len(figures.save(figure, tmp_path / "figure")) == 2
    # The name is drawn as it is, and begins no mathematics.
    title = figure._suptitle
    assert title is not None
    shown = title.get_text().splitlines()[-1]
    assert "Ba\\$\\$in.txt" in shown
    assert title._preprocess_math(shown)[1] is False
    assert sum("font" in record.message for record in caplog.records) <= 1


def test_a_command_draws_a_file_of_any_name_and_text(tmp_path, capsys):
    corpus = tmp_path / "Ba$$in a$_x^$b 日.txt"
    corpus.write_text("a $ cost $$ 5 _ ^ \\\\ \u200b \ufeffb 日本語 🐦 שלום . " * 20, "utf-8")
    out = tmp_path / "out"
    cli.main(["statistics", "--corpus", str(corpus), "--seq-len", "8", "--out", str(out)])
    assert {"statistics.nc", "statistics.png", "statistics.pdf"} <= {p.name for p in out.iterdir()}
    assert "日本語" in aj.load(out / "statistics.nc")["token"].values


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Ba$$in", r"Ba\$\$in"),
        (r"\alpha_1^2", r"\alpha_1^2"),
        ("a\nb\0\ufeff\ud800", r"a\nb\x00\ufeff\ud800"),
        ("a b", "a b"),
        ("a\u3000b", r"a\u3000b"),
        ("x" * 81, "x" * 79 + "…"),
        (7, "7"),
    ],
)
def test_text_is_drawn_literally(text, shown):
    assert style.literal(text) == shown


@pytest.fixture
def han(tmp_path):
    """A font that has two characters of Chinese, and no others."""
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "sun", "book"])
    builder.setupCharacterMap({ord("日"): "sun", ord("本"): "book"})
    builder.setupGlyf({name: Glyph() for name in (".notdef", "sun", "book")})
    builder.setupHorizontalMetrics({name: (1000, 0) for name in (".notdef", "sun", "book")})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Two Suns", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "suns.ttf")
    known = list(font_manager.fontManager.ttflist)
    font_manager.fontManager.addfont(tmp_path / "suns.ttf")
    yield "Two Suns"
    font_manager.fontManager.ttflist[:] = known


def test_a_font_is_found_for_what_the_default_has_not(dataset, han, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(style, "_installed_fonts", lambda: [han])
    for cached in (style._font_of, style._characters, style._tell_once):
        cached.cache_clear()
    named = dataset.assign_attrs(corpus_name="日本語 and 語")
    try:
        figure = figures.plot_loss(named)
        assert figure.get_suptitle().endswith("日本□ and □")
        for text in figure.findobj(Text):
            assert text.get_fontfamily()[-1] == han
        figures.save(figure, tmp_path / "loss")
        figures.plot_loss(named)
        # A line, once, whatever the number of characters.
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "install" in caplog.text
    finally:
        for cached in (style._font_of, style._characters, style._tell_once):
            cached.cache_clear()


@pytest.mark.parametrize("name", PLOTS)
def test_other_data_are_refused_in_a_line(name):
    """Nothing, too little, the wrong kind or shape: what is missing is named."""
    plot = getattr(figures, name)
    data, options, needed = made_up(["a", "b", "c"])[name]
    plot(data, **options)
    for other in (None, 3, "sweep.nc", np.zeros(3)):
        with pytest.raises(aj.InputTypeError, match="must be a"):
            plot(other, **options)
    if name == "plot_horizon_study":
        for rows in ([], *([{**data[0], name: None}] for name in data[0] if "*" not in name)):
            with pytest.raises((aj.InputError, aj.InputTypeError), match=r"^(rows|dataset) must"):
                plot(rows, **options)
        return
    numbers = data[needed]
    for wrong in (
        xr.Dataset(),
        data.drop_vars(needed),
        data.isel({numbers.dims[0]: slice(0)}),
        data.assign({needed: 0.5}),
        data.assign({needed: (numbers.dims, np.full(numbers.shape, "word"))}),
    ):
        with pytest.raises(aj.InputError, match=r"^dataset must") as caught:
            plot(wrong, **options)
        assert "\n" not in str(caught.value)


def test_a_figure_that_cannot_be_written_is_told_in_a_line(dataset, tmp_path):
    figure = figures.plot_loss(dataset)
    (tmp_path / "loss.pdf").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "loss", tmp_path / "none" / "loss", tmp_path / "file" / "loss"):
        with pytest.raises(aj.InputError, match=r"cannot write .*loss\.p..: \w"):
            figures.save(figure, path)
    assert {path.name for path in tmp_path.iterdir()} == {"loss.png", "loss.pdf", "file"}
    for wrong in ((figure, 3), ("figure", tmp_path / "loss")):
        with pytest.raises(TypeError, match="must be a"):
            figures.save(*wrong)


def test_a_figure_is_written_whole(dataset, tmp_path, monkeypatch):
    """One that fails while it is written leaves what was there, and nothing half written."""
    figure = figures.plot_loss(dataset)
    figures.save(figure, tmp_path / "loss")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(aj.InputError, match="No space left on device"):
        figures.save(figure, tmp_path / "loss")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

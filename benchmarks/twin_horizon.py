"""Where does a statistics twin stop being like real runs, and is the summed rate always the same?

    python benchmarks/twin_horizon.py FILE.txt OTHER.txt --folder cells --figure horizon

For every text, width and peak learning rate, some real runs of one start and twins of several
orders are trained by one recipe (`compare_twins`), and compared after 1, 1.4, 2, 2.8, 4, ...
updates. The cosine of a held-out run's change with the mean change of the others is the ceiling. A
twin has left it at the step from which on its own cosine stays more than `--margin` below the
ceiling, up to the last step; between two recorded steps the crossing is interpolated in the
logarithm of the step. A twin that is within the margin at the last step has not left.

Last it fits, over the cells in which a twin has left after the first recorded step,

    log S = const(text, weight) + a log(peak rate) + b log(width)

for each order, where S is the sum of the learning rates of the updates until then. If a twin leaves
at a constant summed rate, whatever the rate, a is 0; if it leaves after a constant number of steps,
a is 1. The spread is the standard deviation over groups of one text and weight, each fitted alone.

Every cell is a file in `--folder` as soon as it is done, and a command that was stopped goes on
after the last. Cells in the middle of the grid come first.
"""

import itertools
import json
import math
import time
from pathlib import Path

import matplotlib
import numpy as np
import xarray as xr
from harness import finish, parser
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

import assocjax as aj
from assocjax import figures, llm
from assocjax.corpora import read_documents
from assocjax.errors import InputError
from assocjax.experiments.twins import RUN, compare_twins
from assocjax.llm.pretrain import tokenize_corpus
from assocjax.llm.recipe import make_optimizer, pretrain_recipe
from assocjax.models.decoder import DecoderModel, neox
from assocjax.theories.twins import StatisticsTwin

SHORT = {"attention_output": "att.out", "unembedding": "unembed.", "final_norm": "last norm"}


def recorded_steps(last: int) -> list[int]:
    """1, 1.4, 2, 2.8, ... rounded, and the last."""
    powers = {round(2 ** (k / 2)) for k in range(2 * last.bit_length())}
    return sorted({last, *(step for step in powers if step < last)})


def leaving_step(steps: np.ndarray, gap: np.ndarray, margin: float) -> float:
    """The step from which on the gap stays above the margin: 0 if always, infinity if not."""
    below = np.flatnonzero(~(gap > margin))
    if not below.size:
        return 0.0
    last = below[-1]
    if last == len(steps) - 1:
        return math.inf
    share = (margin - gap[last]) / (gap[last + 1] - gap[last])
    return float(steps[last] * (steps[last + 1] / steps[last]) ** share)


def summed_rates(rate: float, schedule: int, steps: int) -> np.ndarray:
    """The sum of the learning rates of the first 0, 1, ... updates."""
    config = llm.PretrainConfig(learning_rate=rate, steps=schedule)
    return pretrain_recipe(config).summed_rate(np.arange(steps + 1))


def leaving(cell: xr.Dataset, margin: float) -> list[dict]:
    """For every twin and weight of a cell, the step and the summed rate at which it leaves."""
    recipe = json.loads(cell.attrs["cell"])
    summed = summed_rates(recipe["rate"], recipe["schedule"], recipe["steps"])
    cosine = cell["cosine"].sel(layers="all").mean("held_out")
    steps, rows = cell["step"].values.astype(float), []
    for twin, weight in itertools.product(cell["twin"].values[1:], cell["weight"].values):
        gap = cosine.sel(weight=weight, twin=RUN) - cosine.sel(weight=weight, twin=twin)
        step = leaving_step(steps, gap.values, margin)
        known = math.isfinite(step)
        row = {"text": recipe["text"], "width": recipe["width"], "rate": recipe["rate"]}
        row |= {"twin": str(twin), "weight": str(weight), "step": step}
        row["summed"] = float(np.interp(step, np.arange(summed.size), summed)) if known else step
        last = cosine.sel(weight=weight).isel(step=-1)
        rows.append(row | {"ceiling": float(last.sel(twin=RUN)), "end": float(last.sel(twin=twin))})
    return rows


def fit_law(rows: list[dict], twin: str) -> dict[str, float]:
    """Powers of the peak rate and of the width in the summed rate at which a twin leaves."""
    groups, spread = {}, {"rate": [], "width": []}
    for row in rows:
        if row["twin"] == twin and 0 < row["step"] < math.inf:
            groups.setdefault((row["text"], row["weight"]), []).append(row)
    design, target = [], []
    for of_group in groups.values():
        x = np.log([[row["rate"], row["width"]] for row in of_group])
        y = np.log([row["summed"] for row in of_group])
        design.append(x - x.mean(axis=0))
        target.append(y - y.mean())
        fitted = np.linalg.lstsq(design[-1], target[-1], rcond=None)[0]
        for i, name in enumerate(spread):
            if np.ptp(x[:, i]) > 0 and len(of_group) > 2:
                spread[name].append(fitted[i])
    if not design:
        return {"cells": 0}
    x, y = np.concatenate(design), np.concatenate(target)
    powers = np.linalg.lstsq(x, y, rcond=None)[0]
    law = {"cells": len(y), "groups": len(groups), "factor": float(np.exp(np.std(y - x @ powers)))}
    for i, name in enumerate(spread):
        law[name] = float(powers[i]) if spread[name] else math.nan
        law[f"{name}_spread"] = float(np.std(spread[name])) if spread[name] else math.nan
    return law


def verdict(laws: dict[str, dict[str, float]]) -> list[str]:
    lines = []
    for twin, law in laws.items():
        if not law["cells"] or math.isnan(law["rate"]):
            lines.append(f"{twin}: leaves in too few cells for a law.")
            continue
        a, spread = law["rate"], law["rate_spread"]
        nearer = "summed rate" if abs(a) < abs(a - 1) else "number of steps"
        both = f"rate^{a:.2f} (spread {spread:.2f} over {law['groups']} texts and weights)"
        both += f" width^{law['width']:.2f} (spread {law['width_spread']:.2f})"
        lines.append(
            f"{twin}: leaves nearer to a constant {nearer} than to the other: S ~ {both}, steps ~ "
            f"rate^{a - 1:.2f}; what this leaves is a factor of {law['factor']:.2f}."
        )
    return lines


def by_weight(rows: list[dict], twin: str) -> str:
    """The powers of the peak rate and of the width, fitted for each weight over all texts."""
    found = []
    for weight in dict.fromkeys(row["weight"] for row in rows):
        law = fit_law([row for row in rows if row["weight"] == weight], twin)
        if law["cells"] and not math.isnan(law["rate"]):
            powers = f"{law['rate']:.2f}, {law['width']:.2f} ({law['cells']} cells)"
            found.append(f"{SHORT.get(weight, weight)} {powers}")
    return f"{twin}: powers of rate and width by weight: " + (", ".join(found) or "too few cells")


def tables(rows: list[dict]) -> str:
    """For every text and twin: the step, and the summed rate, at which each weight leaves."""

    def cell(row):
        if row["step"] in (0, math.inf):
            return "start" if not row["step"] else f"- ({row['ceiling'] - row['end']:.3f})"
        return f"{row['step']:.0f} / {row['summed']:.3f}"

    weights, lines = list(dict.fromkeys(row["weight"] for row in rows)), []
    for text, twin in itertools.product(
        *(dict.fromkeys(r[k] for r in rows) for k in ("text", "twin"))
    ):
        some = [row for row in rows if row["text"] == text and row["twin"] == twin]
        lines.append(
            f"\n{text}, {twin}: step / summed rate at which it leaves, or - (gap at the end)"
        )
        lines.append(
            f"{'width':>5} {'rate':>7}" + "".join(f"{SHORT.get(w, w):>14}" for w in weights)
        )
        for width, rate in sorted({(row["width"], row["rate"]) for row in some}):
            of_cell = [r for r in some if (r["width"], r["rate"]) == (width, rate)]
            cells = {row["weight"]: cell(row) for row in of_cell}
            lines.append(f"{width:5} {rate:7.0e}" + "".join(f"{cells[w]:>14}" for w in weights))
    return "\n".join(lines)


def draw(rows: list[dict], shown: list[str], end: int) -> Figure:
    """The step at which twins leave, over the peak rate; a row for each text, a column for each
    weight. Triangles have not left at the end; larger markers are larger widths. Dotted lines have
    a constant summed rate, up to the schedule."""
    texts, twins = (list(dict.fromkeys(row[key] for row in rows)) for key in ("text", "twin"))
    widths, rates = (sorted({row[key] for row in rows}) for key in ("width", "rate"))
    figure = Figure(figsize=(2.3 * len(shown) + 1, 2.5 * len(texts)), layout="constrained")
    axes = figure.subplots(len(texts), len(shown), sharex=True, sharey=True, squeeze=False)
    colors = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.88, len(twins)))
    for (i, text), (j, weight) in itertools.product(enumerate(texts), enumerate(shown)):
        ax = axes[i, j]
        for start in (0.003, 0.03, 0.3):
            ax.plot(rates, [start / rate for rate in rates], ":", color="0.6", lw=0.8, zorder=1)
        for k, (twin, color) in enumerate(zip(twins, colors, strict=True)):
            of = [r for r in rows if (r["text"], r["weight"], r["twin"]) == (text, weight, twin)]
            for row in of:
                left, size = row["step"] < math.inf, 3 + 2 * widths.index(row["width"])
                x = row["rate"] * 1.1 ** (k - (len(twins) - 1) / 2)
                y = max(row["step"], 1) if left else end
                fill = color if left else "white"
                ax.plot(x, y, "o" if left else "^", ms=size, mec=color, mfc=fill, zorder=3)
            ax.plot([], [], "o", color=color, label=twin)
        ax.set(xscale="log", yscale="log", ylim=(0.8, 2 * end))
        ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_title(f"{text.split('_')[0][:12]}: {weight.replace('_', ' ')}", fontsize=9)
        ax.set_xlabel("peak learning rate" if i == len(texts) - 1 else "", fontsize=9)
        ax.set_ylabel("step at leaving" if j == 0 else "", fontsize=9)
        ax.grid(alpha=0.3)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)
    figure.suptitle("Where twins leave real runs (triangles: they have not; dotted: constant sums)")
    return figure


def cosines(cell: xr.Dataset, steps: list[int]) -> str:
    """The ceiling and the twins' cosines at some recorded steps."""
    recipe = json.loads(cell.attrs["cell"])
    names = [SHORT.get(name, name) for name in cell["weight"].values.tolist()]
    head = f"{recipe['text']}, width {recipe['width']}, peak rate {recipe['rate']:g}: cosine"
    lines = [f"\n{head}", f"{'step':>5} {'':8}" + "".join(f"{name:>10}" for name in names)]
    for step in (step for step in steps if step in cell["step"].values):
        values = cell["cosine"].sel(layers="all", step=step).mean("held_out")
        for twin in values["twin"].values.tolist():
            row = "".join(f"{value:10.3f}" for value in values.sel(twin=twin).values)
            lines.append(f"{step:5} {twin:8}{row}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__ or "")
    options.add_argument("texts", nargs="*", help="files; the fables by default")
    options.add_argument("--figure", type=Path, help="a figure, without suffix")
    options.add_argument(
        "--shown",
        nargs="+",
        default=["query", "value", "attention_output", "embedding", "biases"],
        help="weights of the figure",
    )
    options.add_argument("--folder", type=Path, help="where cells are kept; nowhere by default")
    options.add_argument("--widths", type=int, nargs="+", default=[24, 48, 96])
    options.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3])
    options.add_argument("--orders", type=int, nargs="+", default=[0, 2, 4, 5])
    options.add_argument("--layers", type=int, default=2)
    options.add_argument("--heads", type=int, default=4)
    options.add_argument("--vocab-size", type=int, default=512)
    options.add_argument("--seq-len", type=int, default=32)
    options.add_argument("--sequences", type=int, default=8192, help="at most, of a text")
    options.add_argument("--batch-size", type=int, default=8)
    options.add_argument("--steps", type=int, default=1024)
    options.add_argument("--schedule", type=int, default=2048, help="steps of the schedule")
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--cosines", type=int, nargs="*", default=[], help="print them at steps")
    options.add_argument("--margin", type=float, default=0.05, help="below the ceiling")
    options = options.parse_args(arguments)
    if options.small:
        small = {"widths": [16], "rates": [3e-3], "orders": [0, 2], "layers": 1, "heads": 2}
        vars(options).update(small, vocab_size=300, seq_len=8, sequences=64, batch_size=4)
        vars(options).update(steps=3, runs=2)
    begin, rows, kept = time.perf_counter(), [], options.folder
    texts, prepared = options.texts or ["fables"], {}
    middle = (
        sorted(options.widths)[len(options.widths) // 2],
        sorted(options.rates)[len(options.rates) // 2],
    )
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    grid: list[tuple[int, float, str]]
    grid = list(itertools.product(options.widths, options.rates, texts))
    grid.sort(key=lambda cell: (cell[0] != middle[0]) + (cell[1] != middle[1]))
    for width, rate, text in grid:
        name = f"{Path(text).stem}-{width}-{rate:g}.nc"
        names = ("layers", "heads", "vocab_size", "seq_len", "sequences", "batch_size", "steps")
        cell = {key: getattr(options, key) for key in (*names, "schedule", "runs", "orders")}
        cell |= {"text": Path(text).stem, "width": width, "rate": rate}
        file = None if kept is None else kept / name
        if file is not None and file.exists():
            found = aj.load(file)
            if json.loads(found.attrs["cell"]) != cell:
                raise InputError(f"{file}: made with other options; name another --folder")
        else:
            if text not in prepared:
                prepared[text] = of_text(text, options)
            V, tokens, statistics = prepared[text]
            architecture = neox(V, options.seq_len, options.layers, width, options.heads)
            before = time.perf_counter()
            found = compare_twins(
                DecoderModel("neox", architecture),
                tokens,
                vocab_size=V,
                statistics=statistics,
                optimizer=make_optimizer(rate, options.schedule),
                steps=recorded_steps(options.steps),
                batch_size=options.batch_size,
                num_runs=options.runs,
                twins=[
                    StatisticsTwin(order, options.batch_size * options.seq_len)
                    for order in options.orders
                ],
            ).assign_attrs(cell=json.dumps(cell))
            if file is not None:
                aj.save(found, file)
            print(f"{name}: {time.perf_counter() - before:.0f} s", flush=True)
        rows += leaving(found, options.margin)
        if options.cosines:
            print(cosines(found, options.cosines), end="\n\n")
    print(tables(rows), end="\n\n")
    laws = {twin: fit_law(rows, twin) for twin in dict.fromkeys(row["twin"] for row in rows)}
    print("\n".join([*verdict(laws), *(by_weight(rows, twin) for twin in laws)]))
    if options.figure is not None:
        some = [row for row in rows if row["twin"] != "twin-0"]  # which leaves at once
        figures.save(draw(some, options.shown, options.steps), options.figure)
    result = {"options": {name: str(value) for name, value in vars(options).items()}}
    result |= {"leaving": rows, "laws": laws, "seconds": time.perf_counter() - begin}
    return finish(result, options.out)


def of_text(text: str, options) -> tuple[int, np.ndarray, aj.ContextStatistics]:
    """The number of tokens of the vocabulary, sequences and statistics."""
    sizes = {"vocab_size": options.vocab_size, "seq_len": options.seq_len}
    config = llm.PretrainConfig(**sizes, batch_size=options.batch_size)
    tokenizer, tokens = tokenize_corpus(read_documents(text), config)
    V, tokens = tokenizer.get_vocab_size(), tokens[: options.sequences]
    return V, tokens, aj.context_statistics(tokens, V)


if __name__ == "__main__":
    main()

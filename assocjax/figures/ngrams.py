"""What a language model's checkpoints predict after single tokens, beside n-grams of a text."""

import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from assocjax.arguments import check_choice
from assocjax.errors import InputError, reading
from assocjax.figures.style import Size, checked, label_axes, literal, panels, set_title
from assocjax.llm.next_tokens import BIGRAM, OTHER, READINGS, UNIGRAM

_READINGS = dict(zip(READINGS, ("token alone", "mean prediction", "each prediction"), strict=True))
_COLORS = {UNIGRAM: "#0072b2", BIGRAM: "#cc3311", OTHER: "0.6"}
_MORE = ("#009e73", "#e69f00", "#882255")
_LABELS = {"step": "step", "summed_rate": "summed learning rate"}


@reading("compare_ngrams")
def plot_ngrams(dataset: xr.Dataset, *, over: str = "step", figsize: Size = None) -> Figure:
    """Agreement of a model's predictions with n-grams, over training.

    Upper row: KL from the text's unigram, bigram, and another token's bigram (a control) to the
    model's prediction of a token alone, its mean prediction over occurrences of the token, and each
    prediction; weighted means over tokens. A dotted line is the bigram of the part of the text that
    the model read. Lower row: rank correlations; the correlation of embedding times unembedding
    with the bigram statistic, beside shuffled tokens; and the loss, with a band for each n that
    holds the entropy of n-grams.

    Args:
      dataset: from `compare_ngrams`, of several revisions.
      over: "step", or "summed_rate", the summed learning rate.
      figsize: width and height of the figure in inches.

    Raises:
      InputError, InputTypeError: the dataset is not from `compare_ngrams`, or has no such
        coordinate.
    """
    needed = {
        "revision reading reference": ["kl_mean", "rank_correlation_mean"],
        "revision residual": ["head_correlation"],
        "revision residual null": ["head_null_mean", "head_null_sd"],
        "revision": ["loss"],
        "order": ["entropy", "cross_entropy"],
        "": ["kl_of_text"],
    }
    for dims, names in needed.items():
        dataset = checked(dataset, "compare_ngrams", names, dims)
    check_choice("over", over, _LABELS)
    if over not in dataset.coords:
        raise InputError(f"over: the dataset has no coordinate {over!r}")
    dataset = dataset.sortby(over)
    x = dataset[over].values.astype(float)
    figure, axes = panels(2, 3, size=(2.9, 2.4), share_x=True, share_y=False, figsize=figsize)
    references = dataset["reference"].values.tolist()
    colors = _COLORS | dict(zip([r for r in references if r not in _COLORS], _MORE, strict=False))
    for ax, (name, title) in zip(axes[0], _READINGS.items(), strict=True):
        kl = dataset["kl_mean"].sel(reading=name)
        for reference in references:
            style = "--" if reference == OTHER else "o-"
            values = kl.sel(reference=reference)
            ax.plot(x, values, style, color=colors[reference], ms=3, label=literal(reference))
        ax.axhline(
            float(dataset["kl_of_text"]),
            color=_COLORS[BIGRAM],
            ls=":",
            lw=1,
            label="bigram, another part of the text",
        )
        ax.set_title(title, fontsize=9)
        ax.set_ylim(bottom=0)
    axes[0, 0].set_ylabel("KL to the model (nats)", fontsize=9)

    ax = axes[1, 0]
    for name, style in zip(READINGS[:2], ("o-", "s--"), strict=True):
        ranks = dataset["rank_correlation_mean"].sel(reading=name)
        for reference in (UNIGRAM, BIGRAM):
            values = ranks.sel(reference=reference)
            ax.plot(x, values, style, color=colors[reference], ms=3, lw=1)
    ax.set_title("rank correlation (dashed: mean prediction)", fontsize=9)

    ax = axes[1, 1]
    for residual, color in zip(("uniform", "unigram"), ("#009e73", "#882255"), strict=True):
        of = dataset.sel(residual=residual)
        ax.plot(x, of["head_correlation"], "o-", color=color, ms=3, label=f"residual {residual}")
        null = of.sel(null="frequency")
        mean, sd = null["head_null_mean"], null["head_null_sd"]
        ax.fill_between(x, mean - 2 * sd, mean + 2 * sd, color=color, alpha=0.3, lw=0)
    ax.set_title("embedding times unembedding, with bigram", fontsize=9)
    ax.legend(fontsize=7, frameon=False)

    ax = axes[1, 2]
    ax.plot(x, dataset["loss"], "o-", color="k", ms=3)
    for order, shade in zip(dataset["order"].values, ("0.85", "0.75", "0.65"), strict=False):
        low, high = (float(dataset[name].sel(order=order)) for name in ("entropy", "cross_entropy"))
        ax.axhspan(low, high, color=shade, lw=0)
        ax.axhline(high, color="0.4", lw=0.8)
        at = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        ax.annotate(f"n = {order}", (0.02, high), (0, 2), fontsize=8, **at)
    ax.set_title("loss, and entropy of n-grams", fontsize=9)

    for ax in axes.flat:
        positive = x[x > 0]
        ax.set_xscale("symlog", linthresh=positive.min() if positive.size else 1, linscale=0.5)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlim(0, 1.2 * x.max() if x.max() else 1)
    label_axes(axes, _LABELS[over], "")
    axes[0, 0].set_ylabel("KL to the model (nats)", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    model = literal(dataset.attrs.get("model", ""))
    what = "predictions after single tokens, and n-grams"
    set_title(figure, f"{model}: {what}" if model else what, dataset)
    return figure

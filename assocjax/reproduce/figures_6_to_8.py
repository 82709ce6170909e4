"""Figures 6 to 8: checkpoints of a language model compared with the theory, and nulls.

The paper's score is dominated by one direction that all tokens share (`assocjax.llm`). So it is
reported with a control, the same score with shuffled tokens, and in the form centred over tokens,
which can fail. Heads (Figure 7) and another text (Figure 8) use the same checkpoints. If a small
model is trained, it is trained on the first text.
"""

import json
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import xarray as xr

from assocjax import figures, llm
from assocjax.corpora import TokenData, TokenFile, read_documents
from assocjax.reproduce.records import Result
from assocjax.reproduce.scales import LanguageModel, Scale
from assocjax.reproduce.work import Work, file_name

LIBRARIES = ("torch", "transformers")
_THEORY = "value"


def figures_6_to_8(scale: Scale, work: Work) -> Result:
    """Compares all checkpoints with the statistics of one or two texts."""
    settings = scale.language_model
    with ExitStack() as stack:
        folder = work.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model, revisions = _model(settings, work, folder)
        found = {}
        for corpus in dict.fromkeys([settings.corpus or work.corpus, settings.other_corpus]):
            if corpus is not None:
                found[corpus] = _compare(model, revisions, corpus, settings, work, folder)
    texts = [of.drop_vars(["token", "token_count"]) for of, _ in found.values()]  # tokens differ
    dataset = xr.concat(texts, "text", combine_attrs="override")
    dataset = dataset.assign_coords(text=[data.name for _, data in found.values()])
    rows = [row for of, data in found.values() for row in _rows(of, data)]
    drawn = {}
    for number, (of, _) in zip((6, 8), found.values(), strict=False):
        drawn[f"figure{number}"] = partial(figures.plot_layers_by_step, of, theory=_THEORY)
    first, data = next(iter(found.values()))
    heads = first.sel(layer=list(settings.heads_at))
    drawn["figure7"] = partial(figures.plot_heads, heads)
    shared = [llm.SharedWeights(**each) for each in json.loads(first.attrs["shared_weights"])]
    setting = {
        "corpus": "; ".join(d.name for _, d in found.values()),
        "sequences N": "; ".join(f"{d.num_sequences:,}" for _, d in found.values()),
        "positions T": data.seq_len,
        "model": settings.model or f"trained on the text: {settings.pretraining}",
        "steps": ", ".join(str(r) for r in revisions),
        "tokens compared": first.attrs["num_tokens"],
        "steps with the same weights": "; ".join(map(str, shared)) or "none",
    }
    return Result(dataset, rows, setting, drawn)


def _model(settings: LanguageModel, work: Work, folder: Path) -> tuple[str | Path, list[str]]:
    if settings.model is not None:
        assert settings.revisions is not None
        return settings.model, list(settings.revisions)
    out = folder / "runs" / "pretrained"
    record = llm.pretrain_tiny(
        read_documents(work.corpus),
        out,
        settings.pretraining,
        progress=lambda done, total: work.progress("pretraining", done, total),
    )
    return out, list(record["revisions"])


def _compare(
    model, revisions, corpus: str, settings: LanguageModel, work: Work, folder: Path
) -> tuple[xr.Dataset, TokenData | TokenFile]:
    text = settings.text
    data = llm.tokens_of_model(
        model,
        revisions[0],
        corpus,
        seq_len=text.seq_len,
        at_most=text.num_sequences,
        num_documents=text.num_documents,
    )
    dataset = llm.compare_revisions(
        model,
        revisions,
        data,
        folder / "runs" / f"compared-{file_name(Path(corpus).name)}",
        num_tokens=settings.num_tokens,
        min_count=settings.min_count,
        num_shuffles=settings.num_shuffles,
        progress=work.progress,
    )
    return dataset, data


def _rows(dataset: xr.Dataset, data: TokenData | TokenFile) -> list[dict[str, Any]]:
    """Scores of the last layer by checkpoint, real and shuffled, in both forms."""
    last = dataset.isel(layer=-1).sel(
        residual="uniform", theory=_THEORY, stream="after_layer", null="all"
    )
    rows = []
    for revision in dataset["revision"].values:
        at = last.sel(revision=revision)
        paper_form, centred = at.sel(centering="feature"), at.sel(centering="token")
        rows.append(
            {
                "statistics of": data.name,
                "checkpoint": str(revision),
                "ours, paper's form": float(paper_form["similarity"]),
                "control: shuffled": float(paper_form["null_mean"]),
                "ours, token-centred": float(centred["similarity"]),
                "control: shuffled, token-centred": float(centred["null_mean"]),
                "z, token-centred": float(centred["z"]),
                "reproduced": None,  # the paper prints maps only, without numbers
            }
        )
    return rows

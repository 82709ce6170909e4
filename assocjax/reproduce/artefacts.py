"""The artefacts by name: each is computed or reused, with its own files; and one report of all."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from assocjax.arguments import SCALE, check_choice, printable
from assocjax.corpora import TokenData
from assocjax.errors import InputError
from assocjax.figures.style import save
from assocjax.llm.libraries import require
from assocjax.reproduce import paper
from assocjax.reproduce.figure_4 import figure_4
from assocjax.reproduce.figures_6_to_8 import LIBRARIES, figures_6_to_8
from assocjax.reproduce.lists import figure_3, figure_5
from assocjax.reproduce.records import Result, verdict
from assocjax.reproduce.report import write_report
from assocjax.reproduce.scales import SCALES, Scale
from assocjax.reproduce.table_3 import table_3
from assocjax.reproduce.tables_1_and_2 import table_1, table_2
from assocjax.reproduce.work import Progress, Work, file_name
from assocjax.storage import claim, results


class _Artefact(NamedTuple):
    """Its function, and the settings of a scale that it depends on; the first has its text."""

    compute: Callable[[Scale, Work], Result]
    settings: tuple[str, ...]


ARTEFACTS = {
    "table1": _Artefact(table_1, ("small_step", "full_batch", "smaller_step")),
    "table2": _Artefact(table_2, ("subwords", "subwords_full_batch")),
    "table3": _Artefact(table_3, ("large_step", "draws")),
    "figure3": _Artefact(figure_3, ("lists",)),
    "figure4": _Artefact(figure_4, ("large_step",)),
    "figure5": _Artefact(figure_5, ("lists",)),
    "figures6-8": _Artefact(figures_6_to_8, ("language_model",)),
}


def reproduce(
    artefacts: Sequence[str] = ("all",),
    *,
    scale: str | Scale = SCALE,
    corpora: Sequence[str] = (),
    out: str | Path,
    overwrite: bool = False,
    progress: Progress | None = None,
    announce: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Computes the paper's tables and figures on some corpora, and writes one report.

    Args:
      artefacts: names of `ARTEFACTS`, or "all".
      scale: a name of `SCALES`, or your own settings (`dataclasses.replace`).
      corpora: as in `load_tokens`. At small scales they are read in addition to the fables, at the
        paper's scale instead of TinyStories.
      out: a folder. It has a subfolder for each corpus, with NetCDF, JSON and figures of each
        artefact, and training runs in `runs`; and `report.html` of these artefacts. Existing files
        are reused if configuration, corpus and versions are the same.
      overwrite: replace existing results of another configuration.
      progress: called with (current work, units done, units in total).
      announce: called with a line for each artefact.

    Returns:
      The records in the JSON files, by artefact and corpus: the paper's setting and ours, `rows`
      with its numbers, ours and the controls, and how many `rows` agree.

    Raises:
      InputError: an artefact or scale is unknown, a corpus cannot be read, or a file in `out` has
        another configuration (the error names the difference).

    Cost: at the paper's scale, for one accelerator, 6,720 steps of 2,048 sequences at V = 3,000,
    T = 200, L = 3, and 320 at V = 10,000.
    """
    if not artefacts:
        raise InputError(f"artefacts must name one of {', '.join(ARTEFACTS)} or all; got none")
    for name in artefacts:
        check_choice("artefact", name, (*ARTEFACTS, "all"))
    names = [name for name in ARTEFACTS if name in artefacts or "all" in artefacts]
    if isinstance(scale, str):
        scale = SCALES[check_choice("scale", scale, tuple(SCALES))]
    in_place = scale.corpora if not corpora or scale.corpora == ("fables",) else ()
    with claim(out, "reproduce", {}) as folder:
        works = [
            Work(
                corpus,
                folder,
                file_name(Path(corpus).name),
                overwrite=overwrite,
                progress=progress,
            )
            for corpus in dict.fromkeys([*in_place, *corpora])
        ]
        if len({work.name for work in works}) < len(works):
            raise InputError("corpora must have different names; rename a file")
        for work in works:  # a corpus that cannot be read raises before any computation
            for name in names:
                _tokens(name, scale, work)
        records = []
        for name in names:
            for work in works:
                records.append(_record(name, scale, work))
                announce(f"{name}, {records[-1]['corpus_name']}: {records[-1]['verdict']}")
                write_report(records, folder)
        folder.finish()
        return records


def _tokens(name: str, scale: Scale, work: Work) -> TokenData | None:
    """The text of an artefact; None if the text is in a model's own tokens."""
    text = getattr(scale, ARTEFACTS[name].settings[0]).text
    return work.tokens(text) if text.tokenizer else None


def _record(name: str, scale: Scale, work: Work) -> dict[str, Any]:
    compute, settings = ARTEFACTS[name]
    config = {field: dataclasses.asdict(scale)[field] for field in settings}
    assert work.claimed is not None
    data = _tokens(name, scale, work)
    record = {
        "artefact": name,
        "corpus_name": printable(work.corpus) if data is None else data.name,
        "paper": paper.ARTEFACTS[name]._asdict(),
        "setting": {},
        "rows": [],
        "figures": [],
        "folder": "",
        "skipped": None,
    }
    missing = _missing_libraries() if name == "figures6-8" else None
    if missing is not None:  # not saved, since they may be installed next time
        return record | {"verdict": f"left out: {missing}", "skipped": missing}
    of = results.identity(data, config | {"read": work.corpus} if data is None else config)
    folder = work.claimed.path / work.name
    dataset = results.reuse(folder / f"{name}.nc", of, overwrite=work.overwrite)
    kept = None if dataset is None else json.loads(dataset.attrs["record"])
    if kept is not None and all((folder / file).exists() for file in kept["figures"]):
        record = kept
    else:
        result = compute(scale, work)
        drawn = {f"{name}-{of_it}": draw for of_it, draw in result.figures.items()}
        record |= {
            "corpus_name": result.dataset.attrs.get("corpus_name", record["corpus_name"]),
            "setting": result.setting,
            "rows": result.rows,
            "verdict": verdict(result.rows, scale),
            "figures": [f"{file}.png" for file in drawn],
            "folder": work.name,
            "decided_by": of,
        }
        record = results.finite(record)
        dataset = results.describe(result.dataset.assign_attrs(record=json.dumps(record)))
        results.keep(work.claimed, f"{work.name}/{name}.nc", dataset, of)
        for file, draw in drawn.items():  # after the numbers, so that a failing figure loses none
            save(draw(), f"{work.name}/{file}", into=work.claimed)
    results.save_json_to(work.claimed, f"{work.name}/{name}.json", record)
    return record


def _missing_libraries() -> str | None:
    for library in LIBRARIES:
        try:
            require(library)
        except InputError as error:
            return str(error)
    return None

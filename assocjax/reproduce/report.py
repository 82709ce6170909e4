"""The report: one HTML file with all artefacts, their numbers beside the paper's, and figures."""

import base64
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from assocjax.storage import Folder, results


def write_report(records: Sequence[dict[str, Any]], folder: Folder) -> None:
    """Writes `report.html`, which needs no other file, and `report.json`.

    Args:
      records: as `reproduce` returns them.
      folder: claimed, where they and the figures of their corpora are.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"cell": cell}
    template = environment.from_string(
        files("assocjax.reproduce").joinpath("report.html").read_text("utf-8")
    )
    sections = [
        _section([r for r in records if r["artefact"] == name], folder.path)
        for name in dict.fromkeys(record["artefact"] for record in records)
    ]
    corpora = list(dict.fromkeys(record["corpus_name"] for record in records))
    html = template.render(sections=sections, corpora=corpora, versions=results.versions())
    with folder.file("report.html") as part:
        part.write_text(html, "utf-8")
    results.save_json_to(folder, "report.json", list(records))


def _section(records: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    paper = records[0]["paper"]
    done = [record for record in records if not record["skipped"]]
    names = list(dict.fromkeys([*paper["setting"], *(k for r in done for k in r["setting"])]))
    settings = [
        (name, [paper["setting"].get(name), *(r["setting"].get(name) for r in done)])
        for name in names
    ]
    return {
        "name": records[0]["artefact"],
        "paper": paper,
        "settings": [(name, of) for name, of in settings if any(v is not None for v in of)]
        if done
        else [],
        "corpora": [record["corpus_name"] for record in done],
        "parts": [_part(record, folder) for record in records],
    }


def _part(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    columns = list(dict.fromkeys(key for row in record["rows"] for key in row))
    images = [
        base64.b64encode((folder / record["folder"] / name).read_bytes()).decode()
        for name in record["figures"]
    ]
    return {
        "corpus": record["corpus_name"],
        "columns": columns,
        "rows": [[row.get(column, "") for column in columns] for row in record["rows"]],
        "differs": record["differs"],
        "verdict": record["notes"][0],
        "notes": record["notes"][1:],
        "images": images,
    }


_MINUS = "\N{MINUS SIGN}"


def cell(value: Any) -> str:
    """A value as text: numbers with as many digits as say something, a dash for none."""
    if value is None or value != value:
        return "\N{EN DASH}"
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        # Cosines near 1 are told apart by what they lack.
        digits = 6 if 0.99 < abs(value) < 1 else 4
        return f"{value:.{digits}f}".rstrip("0").rstrip(".").replace("-", _MINUS)
    return f"{value:.1e}".replace("e-0", "e-").replace("-", _MINUS)

"""The report: one HTML file with all artefacts, their numbers and the paper's, and figures."""

import base64
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import jinja2

from assocjax.storage import Folder, results


def write_report(records: Sequence[dict[str, Any]], folder: Folder) -> None:
    """Writes `report.html`, which needs no other file, and `report.json`.

    Args:
      records: the return value of `reproduce`.
      folder: the claimed folder, which contains the figures.
    """

    def image(record: dict[str, Any], name: str) -> str:
        return base64.b64encode((folder.path / record["folder"] / name).read_bytes()).decode()

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"cell": cell, "image": image}
    template = environment.from_string(
        files("assocjax.reproduce").joinpath("report.html").read_text("utf-8")
    )
    sections: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        sections.setdefault(record["artefact"], []).append(record)
    html = template.render(sections=sections, versions=results.versions())
    with folder.file("report.html") as part:
        part.write_text(html, "utf-8")
    results.save_json_to(folder, "report.json", list(records))


_MINUS = "\N{MINUS SIGN}"


def cell(value: Any) -> str:
    """A value as text: numbers with a suitable number of digits, a dash for a missing value."""
    if value is None or value != value:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        # Cosines near 1 need more digits to be distinguished.
        digits = 6 if 0.99 < abs(value) < 1 else 4
        return f"{value:.{digits}f}".rstrip("0").rstrip(".").replace("-", _MINUS)
    return f"{value:.1e}".replace("e-0", "e-").replace("-", _MINUS)

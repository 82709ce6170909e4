"""Fills an HTML template with the style, the scripts and the data: one file that needs no other."""

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from assocjax.storage import SIGNATURE, whole_file


def fill(
    template: str,
    scripts: Sequence[str],
    meta: Mapping[str, Any],
    blocks: Mapping[str, bytes],
) -> str:
    """The page. The scripts become one; `meta` becomes JSON, and a block base64, each in an
    element of its own."""
    script = "\n".join(_resource(name) for name in scripts)
    parts = {
        "SIGNATURE": SIGNATURE,
        "STYLE": _resource("style.css"),
        "SCRIPT": f'"use strict";\n(() => {{\n{script}}})();',
        "META": _json(meta),
        "BLOCKS": "\n".join(
            f'<script type="application/octet-stream" id="{name}">'
            f"{base64.b64encode(block).decode()}</script>"
            for name, block in blocks.items()
        ),
    }
    return re.sub(r"\[\[(\w+)\]\]", lambda place: parts[place[1]], _resource(template))


def write(path: str | os.PathLike, page: str, overwrite: bool) -> None:
    with whole_file(path, overwrite=overwrite) as part:
        part.write_text(page, "utf-8")


def _json(content: Mapping[str, Any]) -> str:
    """JSON that is safe within a script element for any tokens."""
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _resource(name: str) -> str:
    return (files("assocjax.explorer") / name).read_text("utf-8")

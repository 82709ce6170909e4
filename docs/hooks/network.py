"""The site asks no other host for anything: refuses to be built otherwise."""

import re
from pathlib import Path

from mkdocs.exceptions import PluginError

_ASKED = re.compile(
    r"<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^\"'>\s]+"
    r"|<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preconnect|preload|icon))[^>]*"
    r"\bhref=[\"']?(?:https?:)?//[^\"'>\s]+"
)
_ASKED_BY_CSS = re.compile(r"(?:url\(|@import\s)\s*[\"']?(?:https?:)?//[^\"')\s]+")


def on_post_build(config):
    site = Path(config.site_dir)
    for pattern, ending in ((_ASKED, "*.html"), (_ASKED_BY_CSS, "*.css")):
        for path in site.rglob(ending):
            found = pattern.search(path.read_text("utf-8"))
            if found:
                raise PluginError(f"{path.relative_to(site)} asks another host: {found[0]}")

"""Docstrings set some things in columns, by spaces: on a page these are blocks of code.

So are equations with nothing beside them below the first line, which lose their indentation.
"""

import re

from griffe import Extension

_COLUMNS = re.compile(r"[^\s|].*\S {2,}\S")


class Columns(Extension):
    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            paragraphs = re.split(r"\n\s*\n", obj.docstring.value)
            obj.docstring.value = "\n\n".join(map(_indented, paragraphs))


def _indented(paragraph: str) -> str:
    if not _COLUMNS.match(paragraph):
        return paragraph
    return "\n".join(f"    {line}" for line in paragraph.split("\n"))

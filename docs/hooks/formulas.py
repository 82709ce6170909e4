"""Formulas as MathML, which browsers draw themselves: no script, no font and no network."""

import html
import re
import xml.etree.ElementTree as ET

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content, page, config, files):
    def draw(match: re.Match) -> str:
        display = "block" if match[2] == "[" else "inline"
        latex = html.unescape(match[3]).strip()
        formula = convert(latex, display=display)
        # An unknown command is not refused, but passed on as it is.
        try:
            unknown = [text for text in ET.fromstring(formula).itertext() if "\\" in text]
        except ET.ParseError as error:
            raise PluginError(f"{page.file.src_uri}: {latex}: {error}") from None
        if unknown:
            raise PluginError(f"{page.file.src_uri}: {latex}: unknown {unknown}")
        return f'<div class="formula">{formula}</div>' if display == "block" else formula

    return _FORMULA.sub(draw, content)

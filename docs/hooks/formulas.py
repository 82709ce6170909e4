"""Formulas as MathML, which browsers draw themselves: no script, no font and no network."""

import html
import re
import xml.etree.ElementTree as ET

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

_GREEK_CAPITAL = re.compile(r"<mi>(&#x003[9A][0-9A-F];)</mi>")  # upright, as LaTeX has them
_CODE = re.compile(r"<(pre|code|math)\b.*?</\1>", re.DOTALL)
_RAW = re.compile(r"\$[^$\n<]+\$")  # such as "$x = $": no space may stand before the second dollar
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content, page, config, files):
    def draw(match: re.Match) -> str:
        display = "block" if match[2] == "[" else "inline"
        latex = html.unescape(match[3]).strip()
        formula = _GREEK_CAPITAL.sub(
            r'<mi mathvariant="normal">\1</mi>', convert(latex, display=display)
        )
        # An unknown command is not refused, but passed on as it is.
        try:
            unknown = [text for text in ET.fromstring(formula).itertext() if "\\" in text]
        except ET.ParseError as error:
            raise PluginError(f"{page.file.src_uri}: {latex}: {error}") from None
        if unknown:
            raise PluginError(f"{page.file.src_uri}: {latex}: unknown {unknown}")
        return f'<div class="formula">{formula}</div>' if display == "block" else formula

    content = _FORMULA.sub(draw, content)
    raw = _RAW.search(_CODE.sub("", content))
    if raw:
        raise PluginError(f"{page.file.src_uri}: {raw[0]} is not read as a formula")
    return content

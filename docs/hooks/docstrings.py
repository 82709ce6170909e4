"""Small things that docstrings leave to the page: what a cost is, where a name is explained, and
the letters, indices and powers of formulas in a sentence.

On all pages, options of commands are kept on one line, which could else break after their hyphens.
"""

import re

from mkdocs.utils import get_relative_url

_LABEL = re.compile(r"(<p>|\s)(Cost|Source): ")
_OPTION = re.compile(r"<code>(--[^<]{1,30})</code>")
# Not of what is a link already, nor of an argument, which mkdocstrings makes bold.
_NAME = re.compile(r"(?<!<b>)<code>(?:aj\.)?(\w+)</code>(?!</a>)")

_WHOLE = "(?:code|pre|a|h\\d|math)"  # elements that hold no sentence
_MARKED = re.compile(rf"(<{_WHOLE}\b.*?</{_WHOLE}>|<[^>]*>)", re.DOTALL)
_GREEK = {"eta": "η", "tau": "τ", "mu": "μ", "Delta": "Δ", "Theta": "Θ", "Sigma": "Σ", "Phi": "Φ"}
_LETTER = re.compile(rf"(?<![A-Za-z])({'|'.join(_GREEK)})(?![A-Za-z])")
_INDEX = re.compile(r"(?<![^\W_])(sum|[^\W\d_])_([A-Za-z0-9]{1,2})(?![^\W_])")
_POWER = re.compile(r"(?<=\S)\^(?:\(([^()]*)\)|(-?\w+))")

_anchors: dict[str, str] = {}


def on_page_content(content, page, config, files):
    if page.file.src_uri.startswith("reference/"):
        parts = _MARKED.split(_LABEL.sub(r"\1<strong>\2:</strong> ", content))
        content = "".join(typeset(of) if i % 2 == 0 else of for i, of in enumerate(parts))
        for anchor in re.findall(r'id="(assocjax\.[\w.]+)" class="doc', content):
            _anchors.setdefault(anchor.rpartition(".")[2], f"{page.url}#{anchor}")
    return content


def typeset(text: str) -> str:
    """Formulas within a sentence: `eta^2 Phi_2^T` becomes η²Φ₂ᵀ, in elements of HTML."""
    text = _LETTER.sub(lambda match: _GREEK[match[1]], text)
    text = _INDEX.sub(lambda match: f"{match[1].replace('sum', '∑')}<sub>{match[2]}</sub>", text)
    return _POWER.sub(lambda match: f"<sup>{match[1] or match[2]}</sup>", text)


def on_post_page(output, page, config):
    """Public names in backticks become links to the reference; all pages have been read by now."""

    def link(match: re.Match) -> str:
        target = _anchors.get(match[1])
        if target is None:
            return match[0]
        return f'<a class="name" href="{get_relative_url(target, page.url)}">{match[0]}</a>'

    return _OPTION.sub(r'<code class="option">\1</code>', _NAME.sub(link, output))

"""Small things that docstrings leave to the page: what a cost is, and where a name is explained.

On all pages, options of commands are kept on one line, which could else break after their hyphens.
"""

import re

from mkdocs.utils import get_relative_url

_LABEL = re.compile(r"(<p>|\s)(Cost|Source): ")
_OPTION = re.compile(r"<code>(--[^<]{1,30})</code>")
# Not of what is a link already, nor of an argument, which mkdocstrings makes bold.
_NAME = re.compile(r"(?<!<b>)<code>(?:aj\.)?(\w+)</code>(?!</a>)")

_anchors: dict[str, str] = {}


def on_page_content(content, page, config, files):
    if page.file.src_uri.startswith("reference/"):
        content = _LABEL.sub(r"\1<strong>\2:</strong> ", content)
        for anchor in re.findall(r'id="(assocjax\.[\w.]+)" class="doc', content):
            _anchors.setdefault(anchor.rpartition(".")[2], f"{page.url}#{anchor}")
    return content


def on_post_page(output, page, config):
    """Public names in backticks become links to the reference; all pages have been read by now."""

    def link(match: re.Match) -> str:
        target = _anchors.get(match[1])
        if target is None:
            return match[0]
        return f'<a class="name" href="{get_relative_url(target, page.url)}">{match[0]}</a>'

    return _OPTION.sub(r'<code class="option">\1</code>', _NAME.sub(link, output))

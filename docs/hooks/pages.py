"""Pages that are made of the code while the site is built, so that they cannot go stale.

An entry of `nav` that ends in / stands for all pages of that folder: of commands, of the reference
and of the notebooks. Files of the repository that are pages as they are get their links mended.
"""

import posixpath
import re
import sys
from pathlib import Path

# Of a clone, this one, whatever is installed.
sys.path.insert(0, str(Path(__file__).parents[2]))

import command_pages
import explorer_page
import notebook_pages
import reference_pages
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "commands/": command_pages.pages,
    "notebooks/": notebook_pages.pages,
    "reference/": reference_pages.pages,
}
COPIES = {
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")

_generated: dict[str, str | bytes] = {}


def on_config(config):
    _generated.clear()
    config.nav = [_expand(entry) for entry in config.nav]
    for source, page in COPIES.items():
        text = (ROOT / source).read_text("utf-8")
        _generated[page] = mend_links(text, posixpath.dirname(source), page)
    _generated[explorer_page.PAGE] = explorer_page.page()
    return config


def on_files(files, config):
    for path, content in _generated.items():
        written = files.get_file_from_path(path)
        if written is not None:  # what was written by hand stands first
            content = f"{written.content_string.rstrip()}\n\n{content}"
            files.remove(written)
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    if page.file.src_uri in COPIES.values():
        return markdown
    folder = posixpath.dirname(page.file.src_uri)
    if folder != "notebooks":  # which the repository has beside docs/
        folder = posixpath.join("docs", folder)
    return mend_links(markdown, folder, page.file.src_uri)


def mend_links(markdown: str, folder: str, page: str) -> str:
    """Links from a file in a folder of the repository, as links from a page of the site.

    What is in the repository but no part of the site keeps its text and loses its link.
    """

    def mend(match: re.Match) -> str:
        image, text, target, anchor = match.groups()
        if ":" in target or target.startswith("/"):
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        if path.startswith("docs/"):
            found = path.removeprefix("docs/")
        elif path.startswith("notebooks/") and path.endswith(".ipynb"):
            found = path.removesuffix(".ipynb") + ".md"
        else:
            found = {"README.md": "index.md", **COPIES}.get(path)
        if found is None:
            return match[0] if image else text
        relative = posixpath.relpath(found, posixpath.dirname(page) or ".")
        return f"{image}[{text}]({relative}{anchor or ''})"

    return _LINK.sub(mend, markdown)


def _expand(entry):
    """An entry of `nav`, with a folder's pages for its name; remembers their contents."""
    (title, target), *_ = entry.items()
    if not isinstance(target, str) or target not in FOLDERS:
        return entry
    pages = FOLDERS[target](ROOT)
    _generated.update({target + name: content for _, name, content in pages})
    return {title: [{title: target + name} for title, name, _ in pages if title is not None]}

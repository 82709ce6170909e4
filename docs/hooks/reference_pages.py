"""The reference: every public name, as the package's stubs list them, on a page for each room.

What is added to the package is in the reference without a word here.
"""

import ast
from pathlib import Path

TITLES = {"models": "Model", "storage": "Results", "llm": "Language models"}
_UNKNOWN = (0, "")  # a name that is imported from elsewhere


def pages(root: Path) -> list[tuple[str, str, str]]:
    """Title, file name and content of each page."""
    package = root / "assocjax"
    groups: dict[str, dict[str, list[str]]] = {}
    for module, public in _public_names(package / "__init__.pyi").items():
        if module:
            room = module.split(".")[0]
            group = groups.setdefault(TITLES.get(room, room.capitalize()), {})
            group[f"assocjax.{module}"] = public
    for stub in sorted(package.glob("*/__init__.pyi")):
        module = stub.parent.name
        inner = _public_names(stub)
        groups[TITLES.get(module, module.capitalize())] = {
            f"assocjax.{module}.{m}": public for m, public in inner.items() if m
        }
    overview = (
        "# Reference\n\nEverything here is imported as `import assocjax as aj`; names load on first"
        " use. Sizes: N sequences, T positions, V tokens, L layers, M valid positions.\n\n"
    )
    found = []
    for title, modules in groups.items():
        name = f"{title.lower().replace(' ', '_')}.md"
        found.append((title, name, _page(title, modules, package)))
        public = ", ".join(f"`{n}`" for names in modules.values() for n in names)
        overview += f"- [{title}]({name}): {public}\n"
    return [("Overview", "index.md", overview), *found]


def _public_names(stub: Path) -> dict[str, list[str]]:
    """module -> its names, in the order of `from .module import name as name`."""
    found: dict[str, list[str]] = {}
    for node in ast.parse(stub.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            found.setdefault(node.module or "", []).extend(a.name for a in node.names)
    return found


def _page(title: str, modules: dict[str, list[str]], package: Path) -> str:
    parts = [f"# {title}"]
    for module, names in modules.items():
        parts += [
            f"## {module}",
            f"::: {module}\n    options:\n      show_root_heading: false\n"
            "      show_root_toc_entry: false",
        ]
        definitions = _definitions(package.joinpath(*module.split(".")[1:]))
        for name in sorted(names, key=lambda name: definitions.get(name, _UNKNOWN)[0]):
            parts.append(f'::: {module}.{name}\n    options:\n      heading: "{name}"')
            fields = definitions.get(name, _UNKNOWN)[1]
            if fields:
                parts.append(f"Fields:\n\n```python\n{fields}\n```")
    return "\n\n".join(parts) + "\n"


def _definitions(module: Path) -> dict[str, tuple[int, str]]:
    """name -> where it stands in its module, and the fields of a class without a signature."""
    sources = sorted(module.glob("*.py")) if module.is_dir() else [module.with_suffix(".py")]
    found: dict[str, tuple[int, str]] = {}
    for i, path in enumerate(sources):
        source = path.read_text("utf-8")
        for node in ast.parse(source).body:
            place = 10_000 * i + node.lineno
            if isinstance(node, ast.ClassDef):
                found[node.name] = place, "" if _is_dataclass(node) else _fields(node, source)
            elif isinstance(node, ast.FunctionDef):
                found[node.name] = place, ""
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found |= {t.id: (place, "") for t in targets if isinstance(t, ast.Name)}
    return found


def _is_dataclass(node: ast.ClassDef) -> bool:
    """Whether the signature of its constructor is shown: not of flax's, nor of named tuples."""
    return any(
        ast.unparse(d).split("(")[0].endswith("dataclass")
        for d in node.decorator_list
        if not ast.unparse(d).startswith("struct.")
    )


def _fields(node: ast.ClassDef, source: str) -> str:
    fields = [ast.get_source_segment(source, n) for n in node.body if isinstance(n, ast.AnnAssign)]
    return "\n".join(field for field in fields if field)

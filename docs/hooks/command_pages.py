"""A page for each command, with its options as the parser knows them.

What is written by hand in docs/commands/NAME.md stands above the options.
"""

from pathlib import Path

from assocjax.cli import COMMANDS, make_app


def pages(root: Path) -> list[tuple[str, str, str]]:
    """Title, file name and content of each page: an overview, then one for each command."""
    app = make_app()
    rows = [f"| [`{name}`]({name}.md) | {app[name].help.splitlines()[0]} |" for name in COMMANDS]
    table = "\n".join(["| command | what it does |", "|---|---|", *rows])
    overview = f"# Commands\n\n{app.help}\n\n{table}\n\n{app.help_epilogue}\n"
    found = [("Overview", "index.md", overview)]
    for name in COMMANDS:
        by_hand = (root / "docs" / "commands" / f"{name}.md").exists()
        head = "" if by_hand else f"# {name}\n\n"
        _, _, options = app[name].generate_docs(usage_name=f"assocjax {name}").partition("\n\n")
        found.append((name, f"{name}.md", f"{head}## All options\n\n{options}"))
    return found

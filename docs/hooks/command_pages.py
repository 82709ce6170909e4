"""A page for each command, with its options as the parser knows them.

What is written by hand in docs/commands/NAME.md stands above the options; a command without such a
file has its summary there.
"""

import argparse
import html
from pathlib import Path

from assocjax.cli import make_parser


def pages(root: Path) -> list[tuple[str, str, str]]:
    """Title, file name and content of each page: an overview, then one for each command."""
    parser = make_parser()
    commands = _subparsers(parser)
    rows = [
        f"| [`{name}`]({name}.md) | {command.description} |" for name, command in commands.items()
    ]
    table = "\n".join(["| command | what it does |", "|---|---|", *rows])
    overview = f"# Commands\n\n{parser.description}\n\n{table}\n\n{parser.epilog}\n"
    found = [("Overview", "index.md", overview)]
    for name, command in commands.items():
        by_hand = (root / "docs" / "commands" / f"{name}.md").exists()
        head = "" if by_hand else f"# {name}\n\n{command.description}\n\n"
        found.append((name, f"{name}.md", head + _options(command)))
    return found


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return action.choices


def _options(parser: argparse.ArgumentParser) -> str:
    formatter = parser._get_formatter()
    parts = [f"## All options\n\n```text\n{parser.format_usage().strip()}\n```"]
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if a.help is not argparse.SUPPRESS]
        actions = [a for a in actions if not isinstance(a, argparse._HelpAction)]
        if not actions:
            continue
        title = (group.title or "").capitalize()
        rows = [
            f"| <code>{_cell(formatter._format_action_invocation(action))}</code> "
            f"| {_cell(formatter._expand_help(action) if action.help else '')} |"
            for action in actions
        ]
        table = "\n".join(["| option | what it is |", "|---|---|", *rows])
        parts += [f"### {title}", *([_text(group.description)] if group.description else []), table]
    if parser.epilog:
        parts.append(_text(parser.epilog))
    return "\n\n".join(parts) + "\n"


def _text(text: str) -> str:
    """Plain text as Markdown that shows it as it is."""
    return html.escape(" ".join(text.split()), quote=False).replace("*", "&#42;")


def _cell(text: str) -> str:
    return _text(text).replace("|", "&#124;").replace("[", "&#91;").replace("_", "&#95;")

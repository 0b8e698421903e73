"""Makes docs/commands.md from the command line itself: python docs/command_reference.py > docs/commands.md.

A test compares the page with what this gives, so the two cannot drift apart.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import Enum
from itertools import groupby
from typing import Any

from typer.core import TyperArgument, TyperOption
from typer.main import get_command

from llmprune.cli.app import app

HEAD = """# Commands

Made by `python docs/command_reference.py`; do not edit. The same is printed by `llmprune COMMAND --help`.

Results go to stdout, progress and remarks to stderr. See also the [exit codes](exit-codes.md), and
[what each command reads and writes](artifacts.md). `llmprune --install-completion` lets the shell complete commands,
options and choices.
"""


def page() -> str:
    """The whole page."""
    commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    index = "\n".join(f"- [`llmprune {name}`](#llmprune-{name}): {command.help}" for name, command in commands.items())
    return "\n".join([HEAD, f"{index}\n", *(_section(name, command) for name, command in commands.items())])


def _section(name: str, command: Any) -> str:
    arguments = [param for param in command.params if isinstance(param, TyperArgument)]
    options = [param for param in command.params if isinstance(param, TyperOption)]
    usage = " ".join(["llmprune", name, *(_placeholder(argument) for argument in arguments), "[OPTIONS]"])
    examples = command.epilog.removeprefix("Examples:\n")
    parts = [f"## llmprune {name}\n\n{command.help}\n\n```\n{usage}\n```\n"]
    parts += [_table(("argument", ""), ((f"`{one.metavar}`", _told(one)) for one in arguments))] if arguments else []
    for panel, group in groupby(options, key=lambda option: option.rich_help_panel or "Options"):
        parts.append(_table((panel, ""), ((_spelled(option), _told(option)) for option in group)))
    return "\n".join([*parts, f"Examples:\n\n```\n{examples}\n```\n"])


def _placeholder(argument: TyperArgument) -> str:
    return str(argument.metavar) if argument.required else f"[{argument.metavar}]"


def _table(head: tuple[str, str], rows: Iterator[tuple[str, str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {told} |" for name, told in rows)]) + "\n"


def _spelled(option: TyperOption) -> str:
    """The option as it is typed, with what it takes."""
    names = [f"`{name}`" for name in (*option.opts, *option.secondary_opts)]
    if option.is_flag:
        return ", ".join(names)
    return f"{', '.join(names)} {_taken(option)}"


def _taken(option: TyperOption) -> str:
    kind = option.type_descriptor.annotation
    if option.metavar is not None:
        return option.metavar
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{choice.value}`" for choice in kind)
    return {int: "NUMBER", float: "NUMBER"}[kind]


def _told(param: TyperArgument | TyperOption) -> str:
    """The help, with the default."""
    default = _default(param)
    return f"{param.help} Default: {default}." if default else str(param.help)


def _default(param: TyperArgument | TyperOption) -> str:
    if isinstance(param.show_default, str):
        return param.show_default
    if param.default is None or param.default is False or not param.show_default:
        return ""
    if param.default is True:
        return f"`{param.opts[0]}`"
    return f"`{param.default}`"


if __name__ == "__main__":
    sys.stdout.write(page())

"""Library messages speak of Python arguments, and the command line says the same of its options."""

import ast
import re
from pathlib import Path

import pytest
from typer.main import get_command

import llmprune
from llmprune.cli.app import app
from llmprune.spelling import as_options, listed

PACKAGE = Path(llmprune.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z]")
COMMAND = re.compile(r"llmprune [a-z]|/4 ")  # one that is to be typed as it stands; quickstart announces its own


def options() -> set[str]:
    commands = get_command(app).commands.values()
    return {
        option for command in commands for param in command.params for option in (*param.opts, *param.secondary_opts)
    }


def messages(path: Path) -> list[str]:
    """The strings of a module that are no docstrings, f-strings put together with ``{}`` for their values."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    skipped = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            found.append("".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            found.append(node.value)
    return found


OTHERS = {"--font", "--acc-norm"}  # of a chart's CSS, and a metric on a page of docs
NOT_OF_MESSAGES = ("cli", "api", "spelling.py")
LIBRARY = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] not in NOT_OF_MESSAGES]


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ("type `seq_len=512` or less", "type --seq-len 512 or less"),
        ("try another `out`.", "try another --out."),
        ("replace it with `force=True`", "replace it with --force"),
        ("type `verify=False`", "type --no-verify"),
        ("leave out `ppl=None` or `speed=False`", "leave out --no-ppl or --no-speed"),
        ('type `fail_if="ppl_ratio>1.5"`', 'type --fail-if "ppl_ratio>1.5"'),
        ("`exclude='*down_proj'`", "--exclude '*down_proj'"),
        ("type `hf auth login`", "type `hf auth login`"),
        ("add `license:` to it", "add `license:` to it"),
        ("a path without any", "a path without any"),
    ],
)
def test_arguments_become_options(said, typed):
    assert as_options(said) == typed


@pytest.mark.parametrize(
    ("names", "shown"),
    [(["a"], "a"), (["a", "b"], "a, b"), (["a", "b", "c"], "a, b and 1 more"), (list("abcde"), "a, b and 3 more")],
)
def test_many_names_are_cut_and_the_others_counted(names, shown):
    assert listed(names, 2) == shown


def test_every_argument_in_a_message_is_an_option_of_some_command():
    known = options()
    for path in LIBRARY:
        for said in messages(path):
            typed = OPTION.search(as_options(said)) and not COMMAND.search(said)
            named = re.findall(r"--[a-z][a-z-]*(?![\w{-])", as_options(said)) if typed else []
            assert set(named) - OTHERS <= known, f"{path.name}: {said}"


def test_the_library_knows_no_options():
    told = {
        f"{path.relative_to(PACKAGE)}: {said}"
        for path in LIBRARY
        for said in messages(path)
        if OPTION.search(said) and not COMMAND.search(said)
    }
    allowed = ("font-family: var(--font)", "--max-{} {}", "--{}")
    assert {one for one in told if not one.endswith(allowed)} == set()

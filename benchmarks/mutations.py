"""Change one thing at a time in llmprune/algorithms, and see whether its tests notice.

Each mutant is the package with one operator, comparison, constant or condition changed. The tests of its folder run on
it in a forked process. A mutant that all of them pass has survived: either nothing depends on what was changed, as with
the sizes of pieces, or a test is missing. What is to be done about each is for somebody to decide.

    python benchmarks/mutations.py --log mutations.jsonl                  # every fifth: an hour or two on one core
    python benchmarks/mutations.py --only weights/refit.py --every 1      # all of a file, without a log
    python benchmarks/mutations.py --show mutations.jsonl                 # the score of each file, and the survivors
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import json
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
PACKAGE = ROOT / "llmprune" / "algorithms"
_SECONDS = 300  # of all tests on one mutant
_OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
_OTHER_WORDS = {"min": "max", "max": "min", "amin": "amax", "amax": "amin", "any": "all", "all": "any", "ceil": "floor"}


def mutants(path: Path) -> Iterator[tuple[str, ast.Module]]:
    """Every file that differs from this one in one place, with a name: the line, and what was changed."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for number, node in enumerate(ast.walk(tree)):
        if _change(node) is None:
            continue
        mutant = copy.deepcopy(tree)
        new = next(one for place, one in enumerate(ast.walk(mutant)) if place == number)
        setattr(new, *_change(new))
        name = f"{node.lineno}: {ast.unparse(node)} -> {ast.unparse(new)} ({number})"
        yield name, ast.fix_missing_locations(mutant)


def _change(node: ast.AST) -> tuple[str, object] | None:
    """The attribute of a node to change, and its new value; None: this node stays."""
    match node:
        case ast.BinOp(right=ast.Constant(value=None)):  # a type
            return None
        case ast.BinOp() | ast.BoolOp() | ast.AugAssign() if type(node.op) in _OPERATORS:
            return "op", _OPERATORS[type(node.op)]()
        case ast.Compare(ops=[op]) if type(op) in _OPERATORS:
            return "ops", [_OPERATORS[type(op)]()]
        case ast.UnaryOp(op=ast.USub()):
            return "op", ast.UAdd()
        case ast.UnaryOp(op=ast.Not()):
            return "operand", ast.UnaryOp(ast.Not(), node.operand)
        case ast.Constant(value=bool(value)):
            return "value", not value
        case ast.Constant(value=int(value) | float(value)):
            return "value", value + 1
        case ast.Attribute(attr=name) if name in _OTHER_WORDS:
            return "attr", _OTHER_WORDS[name]
        case ast.Name(id=name) if name in _OTHER_WORDS:
            return "id", _OTHER_WORDS[name]
    return None


def passes(path: Path, mutant: ast.Module, tests: list[str]) -> str:
    """Run tests on a mutant in a forked process: "survived", "killed", or "killed by time"."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(_SECONDS)
            with Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            code = _tested(path, mutant, tests)
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {0: "survived", -signal.SIGALRM: "killed by time"}.get(code, "killed")


def _tested(path: Path, mutant: ast.Module, tests: list[str]) -> int:
    """In a child that imports llmprune anew: the loader of one file compiles the mutant instead."""
    from importlib.machinery import SourceFileLoader

    import pytest

    whole = SourceFileLoader.get_code

    def get_code(self, name):
        return compile(mutant, str(path), "exec") if Path(self.path) == path else whole(self, name)

    SourceFileLoader.get_code = get_code
    for name in [name for name in sys.modules if name.partition(".")[0] in ("llmprune", "tests")]:
        del sys.modules[name]
    os.chdir(ROOT)
    loaded_before = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *loaded_before, *tests]))


def tests_of(path: Path) -> list[str]:
    """The tests of a file's folder, its own first."""
    folder = ROOT / "tests" / "algorithms" / path.relative_to(PACKAGE).parent
    own = folder / f"test_{path.name}"
    return [*([str(own)] if own.exists() else []), *([str(folder)] if path.parent != PACKAGE else [])]


def show(log: Path) -> None:
    """Print how many mutants of each file were noticed, and the others."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    print("| file | mutants | noticed |\n|---|---:|---:|")
    for file in sorted({one["file"] for one in entries}):
        of_file = [one["verdict"] for one in entries if one["file"] == file]
        print(f"| {file} | {len(of_file)} | {1 - of_file.count('survived') / len(of_file):.0%} |")
    for one in entries:
        if one["verdict"] == "survived":
            print(f"{one['file']}:{one['name']}")


def main() -> None:
    """Type ``python benchmarks/mutations.py --help``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only files with this in their path")
    parser.add_argument("--every", type=int, default=5, help="one of so many mutants of a file, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="where results go; mutants that it has already are not tried again")
    parser.add_argument("--show", type=Path, help="print what such a log says, and try nothing")
    args = parser.parse_args()
    if args.show is not None:
        show(args.show)
        return
    import torch
    import transformers  # noqa: F401 - for the children

    torch.set_num_threads(1)
    known = args.log.read_text(encoding="utf-8").splitlines() if args.log is not None and args.log.exists() else []
    done = {(one["file"], one["name"]) for one in map(json.loads, known)}
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(args.log.open("a", encoding="utf-8")) if args.log is not None else None
        for path in sorted(PACKAGE.rglob("*.py")):
            file = str(path.relative_to(PACKAGE))
            if args.only not in file:
                continue
            whole = ast.parse(path.read_text(encoding="utf-8"))
            if (found := list(mutants(path))) and passes(path, whole, tests_of(path)) != "survived":
                raise SystemExit(f"The tests of {file} fail as it is.")
            for name, mutant in random.Random(f"{args.seed} {file}").sample(found, -(-len(found) // args.every)):
                if (file, name) in done:
                    continue
                entry = {"file": file, "name": name, "verdict": passes(path, mutant, tests_of(path))}
                print(f"{entry['verdict']}: {file}:{name}", flush=True)
                if log is not None:
                    log.write(json.dumps(entry) + "\n")
                    log.flush()


if __name__ == "__main__":
    main()

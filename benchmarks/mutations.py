"""Change one thing at a time in llmprune/algorithms, and see whether its tests notice.

Each mutant is the package with one operator, comparison, constant or condition changed. The tests of algorithms that
enter the changed statement (coverage.py tells which) run on it in a forked process. A mutant that all of them pass has
survived: either nothing depends on what was changed, as with the sizes of pieces, or a test is missing. What is to be
done about each is for somebody to decide.

    python benchmarks/mutations.py --log mutations.jsonl --every 1        # all; goes on where the log ends
    python benchmarks/mutations.py --only weights/refit.py                # every fifth of a file, without a log
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
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
PACKAGE, TESTS = ROOT / "llmprune" / "algorithms", ROOT / "tests" / "algorithms"
_SECONDS = 120  # of the processor, for all tests on one mutant
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
    code = _in_child(lambda: _tested(path, mutant, tests))
    return {0: "survived", -signal.SIGALRM: "killed by time", -signal.SIGPROF: "killed by time"}.get(code, "killed")


def _in_child(work: Callable[[], int]) -> int:
    """What a forked process that prints nothing ends with; a signal is negative."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.setitimer(signal.ITIMER_PROF, _SECONDS)
            signal.alarm(20 * _SECONDS)  # of a clock: for one that waits
            with Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _tested(path: Path, mutant: ast.Module, tests: list[str]) -> int:
    """In a child that imports llmprune anew: the loader of one file compiles the mutant instead."""
    from importlib.machinery import SourceFileLoader

    whole = SourceFileLoader.get_code

    def get_code(self, name):
        return compile(mutant, str(path), "exec") if Path(self.path) == path else whole(self, name)

    SourceFileLoader.get_code = get_code
    return _pytest(tests)


def _pytest(tests: list[str], *plugins: object) -> int:
    """Run tests with llmprune imported anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("llmprune", "tests")]:
        del sys.modules[name]
    os.chdir(ROOT)
    loaded_before = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *loaded_before, *tests], plugins=plugins))


class Reach:
    """Which tests enter which lines of the package, and how long each takes: a pytest plugin, used in a child."""

    def __init__(self, measure) -> None:
        self.measure, self.seconds = measure, {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        self.measure.switch_context(item.nodeid)
        began = time.process_time()
        yield
        self.seconds[item.nodeid] = time.process_time() - began
        self.measure.switch_context("")


def reached() -> tuple[dict[str, dict[int, set[str]]], dict[str, float]]:
    """The tests by file and line ("" where a line is entered outside of tests), and their seconds."""
    import coverage

    with tempfile.TemporaryDirectory() as folder:
        data, times = Path(folder) / "data", Path(folder) / "times"

        def work() -> int:
            measure = coverage.Coverage(data_file=str(data), source=[str(PACKAGE)], config_file=False)
            plugin = Reach(measure)
            measure.start()
            code = _pytest([str(TESTS)], plugin)
            measure.stop()
            measure.save()
            times.write_text(json.dumps(plugin.seconds), encoding="utf-8")
            return code

        if _in_child(work) != 0:
            raise SystemExit("The tests of algorithms fail as they are.")
        found = coverage.CoverageData(basename=str(data))
        found.read()
        lines = {
            file: {line: set(tests) for line, tests in found.contexts_by_lineno(file).items()}
            for file in found.measured_files()
        }
        return lines, json.loads(times.read_text(encoding="utf-8"))


def tests_of(tree: ast.Module, line: int, lines: dict[int, set[str]], seconds: dict[str, float]) -> list[str]:
    """The tests that enter the statement of a line, the fastest first: all tests where an import enters it."""
    around = [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and _first(node) <= line <= node.end_lineno]
    statement = max(around, key=_first)
    last = line if hasattr(statement, "body") or isinstance(statement, ast.Match) else statement.end_lineno
    found = set().union(*(lines.get(number, ()) for number in range(_first(statement), last + 1)))
    return sorted(seconds if "" in found else found, key=seconds.__getitem__)


def _first(statement: ast.stmt) -> int:
    """Its first line, that of a decorator included."""
    return min([statement.lineno, *(one.lineno for one in getattr(statement, "decorator_list", []))])


def _unnoticed(verdict: str) -> bool:
    return not verdict.startswith("killed")


def show(log: Path) -> None:
    """Print how many mutants of each file were noticed, and the others."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    print("| file | mutants | noticed |\n|---|---:|---:|")
    for file in sorted({one["file"] for one in entries}):
        of_file = [one["verdict"] for one in entries if one["file"] == file]
        print(f"| {file} | {len(of_file)} | {1 - sum(map(_unnoticed, of_file)) / len(of_file):.0%} |")
    for one in entries:
        if _unnoticed(one["verdict"]):
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
    by_file, seconds = reached()
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(args.log.open("a", encoding="utf-8")) if args.log is not None else None
        for file, name, line, mutant in drawn(args.only, args.every, args.seed):
            if (file, name) in done:
                continue
            path = PACKAGE / file
            tests = tests_of(ast.parse(path.read_text(encoding="utf-8")), line, by_file.get(str(path), {}), seconds)
            entry = {"file": file, "name": name, "verdict": passes(path, mutant, tests) if tests else "entered by none"}
            print(f"{entry['verdict']}: {file}:{name}", flush=True)
            if log is not None:
                log.write(json.dumps(entry) + "\n")
                log.flush()


def drawn(only: str, every: int, seed: int) -> Iterator[tuple[str, str, int, ast.Module]]:
    """The mutants to try: file, name, line, and the changed file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        if only in file:
            found = list(mutants(path))
            for name, mutant in random.Random(f"{seed} {file}").sample(found, -(-len(found) // every)):
                yield file, name, int(name.partition(":")[0]), mutant


if __name__ == "__main__":
    main()

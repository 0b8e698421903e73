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
import gc
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
PACKAGE, TESTS = ROOT / "llmprune" / "algorithms", ROOT / "tests" / "algorithms"
_SECONDS = 120  # of the processor, for all tests on one mutant
_BROKEN = 99  # what a child ends with that could not begin
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
    """Run tests on a mutant in a forked process that imports llmprune anew: "survived", "killed", "killed by time"."""
    return _verdict(_in_child(lambda: _tested_anew(path, mutant, tests)))


def _verdict(code: int) -> str:
    if code == _BROKEN:
        raise SystemExit("A mutant could not be put in place.")
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


def _tested_anew(path: Path, mutant: ast.Module, tests: list[str]) -> int:
    """The loader of one file compiles the mutant instead."""
    whole = SourceFileLoader.get_code

    def get_code(self, name):
        return compile(mutant, str(path), "exec") if Path(self.path) == path else whole(self, name)

    SourceFileLoader.get_code = get_code
    return _pytest(["-x", *tests])


def _pytest(arguments: list[str], *plugins: object) -> int:
    """Run tests with llmprune imported anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("llmprune", "tests")]:
        del sys.modules[name]
    os.chdir(ROOT)
    loaded_before = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return int(pytest.main(["-q", "-p", "no:cacheprovider", *loaded_before, *arguments], plugins=plugins))


class InPlace:
    """A pytest plugin that collects tests once, and runs them on one mutant after the other, each in a forked process.

    Of a mutant inside a function only that function's code is changed, in place.
    """

    def __init__(self, work: Callable[[InPlace], None]) -> None:
        self._work = work

    def pytest_runtestloop(self, session):
        self._items = {item.nodeid: item for item in session.items}
        self._session = session
        found = [one for one in gc.get_objects() if type(one) is FunctionType]  # isinstance would ask proxies
        self._functions = [one for one in found if PACKAGE in Path(one.__code__.co_filename).parents]
        self._work(self)
        return True

    def passes(self, path: Path, mutant: ast.Module, tests: list[str]) -> str:
        """As `passes`, of a mutant inside a function."""

        def work() -> int:
            try:
                codes = dict(_codes(compile(mutant, str(path), "exec")))
                for one in self._functions:
                    if Path(one.__code__.co_filename) == path:
                        one.__code__ = codes[_key(one.__code__)]
            except Exception:
                return _BROKEN
            return self._run(tests, lambda _: None)

        return _verdict(_in_child(work))

    def reached(self) -> tuple[dict[str, dict[int, set[str]]], dict[str, float]]:
        """The tests that enter each line of each file, and how many seconds each test takes."""
        import coverage

        with tempfile.TemporaryDirectory() as folder:
            data, times = Path(folder) / "data", Path(folder) / "times"

            def work() -> int:
                measure, began = coverage.Coverage(str(data), source=[str(PACKAGE)], config_file=False), {}

                def before(test: str) -> None:
                    measure.switch_context(test)
                    began[test] = time.process_time()

                measure.start()
                code = self._run(list(self._items), before)
                measure.stop()
                measure.save()
                ends = [*list(began.values())[1:], time.process_time()]
                seconds = {test: end - start for (test, start), end in zip(began.items(), ends, strict=True)}
                times.write_text(json.dumps(seconds), encoding="utf-8")
                return code

            if _in_child(work) != 0:
                raise SystemExit("The tests of algorithms fail as they are.")
            found = coverage.CoverageData(basename=str(data))
            found.read()
            lines = {
                file: {line: {test for test in tests if test} for line, tests in found.contexts_by_lineno(file).items()}
                for file in found.measured_files()
            }
            return lines, json.loads(times.read_text(encoding="utf-8"))

    def _run(self, tests: list[str], before: Callable[[str], None]) -> int:
        """Run tests up to the first that fails, in a child."""
        for test, following in zip(tests, [*tests[1:], None], strict=True):
            before(test)
            item = self._items[test]
            item.ihook.pytest_runtest_protocol(item=item, nextitem=self._items.get(following))
            if self._session.testsfailed:
                return 1
        return 0


def _key(code: CodeType) -> tuple[str, int]:
    return code.co_qualname, code.co_firstlineno


def _codes(code: CodeType) -> Iterator[tuple[tuple[str, int], CodeType]]:
    """The code of every function of a module, and of the functions in it."""
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield _key(one), one
            yield from _codes(one)


def is_inside_function(tree: ast.Module, number: int) -> bool:
    """Whether the node of this number (in the order of `ast.walk`) runs when a function is called."""
    node = next(one for place, one in enumerate(ast.walk(tree)) if place == number)
    bodies = [one.body for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.Lambda)]
    statements = [one for body in bodies for one in (body if isinstance(body, list) else [body])]
    return any(node is one for statement in statements for one in ast.walk(statement))


def tests_of(tree: ast.Module, line: int, lines: dict[int, set[str]], seconds: dict[str, float]) -> list[str]:
    """The tests that enter the statement of a line, the fastest first."""
    around = [node for node in ast.walk(tree) if isinstance(node, ast.stmt) and node.lineno <= line <= node.end_lineno]
    statement = max(around, key=lambda node: node.lineno)
    last = line if hasattr(statement, "body") or isinstance(statement, ast.Match) else statement.end_lineno
    found = set().union(*(lines.get(number, ()) for number in range(statement.lineno, last + 1)))
    return sorted(found, key=seconds.__getitem__)


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
    asked = [one for one in drawn(args.only, args.every, args.seed) if one[:2] not in done]
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(args.log.open("a", encoding="utf-8")) if args.log is not None else None

        def note(file: str, name: str, verdict: str) -> None:
            print(f"{verdict}: {file}:{name}", flush=True)
            if log is not None:
                log.write(json.dumps({"file": file, "name": name, "verdict": verdict}) + "\n")
                log.flush()

        def in_place(session: InPlace) -> None:
            by_file, seconds = session.reached()
            for file, name, number, mutant in asked:
                if is_inside_function(mutant, number):
                    path, line = PACKAGE / file, int(name.partition(":")[0])
                    tests = tests_of(mutant, line, by_file.get(str(path), {}), seconds)
                    note(file, name, session.passes(path, mutant, tests) if tests else "entered by no test")

        if any(is_inside_function(mutant, number) for *_, number, mutant in asked):
            _pytest([str(TESTS)], InPlace(in_place))
        for file, name, number, mutant in asked:
            if not is_inside_function(mutant, number):
                note(file, name, passes(PACKAGE / file, mutant, [str(TESTS)]))


def drawn(only: str, every: int, seed: int) -> Iterator[tuple[str, str, int, ast.Module]]:
    """The mutants to try: file, name, the number of the node that is changed, and the changed file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        if only in file:
            found = list(mutants(path))
            for name, mutant in random.Random(f"{seed} {file}").sample(found, -(-len(found) // every)):
                yield file, name, int(name.rpartition("(")[2].rstrip(")")), mutant


if __name__ == "__main__":
    main()

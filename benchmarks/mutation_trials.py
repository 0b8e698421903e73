"""Run tests on a changed file of llmprune/algorithms, in a forked process: see mutations.py."""

from __future__ import annotations

import ast
import gc
import json
import os
import resource
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
PACKAGE, TESTS = ROOT / "llmprune" / "algorithms", ROOT / "tests" / "algorithms"
_SECONDS = 120  # of the processor, for all tests on one mutant
_BYTES = 8 * 2**30  # of addresses: a mutant may ask for any number of windows
_BROKEN = 99  # what a child ends with that could not begin


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
            resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
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
    return run_pytest(["-x", *tests])


def run_pytest(arguments: list[str], *plugins: object) -> int:
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
        gc.unfreeze()  # pytest freezes what was collected, and nobody would find it
        found = [one for one in gc.get_objects() if type(one) is FunctionType]  # isinstance would ask proxies
        self._functions = [one for one in found if PACKAGE in Path(one.__code__.co_filename).parents]
        self._work(self)
        return True

    def passes(self, path: Path, mutant: ast.Module, tests: list[str]) -> str:
        """As `passes`, of a mutant inside a function."""

        def work() -> int:
            try:
                codes = dict(_codes(compile(mutant, str(path), "exec")))
                here = [one for one in self._functions if Path(one.__code__.co_filename) == path]
                for one in here:
                    one.__code__ = codes[_key(one.__code__)]
            except Exception:
                return _BROKEN
            if not here:  # the mutant is nowhere: its tests would tell nothing
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
        self._session.config.pluginmanager.unregister(name="terminalreporter")  # it writes past descriptor 1
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

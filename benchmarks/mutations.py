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
import random
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.mutation_trials import PACKAGE, TESTS, InPlace, is_inside_function, passes, run_pytest, tests_of

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

        inside = any(is_inside_function(mutant, number) for *_, number, mutant in asked)
        if inside and run_pytest([str(TESTS)], InPlace(in_place)) != 0:
            raise SystemExit("Not all mutants could be tried.")
        for file, name, number, mutant in asked:
            if not is_inside_function(mutant, number):
                own = TESTS / Path(file).with_name(f"test_{Path(file).name}")
                first = [str(own)] if own.exists() else []
                note(file, name, passes(PACKAGE / file, mutant, [*first, str((TESTS / file).parent), str(TESTS)]))


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

"""Fuzzed inputs: the tests that read what nobody wrote in earnest, with many more examples than in CI."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.faults.log import Finding, Trial, Verdict
from benchmarks.faults.process import Ended, fork
from benchmarks.faults.world import World

EXAMPLES, _SEEDS = 500, 11  # of each test and seed; the seeds of each test
_TESTS = tuple(f"tests/test_hostile_{what}.py" for what in ("input", "records", "words"))
_LOADED_BEFORE = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # by the process that is forked
_PYTEST = ["-q", "-x", "-p", "no:cacheprovider", *_LOADED_BEFORE]


def inputs(world: World, names: Sequence[str], seed: int) -> Iterator[Trial]:
    """Every fuzzing test, with one seed after another. ``names`` of commands choose nothing here."""
    listed = _pytest(world, ["--collect-only", "-q", *_LOADED_BEFORE, *_TESTS], examples=0)
    tests = [line for line in listed.stdout.splitlines() if line.startswith(_TESTS)]
    for number in range(_SEEDS):
        for test in tests:
            name = f"input: {test.split('::')[1]}, seed {seed + number}"
            words = [*_PYTEST, f"--hypothesis-seed={seed + number}", test]
            yield Trial("input", name, test.split("::")[1].split("[")[0], partial(_judge, world, words), EXAMPLES)


def _judge(world: World, words: Sequence[str]) -> Finding:
    ended = _pytest(world, words, examples=EXAMPLES)
    if ended.code == 0:
        return Finding(Verdict.SURVIVED)
    said = [line for line in ended.stdout.splitlines() if line.startswith(("E  ", "Falsifying", "    "))]
    return Finding(Verdict.FAULT, f"ends with {ended.code}: {' / '.join(line.strip() for line in said[-12:])[:600]}")


def _pytest(world: World, words: Sequence[str], *, examples: int) -> Ended:
    def work() -> int:
        import pytest

        os.environ["LLMPRUNE_FUZZ"] = str(examples)
        os.environ.pop("TOKENIZERS_PARALLELISM", None)
        sys.argv = ["pytest", *words]
        return int(pytest.main([*words, f"--basetemp={world.root / 'pytest'}"]))

    return fork(work, Path(__file__).parents[2], said=world.said, seconds=3600)

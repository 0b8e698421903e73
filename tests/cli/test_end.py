"""The process ends at once, and nothing is lost: what was printed, what is to happen at the end, the exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CODE = """
import atexit, sys

class Torn:
    def __del__(self):
        print("torn")

torn = Torn()
torn.itself = torn  # goes when modules are taken apart
atexit.register(print, "at the end")
sys.argv = ["llmprune", {option!r}]
from llmprune.cli import {module}
{end}
from llmprune.cli.entry import run
run()
"""


def ended(option, *, end="", module="app", **options):
    code = CODE.format(option=option, end=end, module=module)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, **options)


@pytest.mark.parametrize(("option", "code"), [("--version", 0), ("--nosuch", 2)])
def test_what_is_printed_and_registered_comes_first_and_no_module_is_taken_apart(option, code):
    done = ended(option, capture_output=True)
    assert done.returncode == code
    said = done.stdout.splitlines()
    assert said[-1] == "at the end"
    assert "torn" not in said
    assert said[0].startswith("llmprune ") if code == 0 else "--nosuch" in done.stderr


def test_a_sentence_in_place_of_a_code_is_printed_by_python():
    done = ended("--version", end="app.main = lambda: sys.exit('no')", capture_output=True)
    assert (done.returncode, done.stderr) == (1, "no\n")


def test_nobody_who_reads_ends_it_as_python_would():
    with Path("/dev/full").open("w") as full:
        done = ended("--version", end="app.main = lambda: print('lost')", stdout=full, stderr=subprocess.PIPE)
    assert done.returncode != 0


@pytest.mark.parametrize("closed", [1, 2])
def test_a_stream_that_was_closed_beforehand_changes_nothing(closed):
    done = ended("--version", capture_output=True, preexec_fn=lambda: os.close(closed))
    assert done.returncode == 0
    assert ("at the end" in done.stdout) == (closed == 2)

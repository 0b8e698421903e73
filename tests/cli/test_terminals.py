"""Terminals that cannot show everything, pipes that close, disks that are full: what was measured is never lost."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.importance import Importance
from llmprune.cli.console import Console
from llmprune.errors import LlmpruneError
from tests.cli.conftest import ROOT
from tests.cli.test_command_line import BENCH, COMMANDS
from tests.edits import content_of
from tests.forked import run_forked

ENCODINGS = ["ascii", "latin-1", "cp437", "cp1252"]
EVERY_HELP = f"""
import sys
from llmprune.cli.entry import main
for words in [[], *([name] for name in {COMMANDS!r})]:
    sys.argv = ["llmprune", *words, "--help"]
    try: main()
    except SystemExit as ended: assert not ended.code
"""


@pytest.fixture
def environment():
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "LLMPRUNE_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


@pytest.fixture
def typed(environment):
    """Run a command line to its end; stdout and stderr are bytes, or go where they are sent."""

    def run(*words, **options):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return run_forked(words, environment=environment, **options)

    return run


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_help_is_printed_in_any_encoding(encoding, environment):
    environment["PYTHONIOENCODING"] = f"{encoding}:strict"
    done = subprocess.run([sys.executable, "-c", EVERY_HELP], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = done.stdout.decode(encoding)
    assert all(f"Usage: llmprune {name}" in shown for name in COMMANDS)
    assert "?" not in shown.replace("First time?", "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_a_table_is_printed_in_any_encoding(encoding, typed, run, text):
    done = typed("bench", *BENCH, text, "--run", run, encoding=encoding)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode(encoding)
    plus_minus = "±".encode(encoding, errors="replace").decode(encoding)
    assert f"{plus_minus} 95% intervals over windows" in shown
    measured = BenchResult.read(next((run / "bench").iterdir()))
    assert f"{measured.metrics['ppl'].value:,.2f} {plus_minus}" in shown


def test_a_message_is_printed_in_any_encoding(typed, tmp_path):
    done = typed("calibrate", "./模型±", "--run", tmp_path / "run", encoding="cp437")
    assert (done.returncode, done.stdout) == (2, b"")
    assert "There is no model at './??±'" in done.stderr.decode("cp437")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this machine")
def test_a_result_that_meets_a_full_disk_is_kept_and_said_to_be(typed, run):
    (run / "importance.json").unlink()
    with Path("/dev/full").open("w") as full:
        done = typed("verify-redundancy", "--target", "2", "--run", run, "--quiet", stdout=full)
    complaint = " ".join(done.stderr.decode().split())
    assert complaint == (
        "Error: The result could not be printed (No space left on device); everything that the command wrote is kept."
    )
    assert done.returncode == 1
    assert len(Importance.read(run / "importance.json").order) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this machine")
@pytest.mark.parametrize("words", [["--help"], ["bench", "--help"], ["--version"]])
def test_a_help_that_meets_a_full_disk_is_a_sentence(words, typed):
    with Path("/dev/full").open("w") as full:
        done = typed(*words, stdout=full)
    assert done.stderr.decode() == "Error: The output could not be printed (No space left on device).\n"
    assert done.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this machine")
def test_remarks_that_meet_a_full_disk_stop_nothing(typed, run):
    (run / "importance.json").unlink()
    with Path("/dev/full").open("w") as full:
        done = typed("verify-redundancy", "--target", "2", "--run", run, "--json", stderr=full)
    assert done.returncode == 0
    assert json.loads(done.stdout) == content_of(run / "importance.json")


@pytest.mark.parametrize("words", [["bench", "--help"], ["verify-redundancy", "--target", "2"]])
def test_a_reader_who_goes_early_is_quietly_left(words, typed, run):
    reading, writing = os.pipe()
    os.close(reading)
    done = typed(*words, *[] if "--help" in words else ["--run", run, "--quiet"], stdout=writing)
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == (1 if "--help" in words else 0)


def test_the_same_pipe_for_remarks_and_result_may_close_during_the_work(typed, run):
    (run / "importance.json").unlink()
    reading, writing = os.pipe()
    os.close(reading)
    done = typed("verify-redundancy", "--target", "2", "--run", run, stdout=writing, stderr=writing)
    os.close(writing)
    assert done.returncode == 0
    assert len(Importance.read(run / "importance.json").order) == 2


def test_no_stdout_at_all_is_no_failure(typed, run):
    done = typed("verify-redundancy", "--target", "2", "--run", run, "--quiet", without=[1])
    assert (done.returncode, done.stderr) == (0, b"")


class _Fails(io.StringIO):
    """A terminal that takes some lines, and then fails."""

    def __init__(self, error, *, after):
        super().__init__()
        self.error, self.left = error, after

    def isatty(self):
        return True

    def write(self, text):
        self.left -= text.count("\n")
        if self.left < 0:
            raise self.error
        return super().write(text)


def test_a_terminal_that_goes_away_stops_no_work_and_no_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", _Fails(OSError(5, "Input/output error"), after=1))
    console, steps = Console(), 0
    console.say("one")
    with console.task("Working", 3) as advance:
        for _ in range(3):
            console.say("two")
            advance(1)
            steps += 1
    assert steps == 3
    assert sys.stderr.getvalue().startswith("one\n")
    assert "two" not in sys.stderr.getvalue()


def _show(console):
    for number in range(3):
        console.line(f"line {number}")


@pytest.mark.parametrize(("as_json", "shown"), [(False, "line 0\n"), (True, "")])
def test_a_result_that_cannot_be_printed_is_a_failure_unless_its_reader_has_gone(as_json, shown, monkeypatch):
    monkeypatch.setattr(sys, "stdout", _Fails(BrokenPipeError(32, "Broken pipe"), after=1))
    Console(as_json=as_json).result([1], shown=_show)
    assert sys.stdout.getvalue() == shown
    monkeypatch.setattr(sys, "stdout", _Fails(OSError(28, "Full"), after=1))
    with pytest.raises(LlmpruneError, match=r"could not be printed \(Full\)"):
        Console(as_json=as_json).result([1], shown=_show)
    assert sys.stdout.getvalue() == shown

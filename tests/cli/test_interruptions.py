"""Ctrl-C and SIGTERM: one sentence, whenever they arrive, and the same command goes on."""

import json
import signal
import subprocess
import sys
import time

import pytest
import typer

from llmprune.artifacts.records.importance import Importance
from llmprune.cli.app import _friendly
from tests.cli.conftest import ROOT


@pytest.fixture
def usual_handlers():
    """Those that Python begins with: a shell's background jobs ignore Ctrl-C."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    around = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield usual
    for number, handler in around.items():
        signal.signal(number, handler)


SENTENCES = {
    signal.SIGINT: (130, "Error: Interrupted. What was finished is kept: type the same command again to go on.\n"),
    signal.SIGTERM: (
        143,
        "Error: Ended by SIGTERM. What was finished is kept: type the same command again to go on.\n",
    ),
}


@pytest.mark.parametrize("number", SENTENCES)
def test_a_signal_that_another_library_makes_an_error_of_is_an_interruption_all_the_same(
    number, usual_handlers, capsys
):
    def command():
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise RecursionError from None  # as an interrupted import of torch does now and then

    with pytest.raises(typer.Exit) as ended:
        _friendly(command)()
    assert {known: signal.getsignal(known) for known in usual_handlers} == usual_handlers
    assert (ended.value.exit_code, capsys.readouterr().err) == SENTENCES[number]


def test_signals_soon_after_the_first_do_not_disturb_the_putting_away(usual_handlers, capsys):
    put_away = []

    def command():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            put_away.append("all")

    with pytest.raises(typer.Exit) as ended:
        _friendly(command)()
    assert put_away == ["all"]
    assert (ended.value.exit_code, capsys.readouterr().err) == SENTENCES[signal.SIGINT]


def test_a_signal_that_python_can_only_swallow_arrives_again(usual_handlers, capsys):
    class Late:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    def command():
        late = Late()
        del late
        for _ in range(10_000_000):
            pass

    with pytest.raises(typer.Exit) as ended:
        _friendly(command)()
    assert (ended.value.exit_code, capsys.readouterr().err) == SENTENCES[signal.SIGTERM]


@pytest.mark.parametrize("number", SENTENCES)
def test_three_signals_during_the_imports_are_one_sentence(number):
    """The command line is imported by then, and a command imports torch: its sentence is the only output."""
    code = (
        "import os, sys, threading, time\n"
        "from llmprune.cli.entry import main\n"
        "def hit():\n"
        "    while 'torch' not in sys.modules: time.sleep(0.001)\n"
        f"    for _ in range(3): os.kill(os.getpid(), {int(number)}); time.sleep(0.01)\n"
        "threading.Thread(target=hit, daemon=True).start()\n"
        "sys.argv = ['llmprune', 'calibrate', 'nosuch/', '--run', 'nosuch']\n"
        "main()"
    )
    usual = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, preexec_fn=usual)
    assert (done.returncode, done.stderr) == SENTENCES[number]


def interrupted(process, words, *, when):
    """Start a command, send it Ctrl-C once ``when()`` holds, and give its exit code and stderr."""
    started = process(*words)
    deadline = time.monotonic() + 90
    while not when() and started.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    return started.returncode, err


def test_ctrl_c_in_a_calibration_says_how_to_go_on_and_the_same_command_does(process, model, text, tmp_path, llmprune):
    run = tmp_path / "run"
    words = ["calibrate", model, "--source", text, "--samples", "1500", "--seq-len", "64", "--run", run]
    code, err = interrupted(process, words, when=(run / "calibration.partial" / "hidden-00002.safetensors").exists)
    assert code == 130, err
    assert "type the same command again to go on" in err
    assert "Traceback" not in err
    assert not (run / "calibration").exists()
    again = llmprune(*words, "--json")
    assert again.exit_code == 0, again.stderr
    assert "Going on at block" in again.stderr
    assert json.loads(again.stdout)["num_windows"] == 1500


def test_ctrl_c_in_a_search_says_how_to_go_on_and_the_same_command_does(process, model, text, tmp_path, llmprune):
    run = tmp_path / "run"
    llmprune("calibrate", model, "--source", text, "--samples", 800, "--seq-len", 64, "--run", run, "-q")
    words = ["verify-redundancy", "--target", "3", "--search", "exhaustive", "--run", run]
    code, err = interrupted(process, words, when=(run / "importance.json").exists)
    assert code == 130, err
    assert "type the same command again to go on" in err
    assert "Traceback" not in err
    before = Importance.read(run / "importance.json")
    assert 1 <= len(before.rounds) < 3
    result = llmprune(*words)
    assert result.exit_code == 0
    assert Importance.read(run / "importance.json").rounds[: len(before.rounds)] == before.rounds

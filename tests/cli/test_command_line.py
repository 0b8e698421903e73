"""What every command shares: help, JSON, quiet, the run directory, the default model, errors and Ctrl-C."""

import importlib.util
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import typer

from llmprune.artifacts.records.importance import Importance
from llmprune.cli.app import _friendly
from llmprune.errors import LlmpruneError, ModelError
from llmprune.models.demo import DEMO_NAME, demo_model
from llmprune.stages.common import workspace
from tests.cli.conftest import ROOT
from tests.edits import content_of
from tests.tiny import NUM_BLOCKS

OF_A_MODEL = ["quickstart", "calibrate", "verify-redundancy", "remove-blocks", "global-prune", "bench"]
COMMANDS = [*OF_A_MODEL, "apply-mask", "sweep", "report", "push"]
BENCH = ["--ppl-seq-len", "32", "--max-windows", "2", "--no-speed", "--ppl"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_has_examples(command, llmprune):
    result = llmprune(command, "--help")
    assert result.exit_code == 0
    assert f"Examples: llmprune {command}" in " ".join(result.stdout.split())
    for option in ("--run", "--device", "--dtype", "--json", "--quiet"):
        assert option in result.stdout


def test_help_names_every_command_and_loads_neither_torch_nor_transformers():
    code = (
        "import sys; sys.argv = ['llmprune', '--help']\n"
        "from llmprune.cli.entry import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('LOADED', sorted({'torch', 'transformers', 'numpy', 'datasets', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("LOADED []\n")
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_help_loads_neither_torch_nor_transformers(command):
    code = (
        "import sys; from llmprune.cli.app import app\n"
        f"try: app(['{command}', '--help'])\n"
        "except SystemExit: pass\n"
        "print('LOADED', sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("LOADED []\n")


def test_no_command_shows_the_help(llmprune):
    assert "Usage" in llmprune().output


def test_the_version_is_shown(llmprune):
    assert re.fullmatch(r"llmprune \d+\.\d+\.\d+\S*\n", llmprune("--version").stdout)


@pytest.fixture(
    params=[
        ["calibrate"],
        ["verify-redundancy", "--target", "2"],
        ["remove-blocks", "--target", "2"],
        ["bench", *BENCH],
    ],
    ids=lambda words: words[0],
)
def words(request, run, small, text):
    command = request.param
    extra = {"calibrate": small, "bench": [str(text)]}.get(command[0], [])
    return [*command, *extra, "--run", str(run)]


def test_json_is_one_document_and_nothing_else_on_stdout(words, llmprune):
    result = llmprune(*words, "--json")
    assert result.exit_code == 0, result.stderr
    assert isinstance(json.loads(result.stdout), dict)


def test_quiet_says_nothing_on_stderr(words, llmprune):
    result = llmprune(*words, "--quiet")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout


def test_results_are_on_stdout_and_remarks_on_stderr(words, llmprune):
    result = llmprune(*words)
    assert result.exit_code == 0
    assert result.stdout
    assert result.stderr
    assert "\x1b" not in result.output  # no terminal, no colours and no bars


def test_json_says_what_the_artifact_says(llmprune, run):
    result = llmprune("verify-redundancy", "--target", "2", "--run", run, "--json")
    assert json.loads(result.stdout) == content_of(run / "importance.json")


def test_words_between_colons_stay_words(llmprune, capsys):
    from llmprune.cli.console import Console, complain

    console = Console()
    console.say("owner/name:train:text [bold]")
    console.line("owner/name:train:text [bold]")
    complain("owner/name:train:text [bold]")
    Console(as_json=True).result({"corpus": "owner/name:train:text"}, shown=lambda _: None)
    captured = capsys.readouterr()
    assert captured.err.count("owner/name:train:text [bold]") == 2
    assert captured.out.count("owner/name:train:text") == 2


def test_the_run_directory_may_come_from_the_environment(llmprune, run, monkeypatch):
    monkeypatch.setenv("LLMPRUNE_RUN", str(run))
    result = llmprune("verify-redundancy", "--target", "2", "--json")
    assert result.exit_code == 0
    assert "nothing to do" in result.stderr


def test_the_recorded_model_is_the_default(llmprune, run):
    result = llmprune("remove-blocks", "--blocks", "2", "--run", run, "--json")
    assert json.loads(result.stdout)["source"]["name"] == "tiny"


def test_with_nothing_recorded_the_demo_model_is_taken_and_the_first_line_says_so(llmprune, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise LlmpruneError("Before the demo model is converted.")

    if demo_model() is None:
        pytest.skip("needs the demo model's wheel")
    monkeypatch.setattr(workspace, "convert", stop)
    result = llmprune("verify-redundancy", "--run", tmp_path / "run")
    assert result.exit_code == 1
    assert f"using the demo model {DEMO_NAME}" in result.stderr.splitlines()[0]


@pytest.mark.parametrize("command", OF_A_MODEL)
def test_with_nothing_recorded_and_no_demo_model_the_message_says_what_to_type(
    command, llmprune, tmp_path, monkeypatch
):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: "smollm2" not in name and find(name, *more))
    result = llmprune(command, "--run", tmp_path / "run")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "pip install 'llmprune[demo]'" in result.stderr
    assert not (tmp_path / "run").exists()


def test_debug_raises_what_is_otherwise_a_sentence(llmprune, tmp_path, monkeypatch):
    words = ["calibrate", tmp_path / "nosuch", "--run", tmp_path / "run"]
    result = llmprune(*words)
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    monkeypatch.setenv("LLMPRUNE_DEBUG", "1")
    assert isinstance(llmprune(*words).exception, ModelError)


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


def test_a_terminal_sees_progress_and_the_command_works_as_without(model, tmp_path):
    run = tmp_path / "run"
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TERM": "xterm", "COLUMNS": "100"}
    words = [sys.executable, "-m", "llmprune", "remove-blocks", str(model), "--target", "1", "--run", str(run)]
    started = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=theirs)
    os.set_blocking(ours, False)
    seen = b""
    while started.poll() is None:
        try:
            seen += os.read(ours, 65536)
        except BlockingIOError:
            time.sleep(0.02)
    assert started.returncode == 0, seen.decode()
    os.close(ours)
    os.close(theirs)
    for task in (b"Calibrating", b"Searching", b"Writing"):
        assert task in seen
    assert b"100%" in seen


def test_the_commands_share_one_run(llmprune, model, small, text, tmp_path):
    run = ["--run", tmp_path / "run"]
    assert llmprune("calibrate", model, *small, *run).exit_code == 0
    assert llmprune("verify-redundancy", "--target", "1", *run).exit_code == 0
    removed = llmprune("remove-blocks", "--target", "1", *run)
    assert f"{NUM_BLOCKS} -> {NUM_BLOCKS - 1} blocks" in removed.stdout
    assert "Verified in float32" in removed.stdout
    compared = llmprune("bench", *BENCH, text, *run)
    assert compared.exit_code == 0
    assert "perplexity" in compared.stdout
    assert "2 windows of 32 tokens, no BOS, float32" in compared.stdout


def test_a_search_begun_elsewhere_may_be_brought_along(llmprune, model, ranked, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(ranked / "importance.json", run)
    result = llmprune("remove-blocks", model, "--target", "2", "--run", run, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["removal"]["metric"] == "sleb"

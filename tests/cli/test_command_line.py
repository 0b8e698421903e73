"""What every command shares: JSON, quiet, the run directory, the default model, errors, and one run for all."""

import importlib.util
import json
import os
import pty
import shutil
import subprocess
import sys
import time

import pytest

from llmprune.errors import LlmpruneError, ModelError
from llmprune.models.demo import DEMO_NAME, demo_model
from llmprune.stages.common import workspace
from tests.cli.conftest import ROOT
from tests.edits import content_of
from tests.tiny import NUM_BLOCKS

OF_A_MODEL = ["quickstart", "calibrate", "verify-redundancy", "remove-blocks", "global-prune", "bench"]
COMMANDS = [*OF_A_MODEL, "apply-mask", "sweep", "report", "push"]
BENCH = ["--ppl-seq-len", "32", "--max-windows", "2", "--no-speed", "--ppl"]


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

"""``llmprune global-prune`` as it is typed: what goes where, a kill that cannot be caught, a disk that fills up."""

import json
import os
import signal
import time

import pytest

from llmprune.stages.weight_pruning import block_pass
from tests.tiny import NUM_BLOCKS


def killed(process, words, *, when):
    """Start a command, and kill it once ``when()`` holds."""
    started = process(*words)
    deadline = time.monotonic() + 120
    while not when():
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.kill(started.pid, signal.SIGKILL)
    started.communicate()


def test_killed_half_way_it_goes_on_and_ends_with_the_same_bytes_and_no_leftovers(process, run, llmprune):
    words = ["global-prune", "--sparsity", "70%", "--run", run]
    whole = llmprune(*words, "--out", run / "whole")
    assert whole.exit_code == 0, whole.stderr
    partial = run / "tiny-sparsellm-70pct.partial"
    killed(process, words, when=(partial / "block-00002.safetensors").exists)
    again = llmprune(*words)
    assert again.exit_code == 0, again.stderr
    assert "Going on at block" in again.stderr
    one, two = (directory / "model.safetensors" for directory in (run / "whole", run / "tiny-sparsellm-70pct"))
    assert one.read_bytes() == two.read_bytes()
    assert not [path.name for path in run.iterdir() if "partial" in path.name]


def test_json_is_alone_on_stdout_and_a_quiet_command_says_nothing(run, llmprune):
    words = ["global-prune", "--pattern", "2:4", "--rounds", "2", "--run", run, "--json", "--quiet"]
    result = llmprune(*words)
    assert (result.exit_code, result.stderr) == (0, "")
    sparsity = json.loads(result.stdout)["sparsity"]
    assert sparsity["zeros"] * 2 == sparsity["numel"]
    assert llmprune(*words).stdout == result.stdout  # nothing to do


def test_a_line_for_every_block_has_errors_zeros_and_seconds(run, llmprune):
    result = llmprune("global-prune", "--sparsity", "0.5", "--rounds", "2", "--exclude", "*layers.1.*", "--run", run)
    assert result.exit_code == 0, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("block")]
    assert len(lines) == NUM_BLOCKS
    assert lines[1] == "block   1: no matrix to prune (0 s)"
    for line in (lines[0], *lines[2:]):
        assert "FFN error 0." in line
        assert " -> 0." in line
        assert "50.0% zeros (" in line


@pytest.mark.parametrize("seen_before", [True, False])
def test_a_full_disk_ends_it_with_a_sentence_and_room_lets_it_go_on(
    seen_before, small_disk, ranked, model, llmprune, monkeypatch
):
    if not seen_before:  # as where another program fills the disk meanwhile
        monkeypatch.setattr(block_pass, "require_free_space", lambda *_: None)
    taken = small_disk / "taken"
    taken.write_bytes(b"\1" * (1024 * (1024 - 476)))
    words = ["global-prune", model, "--calibration", ranked / "calibration", "--run", small_disk / "run"]
    result = llmprune(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is full" in result.stderr
    assert "Unexpected" not in result.stderr
    taken.unlink()
    again = llmprune(*words)
    assert again.exit_code == 0, again.stderr
    assert ("Going on at block" in again.stderr) == (not seen_before)

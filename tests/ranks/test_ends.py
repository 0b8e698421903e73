"""How a command of several processes ends: by a signal to all, where they do not meet, and under torchrun."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from llmprune.artifacts.records.importance import Importance
from llmprune.ranks import joining
from llmprune.ranks.group import joined
from llmprune.stages.calibration.dense_share import PassShare
from tests.ranks.together import run_ranks
from tests.tiny import save_tiny_llama, write_text


@pytest.fixture
def words(tmp_path):
    model, text = save_tiny_llama(tmp_path / "model"), write_text(tmp_path / "sea.txt")
    return ["calibrate", model, "--source", text, "--samples", 4, "--seq-len", 32, "--run", tmp_path / "run"]


# Whoever sends it is at work, and the other waits for it deep in the network's code.
@pytest.mark.parametrize(
    ("sender", "number", "said"),
    [(1, signal.SIGTERM, "Ended by SIGTERM"), (0, signal.SIGINT, "Interrupted")],
)
def test_a_signal_to_all_is_told_once_and_keeps_what_was_finished(words, tmp_path, sender, number, said):
    plain = PassShare.run_block

    def signal_all(rank):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore

        def run_block(self, block, *args, **own):
            if rank == sender and block == 2:
                time.sleep(0.3)  # the other is done with its windows
                for _, pid in sorted(joined().peers, key=lambda peer: peer[1] == os.getpid()):  # itself last
                    os.kill(pid, number)
            return plain(self, block, *args, **own)

        PassShare.run_block = run_block

    first, second = run_ranks(2, words, tmp_path / "ended", before=signal_all)
    assert (first.exit_code, second.exit_code) == (128 + number, 128 + number)
    errors = [line for line in first.stderr.splitlines() if line.startswith("Error")]
    assert errors == [f"Error: {said}. What was finished is kept: type the same command again to go on."]
    assert "Traceback" not in first.stderr
    assert second.stderr == ""
    (again,) = run_ranks(1, words, tmp_path / "again")
    assert again.exit_code == 0
    assert "Going on at block 2 of 6" in again.stderr


def test_a_port_that_another_program_has_is_one_sentence(words, tmp_path):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        here = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        (ended,) = run_ranks(1, words, tmp_path / "out", environment=lambda *_: here)
    assert ended.exit_code == 1
    assert ended.stderr.startswith(f"Error: Rank 0 of 2 does not find the others at localhost:{port} (")
    assert "see that this address can be reached, and that its port is free: set MASTER_ADDR and" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_an_address_that_is_nobodys_is_one_sentence(words, tmp_path, monkeypatch):
    monkeypatch.setattr(joining, "_ARRIVAL", timedelta(seconds=1))
    here = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "nobody.invalid", "MASTER_PORT": "29500"}
    (ended,) = run_ranks(1, words, tmp_path / "out", environment=lambda *_: here)
    assert ended.exit_code == 1
    assert "Error: Rank 1 of 2 does not find the others at nobody.invalid:29500 (" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_unchanged_command_under_torchrun(words, tmp_path):
    (made,) = run_ranks(1, words, tmp_path / "out")
    assert made.exit_code == 0
    # Without the two dashes torchrun would take --run for one of its own options, --run-path.
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "--"]
    found = subprocess.run(
        [*launcher, "llmprune", "verify-redundancy", "--target", "1", "--json", "--run", tmp_path / "run"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "Traceback" not in found.stderr
    assert json.loads(found.stdout)["order"] == list(Importance.read(tmp_path / "run" / "importance.json").order)

"""calibrate by two processes: what one process measures, and the artifact that one process writes."""

import os
import signal

import pytest
import torch

from llmprune.artifacts.activations import hidden_name, open_calibration
from llmprune.errors import NumericalError
from llmprune.stages.calibration.dense_share import PassShare
from tests.ranks.together import run_ranks
from tests.tiny import NUM_BLOCKS, save_tiny_llama, snapshot, write_text

WINDOWS = 7  # which two processes cannot divide evenly


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    model, text = save_tiny_llama(folder / "model"), write_text(folder / "sea.txt")
    return ["calibrate", model, "--source", text, "--samples", WINDOWS, "--seq-len", 32, "--cache", "all", "--run"]


@pytest.fixture(scope="module")
def alone(words, tmp_path_factory):
    """The calibration of one process."""
    folder = tmp_path_factory.mktemp("alone")
    (ended,) = run_ranks(1, [*words, folder / "run"], folder / "out")
    assert ended.exit_code == 0, ended.stderr
    return open_calibration(folder / "run" / "calibration")


def assert_same(found, alone):
    """Two calibrations are the same, but for the last digits of sums in another order."""
    one, other = found.manifest, alone.manifest
    assert one.dense_losses == pytest.approx(other.dense_losses, abs=1e-6)
    assert one.files.keys() == other.files.keys()
    assert sorted(snapshot(found.directory)) == sorted(snapshot(alone.directory))
    for block, expected in zip(one.blocks, other.blocks, strict=True):
        assert block.model_dump() == pytest.approx(expected.model_dump(), rel=1e-5)
    for row, expected in zip(one.angular_distances, other.angular_distances, strict=True):
        assert row == pytest.approx(expected, abs=1e-5)
    assert torch.equal(found.tokens(), alone.tokens())
    for block in range(NUM_BLOCKS + 1):
        with found.hidden_states(block) as mine, alone.hidden_states(block) as theirs:
            torch.testing.assert_close(mine.windows(0, WINDOWS), theirs.windows(0, WINDOWS))


def test_two_processes_write_what_one_writes(words, alone, tmp_path):
    ended = run_ranks(2, [*words, tmp_path / "run"], tmp_path / "out")
    assert [one.exit_code for one in ended] == [0, 0], ended
    assert not ended[1].stdout and not ended[1].stderr
    assert_same(open_calibration(tmp_path / "run" / "calibration"), alone)


def test_a_stopped_pass_goes_on_with_another_number_of_processes(words, alone, tmp_path):
    plain = PassShare.run_block
    words = [*words, tmp_path / "run"]
    partial = tmp_path / "run" / "calibration.partial"

    def dying_at(block, of):
        def die(rank):
            def run_block(self, index, *args, **own):
                if rank == of and index == block:
                    os.kill(os.getpid(), signal.SIGKILL)
                return plain(self, index, *args, **own)

            PassShare.run_block = run_block

        return die

    ended = run_ranks(3, words, tmp_path / "three", before=dying_at(2, of=1))
    assert (ended[0].exit_code, ended[1].exit_code) == (1, -signal.SIGKILL)
    assert "of 3 died. What was finished is kept" in ended[0].stderr
    assert (partial / hidden_name(2)).exists()
    first, _ = run_ranks(2, words, tmp_path / "two", before=dying_at(4, of=1))
    assert "Going on at block 2 of 6" in first.stderr
    assert "From block 2 on, the computation went on with 2 processes instead of 3;" in first.stderr
    (ended,) = run_ranks(1, words, tmp_path / "one")
    assert (ended.exit_code, "Going on at block 4 of 6" in ended.stderr) == (0, True)
    found = open_calibration(tmp_path / "run" / "calibration")
    assert_same(found, alone)
    assert found.manifest.environment.processes == 1
    assert [remark.split("with ")[1].split(";")[0] for remark in found.manifest.remarks] == [
        "2 processes instead of 3",
        "1 process instead of 2",
    ]


def test_what_fails_on_another_rank_is_told_by_the_first_with_its_number(words, tmp_path):
    def fail(rank):
        if rank == 1:
            PassShare.run_block = lambda *_: (_ for _ in ()).throw(NumericalError("Block 0 gives NaN."))

    first, second = run_ranks(2, [*words, tmp_path / "run"], tmp_path / "out", before=fail)
    assert (first.exit_code, second.exit_code) == (1, 1)
    assert first.stderr.splitlines()[-1] == "Error: rank 1 of 2: Block 0 gives NaN."
    assert second.stderr == ""
    assert not (tmp_path / "run" / "calibration.partial").exists()

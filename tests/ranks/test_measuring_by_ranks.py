"""bench, sweep and what rank 0 does alone, by two processes: the numbers of one, and all end together."""

import json
import os
import signal

import pytest

from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.artifacts.records.sweep import SweepResult
from llmprune.stages.sweeping import makers, points
from tests.ranks.together import run_ranks
from tests.steady import steady_speed
from tests.tasks import write_task
from tests.tiny import save_tiny_llama, write_text


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return save_tiny_llama(folder / "model"), write_text(folder / "sea.txt")


def both(words, world, folder):
    """What one process and two print as JSON for the same command, each in a run of its own."""
    found = []
    for size in (1, 2):
        run = folder / f"run-{size}"
        ended = run_ranks(size, [words[0], world[0], *words[1:], "--json", "--run", run], folder / f"out-{size}")
        assert [one.exit_code for one in ended] == [0] * size, ended
        assert all(not one.stdout and not one.stderr for one in ended[1:])
        found.append(json.loads(ended[0].stdout))
    return found


# A model that does not fit is run block by block; speed is measured by rank 0 alone.
@pytest.mark.parametrize("how", [["--memory-budget", "1MB", "--no-speed"], ["--batch", 1, "--gen", 2, "--prefill", 8]])
def test_two_processes_measure_the_losses_of_one(world, tmp_path, monkeypatch, how):
    steady_speed(monkeypatch)
    asked = ["--tasks", "sea", "--lm-eval-include", write_task(tmp_path / "tasks")]
    words = ["bench", "--ppl", world[1], "--ppl-seq-len", 32, "--max-windows", 3, *asked, *how]
    one, two = both(words, world, tmp_path)
    (alone,), (together,) = one["model"]["perplexity"], two["model"]["perplexity"]
    assert len(together["window_losses"]) == 3
    assert together["window_losses"] == pytest.approx(alone["window_losses"], abs=1e-6)
    assert [len(task["items"]) for task in two["model"]["tasks"]] == [6, 6]
    assert [task["items"] for task in two["model"]["tasks"]] == [task["items"] for task in one["model"]["tasks"]]
    assert len(two["model"]["generation"]) == len(one["model"]["generation"])


GRID = ["--targets", "1,2", "--sparsity", "0.5", "--method", "magnitude", "--samples", 4, "--seq-len", 32]


def test_two_processes_make_points_of_a_sweep_at_the_same_time_and_each_as_one_would(world, tmp_path):
    measured = ["--ppl", world[1], "--ppl-seq-len", 32, "--max-windows", 3, "--no-speed"]
    both(["sweep", *GRID, "--source", world[1], *measured], world, tmp_path)
    one, two = (SweepResult.read(tmp_path / f"run-{size}" / "sweep.json") for size in (1, 2))
    assert len(two.points) == 5
    assert [(point.name, point.removed) for point in two.points] == [
        (point.name, point.removed) for point in one.points
    ]
    for point, other in zip(two.points, one.points, strict=True):
        ours, theirs = (tmp_path / f"run-{size}" / point.checkpoint for size in (2, 1))
        assert (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
        assert point.metrics["ppl"].value == other.metrics["ppl"].value
        record = PruningRecord.read(ours / "llmprune.json")
        assert record.environment.processes == 1
    assert not list((tmp_path / "run-2" / "sweep").glob("*.partial"))


def test_a_sweep_whose_rank_dies_at_a_point_goes_on_alone(world, tmp_path):
    measured = ["--ppl", world[1], "--ppl-seq-len", 32, "--max-windows", 3, "--no-speed", "--discard-checkpoints"]
    words = ["sweep", world[0], *GRID, "--source", world[1], *measured, "--run", tmp_path / "run"]

    def dies_at_a_point(rank):
        plain = points.try_point

        def try_point(context, point, *rest):
            if rank == 1 and point.name == "blocks 2":
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(context, point, *rest)

        makers.try_point = try_point

    first, second = run_ranks(2, words, tmp_path / "died", before=dies_at_a_point)
    assert (first.exit_code, second.exit_code) == (1, -signal.SIGKILL)
    assert "2 at a time" in first.stderr
    assert "Rank 1 (process" in first.stderr
    (again,) = run_ranks(1, words, tmp_path / "again")
    assert again.exit_code == 0, again.stderr
    ended = SweepResult.read(tmp_path / "run" / "sweep.json")
    assert len(ended.points) == 5
    assert {point.checkpoint for point in ended.points} == {None}
    assert not (tmp_path / "run" / "sweep").exists()


def test_points_whose_speed_is_measured_are_made_one_after_another(world, tmp_path, monkeypatch):
    steady_speed(monkeypatch)
    measured = ["--ppl", world[1], "--ppl-seq-len", 32, "--max-windows", 3, "--batch", 1, "--gen", 2, "--prefill", 8]
    both(["sweep", *GRID[:2], *GRID[6:], "--source", world[1], *measured], world, tmp_path)
    one, two = (SweepResult.read(tmp_path / f"run-{size}" / "sweep.json") for size in (1, 2))
    for point, other in zip(two.points, one.points, strict=True):
        assert point.removed == other.removed
        assert point.metrics["ppl"].value == pytest.approx(other.metrics["ppl"].value, rel=1e-5)


def test_others_wait_while_rank_0_writes_and_end_with_it(world, tmp_path):
    run = tmp_path / "run"
    removed = run_ranks(2, ["remove-blocks", world[0], "--blocks", "2,4", "--run", run], tmp_path / "removed")
    assert [one.exit_code for one in removed] == [0, 0], removed
    assert removed[1].stderr == ""
    pushed = run_ranks(2, ["push", tmp_path / "nothing", "owner/name", "--dry-run"], tmp_path / "pushed")
    assert [one.exit_code for one in pushed] == [2, 2]
    assert pushed[0].stderr.startswith("Error: ") and pushed[1].stderr == ""

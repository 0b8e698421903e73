"""bench, sweep and what rank 0 does alone, by two processes: the numbers of one, and all end together."""

import json

import pytest

from llmprune.artifacts.records.sweep import SweepResult
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


def test_a_sweep_by_two_processes_has_the_points_of_one(world, tmp_path):
    grid = ["--targets", "1", "--source", world[1], "--samples", 4, "--seq-len", 32]
    measured = ["--ppl", world[1], "--ppl-seq-len", 32, "--max-windows", 3, "--no-speed"]
    both(["sweep", *grid, *measured], world, tmp_path)
    one, two = (SweepResult.read(tmp_path / f"run-{size}" / "sweep.json") for size in (1, 2))
    assert [point.removed for point in two.points] == [point.removed for point in one.points]
    for point, other in zip(two.points, one.points, strict=True):
        assert point.metrics["ppl"].value == pytest.approx(other.metrics["ppl"].value, rel=1e-5)


def test_others_wait_while_rank_0_writes_and_end_with_it(world, tmp_path):
    run = tmp_path / "run"
    removed = run_ranks(2, ["remove-blocks", world[0], "--blocks", "2,4", "--run", run], tmp_path / "removed")
    assert [one.exit_code for one in removed] == [0, 0], removed
    assert removed[1].stderr == ""
    pushed = run_ranks(2, ["push", tmp_path / "nothing", "owner/name", "--dry-run"], tmp_path / "pushed")
    assert [one.exit_code for one in pushed] == [2, 2]
    assert pushed[0].stderr.startswith("Error: ") and pushed[1].stderr == ""

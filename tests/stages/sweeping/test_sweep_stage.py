"""sweep: every artifact made once, and every point measured beside the dense model."""

import re
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from llmprune.algorithms.weights.patterns import SemiStructured, Unstructured
from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.importance import Importance
from llmprune.artifacts.records.pruning import RECORD_NAME, PruningRecord
from llmprune.artifacts.records.sweep import SweepResult
from llmprune.choices import Method
from llmprune.errors import ArtifactError, LlmpruneError, TargetError
from llmprune.evaluation.sparsity import measure_sparsity
from llmprune.stages.benchmark import bench
from llmprune.stages.common.workspace import open_workspace
from llmprune.stages.sweeping import sweep
from llmprune.stages.weight_pruning import PruningSettings, global_prune
from tests.steady import steady_speed
from tests.tasks import write_task
from tests.tiny import NUM_BLOCKS, save_tiny_llama, snapshot


def test_a_grid_is_made_and_measured(swept_grid):
    workspace, result, seen = swept_grid.workspace, swept_grid.result, swept_grid.points
    run = workspace.run.path
    assert SweepResult.read(workspace.run.sweep) == result
    assert [point.name for point in result.points] == list(result.planned)
    assert [one.name for one in result.points] == [one.point.name for one in seen]
    assert [(one.number, one.total) for one in seen] == [(number, 5) for number in range(1, 6)]
    assert seen[-1].seconds_left == 0 < seen[0].seconds_left
    for point in result.points:
        measured = BenchResult.read(run / point.bench)
        assert point.metrics == measured.metrics
        assert measured.perplexity == result.measuring.perplexity
        assert measured.baseline.name == workspace.model.name
        counted = measure_sparsity(open_checkpoint(run / point.checkpoint))
        assert (point.params, point.effective_params) == (counted.parameters, counted.effective_parameters)
    assert BenchResult.read(run / result.dense.bench).baseline is None


def test_points_combine_under_one_budget_of_weights(swept_grid):
    zeros, *others = [point for point in swept_grid.result.points if point.pattern]
    assert [point.budget for point in others] == ["50%", "50%"]
    for point in others:
        assert point.effective_params == pytest.approx(zeros.effective_params, rel=1e-3)
        assert point.params < zeros.params


def test_a_combined_point_has_the_weights_of_a_checkpoint_without_the_blocks(swept_small):
    both = next(point for point in swept_small.result.points if point.budget)
    alone = next(point for point in swept_small.result.points if point.name == "blocks 1")
    run = swept_small.workspace.run.path
    record = PruningRecord.read(run / both.checkpoint / RECORD_NAME)
    assert record.source_record == PruningRecord.read(run / alone.checkpoint / RECORD_NAME)
    before, after = (load_file(run / point.checkpoint / "model.safetensors") for point in (alone, both))
    assert before.keys() == after.keys()
    kept = [name for name in before if "norm" in name or "embed" in name]
    assert all(torch.equal(before[name], after[name]) for name in kept)


def test_one_search_and_one_calibration_serve_all(swept_grid, calibrated):
    workspace = swept_grid.workspace
    assert len(swept_grid.rounds) == 2  # of the larger target; the smaller one is the head of its order
    assert snapshot(workspace.run.calibration) == snapshot(calibrated / "calibration")
    assert len(Importance.read(workspace.run.importance).order) == 2
    windows = Importance.read(workspace.run.importance).windows_fingerprint
    for path in workspace.run.sweep_folder.glob(f"*/{RECORD_NAME}"):
        sparsity = PruningRecord.read(path).sparsity
        assert sparsity is None or sparsity.settings.windows_fingerprint == windows
    assert not list(workspace.run.sweep_folder.glob("*.run/calibration"))


def test_the_dense_perplexity_is_measured_once_and_pairs_as_if_measured_again(workspace, small, monkeypatch):
    measured = []
    from llmprune.stages.benchmark import opened

    losses = opened.window_losses
    monkeypatch.setattr(opened, "window_losses", lambda model, *a, **o: measured.append(1) or losses(model, *a, **o))
    result = sweep(workspace, small)
    assert len(measured) == 1 + len(result.points)
    point = result.points[-1]
    again, _ = bench(
        workspace.run,
        model=str(workspace.run.path / point.checkpoint),
        baseline=None,
        settings=small.bench,
        compute=workspace.compute,
        progress=workspace.progress,
    )
    assert again.metrics["ppl_ratio"] == point.metrics["ppl_ratio"]
    assert again.baseline.perplexity == BenchResult.read(workspace.run.path / result.dense.bench).model.perplexity


def test_an_earlier_benchmark_under_another_protocol_is_not_taken(workspace, small):
    from llmprune.stages.block_removal import RemovalSettings, remove_blocks

    options = {"baseline": None, "compute": workspace.compute, "progress": workspace.progress}
    dense, _ = bench(workspace.run, model=workspace.record.model, settings=small.bench, **options)
    directory = str(remove_blocks(workspace, RemovalSettings(blocks=(2,), verify=False)).directory)
    shorter = replace(small.bench, ppl_seq_len=32)
    found, _ = bench(workspace.run, model=directory, settings=shorter, dense=dense, **options)
    plain, _ = bench(workspace.run, model=directory, settings=shorter, **options)
    assert found.baseline.perplexity == plain.baseline.perplexity
    assert found.baseline.perplexity != dense.model.perplexity


def test_speed_is_measured_beside_the_dense_model_and_has_a_front(workspace, small, monkeypatch):
    steady_speed(monkeypatch)
    timed = replace(small.bench, speed=True, batch=(1, 2), gen=3, prompt=4, prefill=8, repeats=2, max_seconds=0)
    result = sweep(workspace, replace(small, bench=timed))
    assert result.measuring.speed.batch == (1, 2)
    for point in result.points:
        slowest = min(point.metrics[f"generation_ratio.{batch}"].value for batch in (1, 2))
        assert point.latency_ratio.value == pytest.approx(1 / slowest)
    assert {point.name: point.latency_ratio.value for point in result.points if point.removed} == pytest.approx(
        {point.name: 1 - len(point.removed) / NUM_BLOCKS for point in result.points if point.removed}
    )
    best = min(result.measured, key=lambda one: (one.latency_ratio.value, one.ppl_ratio.value))
    assert best.name in result.pareto.latency
    assert result.machine is not None


def test_patterns_are_points_too(workspace, small):
    settings = replace(small, patterns=(SemiStructured(2, 4),))
    zeros, _, both = sweep(workspace, settings).points
    assert (zeros.name, both.name) == ("pattern 2:4", "blocks 1 + pattern 2:4")
    assert both.budget is None
    assert BenchResult.read(workspace.run.path / both.bench).model.sparsity.violations == 0


@pytest.mark.parametrize("part", [{"targets": ()}, {"patterns": ()}])
def test_either_alone_is_a_sweep(part, workspace, small):
    assert len(sweep(workspace, replace(small, **part)).points) == 1


def test_a_run_without_anything_is_calibrated_first(open_run, small, settings):
    workspace = open_run()
    result = sweep(workspace, replace(small, calibration=settings))
    assert len(result.points) == 3
    assert (result.pruning.windows, result.pruning.seq_len) == (settings.samples, settings.seq_len)


def test_the_commands_make_the_same_checkpoint_again(swept, monkeypatch):
    import shlex

    from typer.testing import CliRunner

    from llmprune.cli.app import app

    workspace, point = swept.workspace, swept.result.points[-1]
    before = load_file(workspace.run.path / point.checkpoint / "model.safetensors")
    shutil.rmtree(workspace.run.sweep_folder)
    monkeypatch.chdir(workspace.run.path.parent)
    *making, measuring = point.commands
    assert len(making) == 2
    for command in making:
        result = CliRunner().invoke(app, [*shlex.split(command)[1:], "--no-verify"])
        assert result.exit_code == 0, result.output
    after = load_file(workspace.run.path / point.checkpoint / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert measuring.startswith(
        f"llmprune bench run/{point.checkpoint} --run run --ppl sea.txt --ppl-seq-len 64 --max-win"
    )


def test_a_target_twice_in_other_words_is_refused(workspace, small):
    with pytest.raises(TargetError, match=r"`targets=1` and 10% both remove 1 of 6 blocks"):
        sweep(workspace, replace(small, targets=("1", "10%")))


def test_a_ranking_by_another_metric_is_not_taken_for_the_one_asked_for(swept, small):
    with pytest.raises(ArtifactError, match="ranks blocks by sleb, not by angular"):
        sweep(swept.workspace, replace(small, metric="angular"))


def test_one_shot_rankings_serve_a_sweep(workspace, grid):
    grid = replace(grid, combine="none")
    result = sweep(workspace, replace(grid, metric="angular"))
    assert result.pruning.metric == "angular"
    assert len(result.points) == 3
    assert len(sweep(workspace, grid, on_point=lambda _: pytest.fail("made again")).points) == 3


def test_the_estimate_comes_first_and_names_points_time_and_disk(swept_grid):
    listener = swept_grid.listener
    said = next(line for line in listener.said if "points to make and measure" in line)
    assert said.startswith("5 points to make and measure (2 by blocks, 1 by zeros, 2 by both): about ")
    assert re.search(r"and up to 1\.\d MB of disk", said)  # five checkpoints, and the work on the last one
    assert not any("block " in line and " goes" in line for line in listener.said[: listener.said.index(said)])


@pytest.mark.parametrize(("keep", "hint"), [(True, "type `keep=False`"), (False, "make room")])
def test_a_disk_that_is_too_small_is_seen_before_anything_is_made(keep, hint, workspace, grid, monkeypatch):
    usage = shutil.disk_usage(workspace.run.path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    before = snapshot(workspace.run.path)
    with pytest.raises(LlmpruneError, match=hint):
        sweep(workspace, replace(grid, keep=keep))
    assert snapshot(workspace.run.path) == before


def test_a_calibration_serves_what_was_cut_from_its_model_and_no_other(workspace, tmp_path):
    stranger = save_tiny_llama(tmp_path / "stranger", seed=5)
    other = open_workspace(tmp_path / "elsewhere", str(stranger), compute=workspace.compute)
    with pytest.raises(ArtifactError, match="is a calibration of"):
        global_prune(other, PruningSettings(Unstructured(0.5), Method.WANDA, calibration=workspace.run.calibration))


def test_tasks_are_asked_of_every_point_and_once_of_the_dense_model(workspace, grid, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (extra 'eval')")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    asked = replace(grid.bench, tasks=("sea",), lm_eval_include=write_task(tmp_path / "tasks"), limit=4)
    result = sweep(workspace, replace(grid, targets=("1",), combine="none", bench=asked))
    assert result.measuring.tasks.tasks == ("sea",)
    dense = BenchResult.read(workspace.run.path / result.dense.bench)
    for point in result.points:
        measured = BenchResult.read(workspace.run.path / point.bench)
        assert measured.baseline.tasks == dense.model.tasks
        mine, theirs = measured.model.tasks[0].items, dense.model.tasks[0].items
        assert len(mine) == len(theirs) == 4
        assert point.metrics["acc_diff.sea"].value == pytest.approx((sum(mine) - sum(theirs)) / 4)
        assert "--tasks sea --lm-eval-include" in point.commands[-1]
    with pytest.raises(ArtifactError, match=r"measured otherwise .*tasks sea"):
        sweep(workspace, grid)

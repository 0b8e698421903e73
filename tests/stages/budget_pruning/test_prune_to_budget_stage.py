"""prune: as few blocks as the budget asks for, beside one fewer and one more, and gone on with when it was stopped."""

from dataclasses import replace

import pytest

from llmprune.artifacts.records.budget import BudgetResult, StepTimes
from llmprune.artifacts.records.importance import Importance
from llmprune.errors import ArtifactError, OutputExistsError, TargetError
from llmprune.stages.benchmark import BenchSettings
from llmprune.stages.block_removal import remove_blocks
from llmprune.stages.block_search import RedundancySettings, verify_redundancy
from llmprune.stages.budget_pruning import BudgetSettings, points, prune_to_budget
from llmprune.stages.budget_pruning.footprint import Footprint, measure_parameters, time_step
from tests.tiny import NUM_BLOCKS, snapshot


@pytest.fixture
def measured(text):
    return BenchSettings(ppl=(str(text),), ppl_seq_len=64, max_windows=4, speed=False, agreement=0)


@pytest.fixture
def budget(measured):
    """Half of the tiny model's blocks and all the rest."""
    return BudgetSettings(size="75%", measured=measured, verify=False)


def test_the_model_is_within_its_size_and_one_block_fewer_is_not(workspace, budget, listener):
    report = prune_to_budget(workspace, budget)
    result, dense = report.result, workspace.model.num_parameters
    chosen = result.point(result.chosen)
    fewer, more = (result.point(name) for name in result.beside)
    assert chosen.params == report.record.num_parameters <= 0.75 * dense < fewer.params
    assert more.params < chosen.params
    assert fewer.removed == chosen.removed[:-1] == more.removed[: len(fewer.removed)]
    assert report.record.healing.settings.scope == "all"
    assert Importance.read(workspace.run.importance).settings.heal is None
    assert (workspace.run.path / chosen.checkpoint) == report.directory
    assert fewer.checkpoint is None and not workspace.run.budget_folder.exists()
    assert workspace.run.newest_checkpoint() == report.directory
    assert BudgetResult.read(workspace.run.budget) == result
    assert result.dense.metrics["ppl"].value < chosen.metrics["ppl"].value
    assert listener.heard(f"{dense:,} parameters, to be at most 75% of parameters: about")


class _Killed(BaseException):
    pass


def test_what_was_finished_before_a_stop_is_not_done_again(workspace, open_run, budget, monkeypatch):
    calls = []

    def removing(space, settings, **options):
        calls.append(settings.target)
        if len(calls) == 2:
            raise _Killed
        return remove_blocks(space, settings, **options)

    monkeypatch.setattr("llmprune.stages.budget_pruning.points.remove_blocks", removing)
    with pytest.raises(_Killed):
        prune_to_budget(workspace, budget)
    known = BudgetResult.read(workspace.run.budget)
    assert [point.name for point in known.points] == [known.beside[0]]
    report = prune_to_budget(open_run(), budget)
    first, *_ = calls
    assert calls.count(first) == 1, "the alternative that was measured is not made again"
    assert report.result.points[0] == known.points[0]
    assert report.result.dense == known.dense
    again = prune_to_budget(open_run(), budget)
    assert len(calls) == 5, "only the chosen one is looked at again"
    assert again.result.points == report.result.points
    (workspace.run.path / again.result.points[-1].bench).unlink()
    last = prune_to_budget(open_run(), budget).result
    assert last.points[:-1] == again.result.points[:-1]
    assert (workspace.run.path / last.points[-1].bench).exists()


def test_a_ranking_that_is_there_is_taken_and_gone_on_with(workspace, budget):
    known = verify_redundancy(workspace, RedundancySettings("1"))
    report = prune_to_budget(workspace, budget)
    assert report.record.removal.removed[:1] == known.order
    assert not report.record.removal.search_heals


def test_a_one_shot_ranking_is_refused(workspace, budget):
    verify_redundancy(workspace, RedundancySettings("2", metric="block-influence"))
    with pytest.raises(ArtifactError, match="ranks blocks by block-influence, which measures no loss"):
        prune_to_budget(workspace, budget)


TIMES = StepTimes(blocks=(1.0,) * NUM_BLOCKS, rest=2.0, batch=64)


def test_a_speed_up_is_told_from_the_times_of_the_parts(workspace, measured, monkeypatch):
    monkeypatch.setattr("llmprune.stages.budget_pruning.stage.time_step", lambda *_, **__: TIMES)
    settings = BudgetSettings(
        speed_up=1.3,
        verify=False,
        measured=replace(measured, batch=(1,), gen=4, repeats=1, max_seconds=0),
    )
    result = prune_to_budget(workspace, settings).result
    assert (result.chosen, result.beside) == ("2 blocks removed", ("1 block removed", "3 blocks removed"))
    assert result.times == TIMES
    assert "generation_ratio" in result.point(result.chosen).metrics or result.measuring.speed is not None


def test_times_and_sizes_are_those_of_the_parts(workspace):
    decoder = workspace.open_decoder()
    times = time_step(decoder, batch=2)
    assert len(times.blocks) == NUM_BLOCKS and times.batch == 2
    assert all(seconds > 0 for seconds in (*times.blocks, times.rest))
    footprint = measure_parameters(workspace.open_shell())
    counted = [sum(weight.numel() for weight in block.parameters()) for block in decoder.blocks]
    assert list(footprint.blocks) == counted
    assert footprint.parameters((1, 4)) == workspace.model.num_parameters - counted[1] - counted[4]
    assert Footprint(0, (), TIMES).speed_up((0, 5)) == 8 / 6


def test_blocks_of_different_sizes_are_counted_each():
    footprint = Footprint(100, (10, 30, 10, 30))
    settings = BudgetSettings(size="60")
    assert footprint.fewest(settings, (0, 1, 2, 3)) == 2
    assert footprint.keeps(settings, (1, 0)) and not footprint.keeps(settings, (0, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Give one budget"),
        ({"size": "70%", "speed_up": 1.2}, "Give one budget"),
        ({"speed_up": 1.0}, "`speed_up=1` is out of range"),
        ({"speed_up": float("nan")}, "is out of range"),
        ({"size": "120%"}, "not between 0% and 100%"),
        ({"size": "much"}, "is no number of weights"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(options, message):
    with pytest.raises(TargetError, match=message):
        BudgetSettings(**options)


@pytest.mark.parametrize(
    ("size", "message"),
    [("10B", "as it is; ask for less"), ("1%", "Removing 3 of 6 blocks, the most that can go, leaves [0-9,]+ of its")],
)
def test_budgets_that_the_model_cannot_keep_are_refused_before_anything_is_made(size, message, workspace, budget):
    with pytest.raises(TargetError, match=message):
        prune_to_budget(workspace, BudgetSettings(**{**vars(budget), "size": size}))
    assert not workspace.run.importance.exists()


def test_a_benchmark_that_was_stopped_is_not_kept_twice(workspace, budget, monkeypatch):
    written = points.bench_in_run

    def dying(*args, **options):
        written(*args, **options)
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(points, "bench_in_run", dying)
        with pytest.raises(_Killed):
            prune_to_budget(workspace, budget)
    assert len(list(workspace.run.bench.iterdir())) == 1
    result = prune_to_budget(workspace, budget).result
    assert len(list(workspace.run.bench.iterdir())) == 1 + len(result.points)
    assert result.begun == {}


def _notes(run):
    (run.budget_folder / "3-blocks").mkdir(parents=True)
    (run.budget_folder / "3-blocks" / "notes.txt").write_text("mine")


def _link(run):
    (run.path / "elsewhere").mkdir()
    run.budget_folder.symlink_to(run.path / "elsewhere")


def _file(run):
    run.budget.write_text("mine")


@pytest.mark.parametrize("make", [_notes, _link, _file])
def test_what_is_somebody_else_s_is_refused_and_left(make, workspace, budget):
    make(workspace.run)
    before = snapshot(workspace.run.path)
    for force in (False, True):
        with pytest.raises(OutputExistsError, match=r"move it away, or type `run=OTHER`"):
            prune_to_budget(workspace, replace(budget, force=force))
    assert snapshot(workspace.run.path) == before

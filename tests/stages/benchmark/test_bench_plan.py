"""bench --plan: what is in memory as a whole, and when, is what bench itself decides."""

from dataclasses import replace

import pytest

from llmprune.errors import TargetError
from llmprune.models.compute import Compute, choose_compute
from llmprune.stages.benchmark import BenchSettings, bench, plan_bench
from llmprune.stages.benchmark.subjects import CheckpointSubject
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from tests.tiny import Listener

QUALITY = BenchSettings(ppl=("auto",), ppl_seq_len=32, max_windows=2, agreement=2, gen=4, speed=False)
DRAFT = replace(QUALITY, draft=True, repeats=2, max_seconds=0)
SPEED = replace(QUALITY, speed=True, batch=(2,), prompt=4, prefill=8, repeats=2, max_seconds=0)


@pytest.fixture
def pruned(workspace):
    return remove_blocks(workspace, RemovalSettings(blocks=(1,), verify=False)).directory


def options(settings):
    return {"settings": settings, "compute": choose_compute("cpu"), "progress": Listener()}


@pytest.fixture
def opened(monkeypatch):
    """Which models bench has opened, and whether as a whole."""
    found, opens = [], CheckpointSubject.open

    def noted(self, dtype, *, whole, **kwargs):
        found.append((self.name, whole))
        return opens(self, dtype, whole=whole, **kwargs)

    monkeypatch.setattr(CheckpointSubject, "open", noted)
    return found


def planned(workspace, settings):
    plan = plan_bench(workspace.run, model=None, baseline=None, **options(settings))
    return {step.step: step for step in plan.steps}


@pytest.mark.parametrize("free", [None, 1000])
@pytest.mark.parametrize("wanted", [QUALITY, DRAFT, SPEED, replace(QUALITY, ppl=(), tasks=("arc_easy",), limit=2)])
def test_the_plan_loads_what_bench_loads(workspace, pruned, opened, free, wanted, monkeypatch):
    if free is not None:
        monkeypatch.setattr(Compute, "free_bytes", lambda _: free)
    if free is not None and (wanted.speed or wanted.draft):
        with pytest.raises(TargetError) as refused:
            bench(workspace.run, model=None, baseline=None, **options(wanted))
        with pytest.raises(TargetError) as also:
            planned(workspace, wanted)
        assert str(also.value).split(" GB are free")[1] == str(refused.value).split(" GB are free")[1]
        return
    steps = planned(workspace, wanted)
    whole = {step.removesuffix(": loading") for step in steps if step.endswith(": loading")}
    assert any(step.endswith(": agreement") for step in steps) == (free is None)
    assert ("draft" in steps) == wanted.draft
    if not wanted.tasks:
        bench(workspace.run, model=None, baseline=None, **options(wanted))
        assert whole == {name for name, is_whole in opened if is_whole}
        assert len(opened) == 2
    assert whole == ({pruned.name, workspace.model.name} if free is None else set())


def test_a_draft_has_both_models_in_memory_and_takes_time(workspace, pruned):
    alone, drafted = planned(workspace, QUALITY), planned(workspace, DRAFT)
    quality, other = (steps[f"{pruned.name}: quality"] for steps in (alone, drafted))
    assert other.host > quality.host  # the dense one has stayed
    assert drafted["draft"].host > alone[f"{workspace.model.name}: loading"].host
    assert drafted["draft"].seconds > 0
    assert not {"draft"} & alone.keys()

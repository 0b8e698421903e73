"""Sweeps that were made already: most tests begin with one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from llmprune.artifacts.records.sweep import SweepResult
from llmprune.models.compute import choose_compute
from llmprune.stages.common.workspace import Workspace, open_workspace
from llmprune.stages.sweeping import SweepSettings, sweep
from tests.tiny import Listener


@dataclass
class Swept:
    """A sweep that is over: where, what came of it, and what was heard of it on the way."""

    workspace: Workspace
    result: SweepResult | None = None
    points: list = field(default_factory=list)
    rounds: list = field(default_factory=list)
    listener: Listener = field(default_factory=Listener)


@pytest.fixture(scope="session")
def sweep_once(tmp_path_factory, calibrated, model) -> Callable[[SweepSettings], Swept]:
    """Sweep in a run of its own, which has the calibration."""

    def make(settings: SweepSettings) -> Swept:
        run, listener = tmp_path_factory.mktemp("runs") / "run", Listener()
        shutil.copytree(calibrated, run)
        workspace = open_workspace(run, str(model), compute=choose_compute("cpu"), progress=listener)
        done = Swept(workspace, listener=listener)
        done.result = sweep(workspace, settings, on_point=done.points.append, on_round=done.rounds.append)
        return done

    return make


@pytest.fixture(scope="session")
def swept_grid(sweep_once, grid) -> Swept:
    """The sweep of ``grid``; tests leave it as it is."""
    return sweep_once(grid)


@pytest.fixture(scope="session")
def swept_small(sweep_once, small) -> Swept:
    """The sweep of ``small``; tests leave it as it is, and change their copy of it, ``swept``."""
    return sweep_once(small)


@pytest.fixture
def swept(swept_small, run, open_run) -> Swept:
    """A run of the test's own that has the sweep of ``small``."""
    shutil.copytree(swept_small.workspace.run.path, run)
    return Swept(open_run(), swept_small.result)

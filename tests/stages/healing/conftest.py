"""A run whose calibration text the tiny model wrote itself: there, to be closer to the dense model is to lose less."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llmprune.models.compute import choose_compute
from llmprune.stages.calibration import CalibrationSettings, calibrate
from llmprune.stages.calibration.windows import SELF
from llmprune.stages.common.workspace import Workspace, open_workspace
from tests.tiny import Listener


@pytest.fixture(scope="session")
def self_calibrated(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    run = tmp_path_factory.mktemp("runs") / "self"
    space = open_workspace(run, str(model), compute=choose_compute("cpu"))
    calibrate(space, CalibrationSettings(source=SELF, samples=24, seq_len=64))
    return run


@pytest.fixture
def written(run: Path, self_calibrated: Path, model: Path, listener: Listener) -> Workspace:
    """A run with that calibration."""
    shutil.copytree(self_calibrated, run)
    return open_workspace(run, str(model), compute=choose_compute("cpu"), progress=listener)

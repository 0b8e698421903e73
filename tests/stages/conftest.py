"""A tiny model, a text, and a run directory that holds its calibration; each test gets its own copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from llmprune.algorithms.weights.patterns import Unstructured
from llmprune.choices import Method
from llmprune.models.compute import choose_compute
from llmprune.stages.benchmark import BenchSettings
from llmprune.stages.calibration import CalibrationSettings, calibrate
from llmprune.stages.calibration.windows import SELF
from llmprune.stages.common.workspace import Workspace, open_workspace
from llmprune.stages.sweeping import SweepSettings
from tests.tiny import SAMPLES, SEQ_LEN, Listener, save_tiny_llama, write_text


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("texts") / "sea.txt")


@pytest.fixture(scope="session")
def settings(text) -> CalibrationSettings:
    return CalibrationSettings(source=str(text), samples=SAMPLES, seq_len=SEQ_LEN)


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory, model, settings) -> Path:
    run = tmp_path_factory.mktemp("runs") / "calibrated"
    calibrate(open_workspace(run, str(model), compute=choose_compute("cpu")), settings)
    return run


@pytest.fixture(scope="session")
def self_calibrated(tmp_path_factory, model) -> Path:
    """A calibration text that the model wrote itself: there, to be closer to the dense model is to lose less."""
    run = tmp_path_factory.mktemp("runs") / "self"
    space = open_workspace(run, str(model), compute=choose_compute("cpu"))
    calibrate(space, CalibrationSettings(source=SELF, samples=24, seq_len=64))
    return run


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def run(tmp_path) -> Path:
    """A run directory that does not exist yet."""
    return tmp_path / "run"


@pytest.fixture
def open_run(run, model, listener) -> Callable[..., Workspace]:
    """Open ``run``, of the tiny model unless another is named."""

    def open_it(*, of: Path | None = None, dtype: str = "auto", listener: Listener = listener) -> Workspace:
        return open_workspace(run, str(of or model), compute=choose_compute("cpu", dtype), progress=listener)

    return open_it


@pytest.fixture
def workspace(run, calibrated, open_run) -> Workspace:
    """A run that has its calibration."""
    shutil.copytree(calibrated, run)
    return open_run()


@pytest.fixture
def written(run, self_calibrated, open_run) -> Workspace:
    """A run whose calibration text the model wrote itself."""
    shutil.copytree(self_calibrated, run)
    return open_run()


@pytest.fixture(scope="session")
def grid(text) -> SweepSettings:
    """A sweep of two targets and a sparsity, perplexity only."""
    measured = BenchSettings(ppl=(str(text),), ppl_seq_len=64, max_windows=4, speed=False)
    return SweepSettings(("1", "2"), (Unstructured(0.5),), method=Method.WANDA, bench=measured, verify=False)


@pytest.fixture(scope="session")
def small(grid) -> SweepSettings:
    """The same of one target."""
    return replace(grid, targets=("1",))

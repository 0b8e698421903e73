"""Tiny checkpoints on disk, made once a session, and a disk that nobody waits for."""

import gc
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from transformers.utils import logging as transformers_logging

from llmprune.models.compute import Compute
from llmprune.stages.common.workspace import Workspace, open_workspace
from tests.tiny_models import save_tiny

# A shared machine stalls now and then: no test fails for being slow.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
transformers_logging.disable_progress_bar()

# Weights of a few kilobytes are loaded without threads for them. New processes load as users' do.
os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"

CPU = torch.device("cpu")
_FSYNC = os.fsync


def pytest_collection_finish() -> None:
    """Leave what was imported out of each collection of garbage: to look through it takes a third of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU, and CUDA where it is there."""
    return torch.device(request.param)


@pytest.fixture(scope="session", autouse=True)
def quick_disk() -> Iterator[None]:
    """Nobody pulls the plug in these tests, and a shared disk takes its time; see ``real_disk``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture
def real_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is flushed to the disk, as it is for users."""
    monkeypatch.setattr(os, "fsync", _FSYNC)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Directory of a family's tiny checkpoint; tests read it and never write to it."""
    return cache(lambda family: save_tiny(family, tmp_path_factory.mktemp("tiny") / family))


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Workspace]:
    """A run directory of its own for a checkpoint directory."""
    return lambda directory: open_workspace(tmp_path_factory.mktemp("run"), str(directory), compute=Compute(CPU))

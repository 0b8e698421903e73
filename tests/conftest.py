"""Tiny checkpoints on disk, made once a session."""

from collections.abc import Callable
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

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Directory of a family's tiny checkpoint; tests read it and never write to it."""
    return cache(lambda family: save_tiny(family, tmp_path_factory.mktemp("tiny") / family))


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Workspace]:
    """A run directory of its own for a checkpoint directory."""
    return lambda directory: open_workspace(tmp_path_factory.mktemp("run"), str(directory), compute=Compute(CPU))

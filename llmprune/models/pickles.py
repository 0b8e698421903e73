"""Pickled weights as an ordinary checkpoint of safetensors files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import torch

from llmprune.artifacts.checkpoints.finiteness import find_non_finite, refuse_non_finite
from llmprune.artifacts.checkpoints.pickles import Pickles, fill_in, lay_out, open_pickles
from llmprune.artifacts.files.atomic import atomic_directory
from llmprune.artifacts.records.pruning import RECORD_NAME
from llmprune.models.architecture import empty_model
from llmprune.models.belonging import beside_weights
from llmprune.models.config import CONFIG_NAME, load_config, require_language_model
from llmprune.models.source import check_weights
from llmprune.models.weights import place_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def convert_pickles(
    source: Path,
    directory: Path,
    *,
    trust_remote_code: bool = False,
    finish: Callable[[Path], None] = lambda _: None,
) -> None:
    """Write a checkpoint of pickled weights as one of safetensors files, with the same names and dtypes.

    Tensors that the pickles hold once under several names are stored once where the model ties them. It is seen that
    the weights are what the config says before any is written. In memory is one tensor at a time, or one file of
    torch's format of before 2020.

    Args:
        source: a checkpoint directory.
        directory: the new one, all of it or nothing.
        trust_remote_code: whether the checkpoint's own Python files may run.
        finish: called with the folder in which all was written, before it becomes ``directory``.

    Raises:
        ModelError: no causal LM, or a config that cannot be used.
        CheckpointError: a file is missing, cut off or needs more than tensors, a weight is NaN or infinite, or not
            what the config says.
        LlmpruneError: the disk is full.
    """
    require_language_model(source)
    config = load_config(source, trust_remote_code=trust_remote_code)
    pickles = open_pickles(source)
    again = _stored_already(pickles, config, trust_remote_code=trust_remote_code)
    with atomic_directory(directory) as partial:
        checkpoint = lay_out(pickles, partial, left_out=again)
        shell = check_weights(source, config, checkpoint, trust_remote_code=trust_remote_code)
        fill_in(pickles, checkpoint)
        refuse_non_finite(find_non_finite(checkpoint, shell.used))
        for path in (*_carried(source), *beside_weights(source)):
            (partial / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, partial / path)
        finish(partial)


def _carried(source: Path) -> list[PurePosixPath]:
    return [PurePosixPath(name) for name in (CONFIG_NAME, RECORD_NAME, "README.md") if (source / name).is_file()]


def _stored_already(pickles: Pickles, config: PreTrainedConfig, *, trust_remote_code: bool) -> set[str]:
    """Names under which the pickles hold a tensor again that the model ties to it, such as a head to the embedding."""
    model = empty_model(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
    places = place_tensors(model, pickles.names).by_tensor
    return {
        name
        for names in pickles.shared
        for name in names & places.keys()
        if model.all_tied_weights_keys.get(places[name]) in {places[other] for other in names & places.keys()}
    }

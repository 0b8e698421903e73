"""Weights into a model's shell, a few tensors at a time, and out of it again."""

from __future__ import annotations

from collections.abc import Iterable, Set
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint
from llmprune.errors import CheckpointError
from llmprune.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_tensors(
    model: PreTrainedModel,
    checkpoint: Checkpoint,
    names: Iterable[str],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Load a few of a checkpoint's tensors into a model, with transformers' own renamings and fusions.

    Raises:
        CheckpointError: a tensor's shape is not the one that the config asks for.
    """
    mapping: list[Any] = get_model_conversion_mapping(model)
    options = LoadStateDictConfig(device_map={"": str(device)}, dtype=dtype, weight_mapping=mapping)
    with quiet():
        info, _ = convert_and_load_state_dict_in_model(model, checkpoint.load(names), options)
    if info.mismatched_keys:
        name, found, expected = sorted(info.mismatched_keys)[0]
        raise CheckpointError(
            f"{name} has shape {tuple(found)} in the weights, but config.json asks for {tuple(expected)}."
        )
    if info.conversion_errors:  # experts, say, that are stored one by one and computed as one tensor
        raise CheckpointError(
            f"{sorted(info.conversion_errors)[0]} cannot be put together from the weights: some that it is made of "
            "are missing, or have another shape than config.json asks for."
        )


def require_weights(model: nn.Module, part: nn.Module, *, besides: Set[int] = frozenset()) -> None:
    """See that no parameter of ``part`` of a model is still without a value.

    Args:
        model: names the parameters.
        part: the model or a module of it.
        besides: ids of parameters that need none.

    Raises:
        CheckpointError: one has none.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_meta and id(parameter) not in besides and any(p is parameter for p in part.parameters()):
            raise CheckpointError(f"The weights lack {name}, which {type(model).__name__} needs.")


def drop_parameters(block: nn.Module) -> None:
    """Give up a block's weights: the shell on the meta device stays."""
    for module in block.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = torch.empty_like(parameter, device="meta")
            setattr(module, name, nn.Parameter(empty, requires_grad=False))

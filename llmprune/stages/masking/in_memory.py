"""A mask on a model in memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from llmprune.artifacts.checkpoints.block_numbers import split_at_number
from llmprune.artifacts.masks.mask import Mask, numbered_modules
from llmprune.errors import ArtifactError
from llmprune.models.resident import model_decoder
from llmprune.models.weights import Places, place_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SIBLINGS = "a mask fits the model that it was made from and its fine-tuned siblings."


def mask_in_memory(model: PreTrainedModel, mask: Mask, *, called: Path) -> PreTrainedModel:
    """A model whose weights are zero where a mask says so; it uses the memory of ``model`` for all other weights.

    Args:
        model: a sibling of the model that the mask was made from; it is left as it is.
        mask: by the names that the weights have in a checkpoint.
        called: what errors call the mask.

    Raises:
        ArtifactError: the model lacks a weight of the mask, has it in another shape, or has another number of blocks.
        ModelError: no causal LM in memory.
    """
    masked = model_decoder(model).model
    places = place_tensors(masked, mask.tensors)
    _check_depth(mask, masked, places, called)
    with torch.no_grad():
        for name, tensor in mask.tensors.items():
            path, _, leaf = _place(places, name, called).rpartition(".")
            module = masked.get_submodule(path)
            weight: nn.Parameter = getattr(module, leaf)
            if tuple(weight.shape) != tensor.shape:
                raise ArtifactError(
                    f"{called} masks {name:.100} with shape {tensor.shape}, but in this model it has "
                    f"{tuple(weight.shape)}; {_SIBLINGS}"
                )
            kept = torch.from_numpy(mask.kept(name)).to(weight.device)
            setattr(module, leaf, nn.Parameter(weight.where(kept, 0), requires_grad=weight.requires_grad))
    masked.train(model.training)
    return masked


def _place(places: Places, name: str, called: Path) -> str:
    """The parameter that a checkpoint's tensor is in this model."""
    place = places.by_tensor.get(name)
    if place is None or name in places.converted:
        raise ArtifactError(f"{called} masks {name:.100}, which this model does not have; {_SIBLINGS}")
    return place


def _check_depth(mask: Mask, model: PreTrainedModel, places: Places, called: Path) -> None:
    """See that the model has as many blocks as the mask was made for."""
    counts = numbered_modules(model.state_dict())
    for prefix, count in mask.numbered.items():
        first = next(name for name in mask.tensors if name.startswith(prefix))
        parts = split_at_number(_place(places, first, called))
        found = counts.get(parts[0], 0) if parts else 0
        if found != count:
            raise ArtifactError(
                f"{called} was made from {count} blocks, but this model has {found}; if blocks were removed before "
                "the mask was made, remove the same ones first."
            )

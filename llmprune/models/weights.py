"""Weights into a model's shell and out of it again, by transformers' own loader.

What ``from_pretrained`` does with a checkpoint (old and new names, a base model's prefix, tensors that are merged,
split or transposed, tied weights, what it ignores, dtypes) is found out by letting it load tensors without data.
The same functions then load a few real tensors at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    dot_natural_key,
    rename_source_key,
)
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils.loading_report import LoadStateDictInfo

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint
from llmprune.errors import CheckpointError
from llmprune.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FLOATS = {"F64", "F32", "F16", "BF16"}
# How the loader makes one tensor of matrices: (matrices, rows, columns), the rows of several tensors one after another.
_STACKING = ([(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)])


@dataclass(frozen=True)
class Places:
    """Where transformers puts a checkpoint's tensors in a model.

    Attributes:
        by_tensor: for each tensor that the model uses, the parameter or buffer that it becomes, or the first of
            those that it becomes or is a part of.
        converted: tensors that are merged, split or transposed on the way.
        unused: tensors that the model has no place for.
        stacked: for each parameter that is a stack of matrices stored one by one (experts), the tensors whose rows
            come first in each matrix, one of each, then those whose rows follow, and so on.
    """

    by_tensor: Mapping[str, str]
    converted: frozenset[str]
    unused: frozenset[str]
    stacked: Mapping[str, tuple[tuple[str, ...], ...]]

    @cached_property
    def stored_as(self) -> dict[str, str]:
        """For each parameter that one tensor holds as it is, under whatever name: that tensor."""
        return {place: name for name, place in self.by_tensor.items() if name not in self.converted}

    def tensors_of(self, parameter: str) -> tuple[tuple[str, ...], ...]:
        """The tensors that make a stack of matrices, as ``stacked`` has them, or the one that holds it as it is.

        Nothing where it is made in another way.
        """
        own = self.stored_as.get(parameter)
        return self.stacked.get(parameter, ()) if own is None else ((own,),)


def place_tensors(model: PreTrainedModel, names: Iterable[str]) -> Places:
    """Find where transformers would put tensors of these names."""
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    state, prefix = model.state_dict(), model.base_model_prefix
    by_tensor: dict[str, str] = {}
    converted, unused = set(), set()
    stacks: dict[str, dict[str, list[str]]] = {}
    for name in sorted(names, key=dot_natural_key):  # the loader's order, on which some renamings depend
        place, converter = rename_source_key(name, renamings, converters, prefix, state)
        if place not in state and name in state:
            place, converter = rename_source_key(name, [], [], prefix, state)
        if place not in state:
            unused.add(name)
            continue
        by_tensor[name] = place
        if converter is not None:
            converted.add(name)
            stacks.setdefault(place, {}).setdefault(converter, []).append(name)
    return Places(by_tensor, frozenset(converted), frozenset(unused), _stacked(stacks, converters))


def _stacked(
    found: Mapping[str, Mapping[str, list[str]]], converters: Iterable[WeightConverter]
) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Of the converted parameters, those that are matrices laid upon one another, rows after rows.

    Args:
        found: for each parameter, the tensors by the pattern that took them, in the loader's order.
        converters: what takes them.
    """
    orders = {
        pattern: converter.source_patterns
        for converter in converters
        if [(type(step), getattr(step, "dim", None)) for step in converter.operations] in _STACKING
        for pattern in converter.source_patterns
    }
    return {
        place: tuple(tuple(parts[pattern]) for pattern in orders[next(iter(parts))] if pattern in parts)
        for place, parts in found.items()
        if parts.keys() <= orders.keys() and len({len(names) for names in parts.values()}) == 1
    }


@dataclass(frozen=True)
class LoadPlan:
    """What loading a checkpoint into a model comes to.

    Attributes:
        places: where each tensor goes.
        info: transformers' findings, from which it goes on when the tensors are loaded.
    """

    places: Places
    info: LoadStateDictInfo


def plan_loading(model: PreTrainedModel, checkpoint: Checkpoint, places: Places, *, path: str) -> LoadPlan:
    """Load a checkpoint without its data into an empty model, and see what comes of it.

    Blocks that have tensors elsewhere are not judged.

    Args:
        model: on the meta device, as ``empty_model`` makes it.
        checkpoint: the tensors.
        places: where each of them goes.
        path: of the list of blocks in the model.

    Raises:
        CheckpointError: tensors are missing, quantized, or have shapes that the config does not ask for.
    """
    state = model.state_dict()
    _require_floats(checkpoint, places, state)
    empty = {
        name: torch.empty(entry.shape, device="meta")
        for name, entry in checkpoint.tensors.items()
        if name in places.by_tensor
    }
    info = _convert(model, empty, device="meta")
    away = tuple(_block_prefix(place, path) for name, place in places.by_tensor.items() if name in checkpoint.elsewhere)
    _require_shapes(info, away)
    info.missing_keys = {name for name in info.missing_keys if not name.startswith(away)}
    settled = deepcopy(info)
    model.tie_weights(missing_keys=settled.missing_keys, recompute_mapping=False)
    model._adjust_missing_and_unexpected_keys(settled)
    if settled.missing_keys:
        raise CheckpointError(f"The weights lack {min(settled.missing_keys)}, which {type(model).__name__} needs.")
    return LoadPlan(places, info)


def put_tensors(model: PreTrainedModel, tensors: Mapping[str, Tensor], *, device: torch.device) -> None:
    """Put a few of the tensors that a model has a place for there, in the dtypes that the model has."""
    _convert(model, dict(tensors), device=str(device))


def parameters_of(block: nn.Module, *, besides: Set[int]) -> dict[str, Tensor]:
    """A block's parameters by path, but for those of the ids ``besides``."""
    return {path: parameter.detach() for path, parameter in block.named_parameters() if id(parameter) not in besides}


def set_parameters(block: nn.Module, parameters: Mapping[str, Tensor]) -> None:
    """Give a block the parameters that ``parameters_of`` gave."""
    for path, value in parameters.items():
        owner, _, name = path.rpartition(".")
        setattr(block.get_submodule(owner), name, nn.Parameter(value, requires_grad=False))


def finish_loading(model: PreTrainedModel, plan: LoadPlan, *, device: torch.device) -> None:
    """Do what ``from_pretrained`` does once the tensors are loaded: compute buffers, tie weights.

    Parameters that have their place in ``plan``, but are not loaded yet, stay as they are.
    """
    _finalize(model, deepcopy(plan.info), device)


def compute_buffers(model: PreTrainedModel, *, device: torch.device) -> None:
    """Give an empty model its buffers and ties as ``from_pretrained`` does; its weights stay on the meta device."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    missing = {name for name in model.state_dict() if name not in parameters or name in model.all_tied_weights_keys}
    _finalize(model, LoadStateDictInfo(missing, set(), set(), [], {}, set()), device)


def drop_parameters(block: nn.Module, *, besides: Set[int] = frozenset()) -> None:
    """Give up a block's weights, but for the parameters of the ids ``besides``: the shell on the meta device stays."""
    for module in block.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in besides:
                empty = torch.empty_like(parameter, device="meta")
                setattr(module, name, nn.Parameter(empty, requires_grad=False))


def _finalize(model: PreTrainedModel, info: LoadStateDictInfo, device: torch.device) -> None:
    with quiet():
        model._finalize_model_loading(model, LoadStateDictConfig(device_map={"": str(device)}), info)


def _convert(model: PreTrainedModel, tensors: dict[str, Tensor], *, device: str) -> LoadStateDictInfo:
    dtype: Any = model.config.dtype
    mapping: list[Any] = get_model_conversion_mapping(model)
    plan = model._get_dtype_plan(dtype)
    options = LoadStateDictConfig(device_map={"": device}, dtype=dtype, dtype_plan=plan, weight_mapping=mapping)
    with quiet():
        info, _ = convert_and_load_state_dict_in_model(model, tensors, options)
    return info  # type: ignore[no-any-return]


def _block_prefix(place: str, path: str) -> str:
    """``model.layers.3.`` of a parameter of block 3."""
    return f"{path}.{place.removeprefix(f'{path}.').split('.', 1)[0]}."


def _require_floats(checkpoint: Checkpoint, places: Places, state: Mapping[str, Tensor]) -> None:
    for name, entry in checkpoint.tensors.items():
        place = places.by_tensor.get(name)
        if place is not None and state[place].is_floating_point() and entry.dtype not in _FLOATS:
            raise CheckpointError(
                f"{name} is stored as {entry.dtype}, a quantized weight, but config.json has no quantization_config "
                "that says how; an unquantized model was expected."
            )


def _require_shapes(info: LoadStateDictInfo, away: tuple[str, ...]) -> None:
    """See that every tensor has the shape that the config asks for, those of blocks ``away`` not looked at."""
    for name, found, expected in sorted(info.mismatched_keys):
        if not name.startswith(away):
            raise CheckpointError(
                f"{name} has shape {tuple(found)} in the weights, but config.json asks for {tuple(expected)}."
            )
    for name in sorted(info.conversion_errors):  # experts, say, that are stored one by one and computed as one tensor
        if not name.startswith(away):
            raise CheckpointError(
                f"{name} cannot be put together from the weights: some that it is made of are missing, or have "
                "another shape than config.json asks for."
            )

"""What removing experts does to a config, to tensors, and to a model in memory.

Which tensors have an entry for each expert is seen, not known: the model of the smaller config is built without
weights, and every parameter or buffer that is shorter there is cut. A checkpoint may hold such a parameter as one
tensor, which is cut too, or as a tensor for each expert, which are left out and renamed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llmprune.errors import ModelError
from llmprune.models.anatomy import find_blocks
from llmprune.models.experts import expert_modules
from llmprune.models.resident import with_weights_of
from llmprune.models.surgery import emptied, text_fields, with_text_fields
from llmprune.quiet import first_sentence, quiet

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedConfig, PreTrainedModel

_COUNTS = re.compile(r"(moe_)?(num|n)_(local_|routed_)?experts")
_GROUPS = ("n_group", "num_expert_group")
_CHOSEN_GROUPS = "topk_group"
_TOP_K = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts", "moe_top_k")


@dataclass(frozen=True)
class ExpertLayout:
    """The experts of a model, as its config and its modules have them.

    Attributes:
        blocks: for each block with experts, the path of their module in it.
        count: experts of each block.
        per_token: how many of them a token is sent to.
        groups: groups of neighbours that are chosen first; 1 where there are none.
        chosen_groups: how many of them.
    """

    blocks: Mapping[int, str]
    count: int
    per_token: int
    groups: int = 1
    chosen_groups: int = 1


@dataclass(frozen=True)
class ExpertCut:
    """What becomes of the tensors of a checkpoint, or of a model's own.

    Attributes:
        entries: of those that are cut, the dimension with an entry for each expert, and the indices that stay.
        renames: of those that are one expert's own and stay, the new name.
        removed: those that are one expert's own and go.
    """

    entries: dict[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    renames: dict[str, str] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)


def expert_layout(model: PreTrainedModel, config: PreTrainedConfig) -> ExpertLayout:
    """Find the experts of a model.

    Args:
        model: with or without weights.
        config: its config.

    Raises:
        ModelError: it has none that can be found, blocks have different numbers, or the config does not say how many
            a token is sent to.
    """
    _, blocks = find_blocks(model, config)
    found = {index: expert_modules(block) for index, block in enumerate(blocks)}
    found = {index: modules for index, modules in found.items() if modules}
    kind = type(model).__name__
    if not found:
        raise ModelError(
            f"{kind} has no experts that llmprune can tell apart; remove-experts needs a mixture of experts, whose "
            "router sends each token to some of them."
        )
    if any(len(modules) > 1 for modules in found.values()):
        raise ModelError(f"A block of {kind} has two sets of experts; one was expected.")
    paths = {index: next(iter(modules)) for index, modules in found.items()}
    counts = {_count(modules[paths[index]]) for index, modules in found.items()}
    if len(counts) > 1:
        raise ModelError(
            f"The blocks of {kind} have different numbers of experts ({_listed(counts)}); one was expected."
        )
    text = config.get_text_config(decoder=True)
    groups = next((value for name in _GROUPS if (value := getattr(text, name, None))), 1)
    return ExpertLayout(
        paths, counts.pop(), _per_token(text, kind), groups, getattr(text, _CHOSEN_GROUPS, None) or groups
    )


def config_with_experts(raw: Mapping[str, Any], config: PreTrainedConfig, *, before: int, left: int) -> dict[str, Any]:
    """The config of the model that has ``left`` experts in each block in place of ``before``.

    Raises:
        ModelError: no field of it says how many there are.
    """
    text = config.get_text_config(decoder=True)
    own = [name for name in text.to_dict() if _COUNTS.fullmatch(name) and getattr(text, name, None) == before]
    names = [*own, *(alias for alias, name in text.attribute_map.items() if name in own)]
    stored = text_fields(raw, config)
    fields = dict.fromkeys([name for name in names if name in stored] or own, left)
    if not fields:
        raise ModelError(f"The config ({config.model_type}) has no field that says it has {before} experts.")
    return with_text_fields(raw, config, fields)


def cut_experts(
    model: PreTrainedModel,
    make: Callable[[], PreTrainedModel],
    tensors_of: Callable[[str], tuple[tuple[str, ...], ...]],
    kept: Mapping[int, Sequence[int]],
    *,
    before: int,
) -> ExpertCut:
    """What becomes of every tensor that has an entry for each expert, or is one expert's own.

    Args:
        model: with all experts, with or without weights.
        make: makes the empty model of the config with fewer.
        tensors_of: the tensors that hold a parameter or buffer, see ``Decoder.tensors_of``.
        kept: for each block with experts, the indices of those that stay, in order.
        before: experts of each of these blocks.

    Raises:
        ModelError: the smaller config makes no such model, or a tensor does not follow the number of experts.
    """
    path, _ = find_blocks(model, model.config)
    try:
        with quiet():
            smaller = {name: tuple(value.shape) for name, value in make().state_dict().items()}
    except Exception as error:  # a model class may refuse a config in any way
        raise ModelError(f"No model can be made with fewer experts: {first_sentence(error)}") from error
    cut = ExpertCut()
    for name, value in model.state_dict().items():
        shape, new = tuple(value.shape), smaller.get(name)
        if new == shape:
            continue
        block = int(name.removeprefix(f"{path}.").split(".", 1)[0]) if name.startswith(f"{path}.") else -1
        left = len(kept.get(block, ()))
        axis = _cut_axis(shape, new, before, left)
        if axis is None:
            raise ModelError(
                f"Experts cannot be removed from {type(model).__name__}: {name} has shape {shape}, and with {left} "
                f"experts it would be {new}."
            )
        _cut_tensors(cut, name, tensors_of(name), axis, kept[block])
    return cut


def kept_entries(tensor: Tensor, axis: int, kept: Sequence[int]) -> Tensor:
    """A copy of the entries ``kept`` of one dimension."""
    return tensor.index_select(axis, torch.tensor(kept, device=tensor.device))


def cut_model_experts(model: PreTrainedModel, kept: Mapping[int, Sequence[int]], *, before: int) -> PreTrainedModel:
    """The model with fewer experts, made anew from its config; it shares the memory of all that is not cut.

    Args:
        model: in memory; it is left as it is.
        kept: for each block with experts, the indices of those that stay, in order.
        before: experts of each of these blocks.

    Raises:
        ModelError: the smaller config makes no such model, or a parameter does not follow the number of experts.
    """
    left = len(next(iter(kept.values())))
    raw = config_with_experts(json.loads(model.config.to_json_string()), model.config, before=before, left=left)
    make = partial(emptied, model, raw)
    cut = cut_experts(model, make, lambda name: ((name,),), kept, before=before)
    return with_weights_of(model, make(), {name: name for name in model.state_dict()}, entries=cut.entries)


def _cut_axis(shape: tuple[int, ...], new: tuple[int, ...] | None, before: int, left: int) -> int | None:
    """The one dimension in which a tensor has an entry for each expert; None: it is not just cut there."""
    if new is None or len(new) != len(shape):
        return None
    changed = [axis for axis, (old, now) in enumerate(zip(shape, new, strict=True)) if old != now]
    return changed[0] if [(shape[axis], new[axis]) for axis in changed] == [(before, left)] else None


def _cut_tensors(cut: ExpertCut, name: str, parts: Sequence[Sequence[str]], axis: int, kept: Sequence[int]) -> None:
    if not parts:
        raise ModelError(f"{name} is made of the checkpoint's tensors in a way in which no expert can be told apart.")
    for tensors in parts:
        if len(tensors) == 1:
            cut.entries[tensors[0]] = (axis, tuple(kept))
            continue
        cut.renames.update({tensors[old]: tensors[new] for new, old in enumerate(kept)})
        cut.removed.update(tensor for expert, tensor in enumerate(tensors) if expert not in kept)


def _count(module: nn.Module) -> int:
    return len(module.get_parameter("down_proj"))


def _per_token(text: PreTrainedConfig, kind: str) -> int:
    """How many experts a token is sent to."""
    for name in _TOP_K:
        if isinstance(value := getattr(text, name, None), int):
            return value
    raise ModelError(f"The config of {kind} does not say how many experts a token is sent to.")


def _listed(counts: set[int]) -> str:
    return ", ".join(map(str, sorted(counts)))

"""Where the blocks of a decoder are, found by structure and never by the model's name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn
from transformers import PreTrainedModel

from llmprune.artifacts.checkpoints.block_numbers import MAX_BLOCKS
from llmprune.errors import CheckpointError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Of models that were made as one half of an encoder-decoder, whose num_hidden_layers counts the other half's blocks.
_DECODERS_OWN = ("decoder_layers", "num_decoder_layers")


@dataclass(frozen=True)
class BlockNames:
    """How a checkpoint's tensor names spell the blocks.

    Attributes:
        prefix: what stands before the block's index, e.g. ``model.layers.``.
        by_block: for each block in order, the names of its tensors.
        behind: the same for blocks behind the last one, which the model does not have.
        outside: names of all other tensors (embeddings, final norm, head).
    """

    prefix: str
    by_block: tuple[tuple[str, ...], ...]
    behind: tuple[tuple[str, ...], ...]
    outside: tuple[str, ...]

    def renumbered(self, name: str, index: int) -> str:
        """``name`` of a block's tensor as it reads when the block stands at ``index``."""
        _, rest = name[len(self.prefix) :].split(".", 1)
        return f"{self.prefix}{index}.{rest}"


def find_blocks(model: nn.Module, config: PreTrainedConfig) -> tuple[str, nn.ModuleList]:
    """Path and list of a decoder's transformer blocks.

    The blocks are the ``ModuleList`` in the model's decoder that is as long as the config promises; among several
    (a block may have as many experts) the one with the most parameters.

    Raises:
        ModelError: the config gives no block count, or no list is that long.
    """
    depth = block_count(config)
    lists = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if isinstance(model, PreTrainedModel):  # what lies in the decoder is not in a tower that may be as deep
        inside = {id(module) for module in model.get_decoder().modules()}
        lists = [found for found in lists if id(found[1]) in inside] or lists
        lists = [found for found in lists if _has_text_config(model, found[0])] or lists
    if not lists:
        raise ModelError(
            f"{type(model).__name__} has no list of {depth} blocks, which its config's "
            f"{depth_name(config)} promises; llmprune needs a decoder made of a list of blocks."
        )
    return max(lists, key=lambda found: sum(p.numel() for p in found[1].parameters()))


def _has_text_config(model: PreTrainedModel, path: str) -> bool:
    """Whether the model around the module at ``path`` is made of the text part's config, as no tower in it is."""
    names = path.split(".")
    around = [model.get_submodule(".".join(names[:end])) for end in range(len(names))]
    nearest = [module for module in around if isinstance(module, PreTrainedModel)][-1]
    return nearest is model or type(nearest.config) is type(model.config.get_text_config(decoder=True))


def depth_name(config: PreTrainedConfig) -> str:
    """What a config calls its number of decoder blocks (GPT-2 says ``n_layer``, BART ``decoder_layers``)."""
    text = config.get_text_config(decoder=True)
    names = [name for name in _DECODERS_OWN if hasattr(text, name)]
    if isinstance(getattr(type(text), "num_hidden_layers", None), property) and hasattr(text, "num_layers"):
        names.append("num_layers")  # of which the other is derived: LongCat counts every block twice
    own = next(iter(names), "num_hidden_layers")
    return str(text.attribute_map.get(own, own))


def block_count(config: PreTrainedConfig) -> int:
    """How many blocks the text part of a config promises.

    Raises:
        ModelError: it does not say, or not with a positive integer.
    """
    name = depth_name(config)
    depth = getattr(config.get_text_config(decoder=True), name, None)
    if not isinstance(depth, int) or not 1 <= depth <= MAX_BLOCKS:
        raise ModelError(
            f"The config ({config.model_type}) has {name} = {depth!r:.40}; a positive integer was expected, of at most "
            f"{MAX_BLOCKS}."
        )
    return depth


def require_tensors_for_blocks(config: PreTrainedConfig, names: Collection[str]) -> None:
    """See, before a model is made of a config, that a checkpoint has a tensor for every block that it promises.

    Raises:
        ModelError: the config gives no block count.
        CheckpointError: there are fewer tensors.
    """
    if (depth := block_count(config)) > len(names):
        raise CheckpointError(
            f"The config promises {depth} blocks, but the weights hold {len(names)} tensors in all; config.json and "
            "the weights do not belong together."
        )


def name_blocks(names: Iterable[str], places: Mapping[str, str], *, path: str, num_blocks: int) -> BlockNames:
    """Sort a checkpoint's tensor names by block.

    A block's tensors are those that transformers puts into it, and those that are called like them but are not
    used (masks that old versions stored). Blocks behind the last one (for predicting further tokens) have no
    place in the model.

    Args:
        names: tensor names as the checkpoint has them.
        places: for each name that is used, the parameter that it becomes.
        path: the block list's module path in the model, e.g. ``model.layers``.
        num_blocks: how many blocks the model has.

    Raises:
        CheckpointError: a block has no tensors.
        ModelError: the names of the blocks' tensors have no common beginning before the number of the block.
    """
    names = tuple(names)
    inside: list[list[str]] = [[] for _ in range(num_blocks)]
    for name in names:
        if name in places and places[name].startswith(f"{path}."):
            inside[int(places[name][len(path) + 1 :].split(".", 1)[0])].append(name)
    _require_all(inside, names, path)
    prefix = _common_prefix(inside)
    spelled = re.compile(rf"{re.escape(prefix)}(\d+)\.")
    groups: dict[int, list[str]] = {}
    for name in names:
        if match := spelled.match(name):
            groups.setdefault(int(match[1]), []).append(name)
    numbered = {name for group in groups.values() for name in group}
    return BlockNames(
        prefix=prefix,
        by_block=tuple(tuple(groups[index]) for index in range(num_blocks)),
        behind=tuple(tuple(groups[index]) for index in sorted(groups) if index >= num_blocks),
        outside=tuple(name for name in names if name not in numbered),
    )


def _require_all(inside: Sequence[Sequence[str]], names: Sequence[str], path: str) -> None:
    lacking = [index for index, tensors in enumerate(inside) if not tensors]
    if lacking:
        held = len(inside) - len(lacking)
        raise CheckpointError(
            f"The config promises {len(inside)} blocks, but the weights hold {held or 'none'} of them under "
            f"'{path}.' ({', '.join(map(str, lacking[:5]))} missing); config.json and the weights do not belong "
            "together."
        )


def _common_prefix(inside: Sequence[Sequence[str]]) -> str:
    """What stands before the block's number in the names of all blocks' tensors."""
    candidates = [
        {name[: match.start()] for match in re.finditer(rf"(?<![^.]){index}(?=\.)", name)}
        for index, tensors in enumerate(inside)
        for name in tensors
    ]
    common = set.intersection(*candidates)
    if not common:
        raise ModelError(
            f"The tensors of the blocks are not called alike up to the block's number ({inside[0][0]}, "
            f"{inside[-1][-1]}), so they cannot be renumbered."
        )
    return min(common, key=len)

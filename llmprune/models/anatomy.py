"""Where the blocks of a decoder are, found by structure and never by the model's name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from llmprune.errors import CheckpointError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class BlockNames:
    """How a checkpoint's tensor names spell the blocks.

    Attributes:
        prefix: what stands before the block's index, e.g. ``model.layers.``.
        by_block: for each block in order, the names of its tensors.
        outside: names of all other tensors (embeddings, final norm, head).
    """

    prefix: str
    by_block: tuple[tuple[str, ...], ...]
    outside: tuple[str, ...]

    def renumbered(self, name: str, index: int) -> str:
        """``name`` of a block's tensor as it reads when the block stands at ``index``."""
        _, rest = name[len(self.prefix) :].split(".", 1)
        return f"{self.prefix}{index}.{rest}"


def find_blocks(model: nn.Module, config: PreTrainedConfig) -> tuple[str, nn.ModuleList]:
    """Path and list of a decoder's transformer blocks.

    The blocks are the ``ModuleList`` as long as the text config's
    ``num_hidden_layers``; among several (a vision tower may be as deep, a block may
    have as many experts) the one with the most parameters.

    Raises:
        ModelError: the config gives no layer count, or no list is that long.
    """
    depth = block_count(config)
    lists = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if not lists:
        raise ModelError(
            f"{type(model).__name__} has no list of {depth} blocks, which its config's "
            "num_hidden_layers promises; llmprune needs a decoder made of a list of blocks."
        )
    return max(lists, key=lambda found: sum(p.numel() for p in found[1].parameters()))


def block_count(config: PreTrainedConfig) -> int:
    """``num_hidden_layers`` of the text part of a config.

    Raises:
        ModelError: there is none, or it is not a positive integer.
    """
    depth = getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)
    if not isinstance(depth, int) or depth < 1:
        raise ModelError(
            f"The config ({config.model_type}) has num_hidden_layers = {depth!r}; a positive integer was expected."
        )
    return depth


def name_blocks(names: Iterable[str], *, path: str, num_blocks: int) -> BlockNames:
    """Sort a checkpoint's tensor names by block.

    A checkpoint may spell the module path ``transformer.h`` shorter (``h.0...``, as
    on the Hub for GPT-2 and BLOOM) or longer than the model does, so what is
    matched is the last part of the path followed by an index.

    Args:
        names: tensor names as the checkpoint has them.
        path: the block list's module path in the model, e.g. ``model.layers``.
        num_blocks: how many blocks the config promises.

    Raises:
        CheckpointError: the indices found are not exactly 0 .. num_blocks - 1.
    """
    names = tuple(names)
    pattern = re.compile(rf"^((?:.+?\.)??{re.escape(path.rsplit('.', 1)[-1])}\.)(\d+)\.")
    groups: dict[str, dict[int, list[str]]] = {}
    for name in names:
        if match := pattern.match(name):
            groups.setdefault(match[1], {}).setdefault(int(match[2]), []).append(name)
    prefix = _likeliest_prefix(groups, path)
    blocks = groups.get(prefix, {})
    if sorted(blocks) != list(range(num_blocks)):
        raise CheckpointError(
            f"The config promises {num_blocks} blocks, but the weights hold {_spell(blocks)} under "
            f"'{prefix}'; config.json and the weights do not belong together."
        )
    inside = {name for tensors in blocks.values() for name in tensors}
    return BlockNames(
        prefix=prefix,
        by_block=tuple(tuple(blocks[index]) for index in range(num_blocks)),
        outside=tuple(name for name in names if name not in inside),
    )


def _likeliest_prefix(groups: Mapping[str, Mapping[int, object]], path: str) -> str:
    """Of several lists of blocks in a checkpoint, the one whose name agrees longest with ``path``."""

    def agreement(prefix: str) -> int:
        ours, theirs = f"{path}."[::-1], prefix[::-1]
        return next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), len(theirs))

    return max(groups, key=lambda prefix: (agreement(prefix), len(groups[prefix])), default=f"{path}.")


def _spell(blocks: Mapping[int, object]) -> str:
    if not blocks:
        return "none"
    missing = sorted(set(range(max(blocks) + 1)) - set(blocks))
    gaps = f", with {', '.join(map(str, missing[:5]))} missing" if missing else ""
    return f"{len(blocks)} (0 to {max(blocks)}{gaps})"

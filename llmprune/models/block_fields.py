"""Which fields of a config speak of single blocks, and what they say of the blocks that are left."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig

from llmprune.models.anatomy import block_count

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Names of lists of block indices. Lists with a 0 or 1 for each block may be called alike.
_INDICES = re.compile(r".*(_layers|layer_id(x)?s|layer_indices|attn_idxs)")
_FLAGS = ("no_rope_layers",)
# Indices in a text ("4,5,6"), and a letter for each block ("M*M-").
_SPELLED_INDICES = re.compile(r"\d+(,\d+)*")
_LETTERS = re.compile(r".*_pattern")
# What a list with one entry for each block may be called where the config class does not tell.
_OF_BLOCKS = re.compile(r".*(layer|block).*")
_GENERATION = frozenset(GenerationConfig().to_dict())


class BlockFields:
    """The fields of single blocks in a text config.

    Args:
        text: the config, loaded.
        behind: blocks behind the last one that the weights hold, for which lists may have entries, too.
    """

    def __init__(self, text: PreTrainedConfig, *, behind: int = 0) -> None:
        self._depth = block_count(text)
        self._behind = behind
        self._usual = _list_lengths(type(text))

    def cut(self, name: str, value: object, kept: Sequence[int]) -> Any:
        """The value of a field when only the blocks ``kept`` are left; None where it does not speak of blocks."""
        match value:
            case list() | tuple() if name not in _GENERATION:
                return self._cut_list(name, list(value), kept)
            case str() if "layer" in name and _SPELLED_INDICES.fullmatch(value):
                return ",".join(map(str, self._cut_indices([int(index) for index in value.split(",")], kept)))
            case str() if _LETTERS.fullmatch(name) and len(value) == self._depth:
                return "".join(value[block] for block in kept)
            case Mapping() if name == "per_layer_config":
                single = {int(block): fields for block, fields in value.items()}  # JSON makes the indices strings
                return {str(new): single[old] for new, old in enumerate(kept) if old in single}
        return None

    def _cut_list(self, name: str, value: list[Any], kept: Sequence[int]) -> list[Any] | None:
        if _names_blocks(name, value) and (len(value) != self._depth or value == list(range(self._depth))):
            return self._cut_indices(value, kept)
        if len(value) not in (self._depth, self._depth + self._behind) or not self._is_per_block(name):
            return None
        return [value[block] for block in kept] + value[self._depth :]

    def _cut_indices(self, value: Sequence[int], kept: Sequence[int]) -> list[int]:
        left = [new for new, old in enumerate(kept) if old in value]
        removed = self._depth - len(kept)
        return left + [index - removed for index in value if self._depth <= index < self._depth + self._behind]

    def _is_per_block(self, name: str) -> bool:
        """Whether a list of the right length follows the number of blocks in the class's default config, too."""
        if self._usual is None:
            return True
        depth, lengths = self._usual
        return lengths[name] == depth if name in lengths else bool(_OF_BLOCKS.fullmatch(name))


def _names_blocks(name: str, value: list[Any]) -> bool:
    """Whether a list holds indices of blocks. One that names all blocks is as long as the model is deep."""
    return bool(_INDICES.fullmatch(name)) and name not in _FLAGS and all(type(item) is int for item in value)


def _list_lengths(kind: type[PreTrainedConfig]) -> tuple[int, dict[str, int]] | None:
    """Depth and lengths of the lists of the config that a class makes by itself; None where it makes none."""
    try:
        default = kind()
        depth = block_count(default)
    except Exception:  # remote code may want arguments, or have no depth without them
        return None
    fields = default.to_dict()
    return depth, {name: len(fields[name]) for name in fields if isinstance(fields[name], list | tuple)}

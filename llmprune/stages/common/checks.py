"""Checks of settings that several stages share. What no model could satisfy is refused before one is opened."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llmprune.algorithms.blocks.target import removal_count
from llmprune.errors import ModelError, TargetError

if TYPE_CHECKING:
    from torch import Tensor

_ANY_DEPTH = 2**63  # deeper than any model: what is refused for it is refused for all


_MOST = 10**9  # of anything that is counted: more would fill any memory, or never end
_NUMBER = re.compile(r"\s*-?[0-9]{1,9}\s*", re.ASCII)


def require_at_least(least: int, **arguments: int | None) -> None:
    """Check that no argument is smaller than ``least``, or larger than anything that can be counted out.

    Args:
        least: the smallest allowed value.
        arguments: the values, by the arguments' names. None stands for a default.

    Raises:
        TargetError: one is.
    """
    for name, value in arguments.items():
        if value is not None and value < least:
            raise TargetError(f"`{name}={value!s:.40}` is out of range; type {least} or more.")
        if value is not None and value > _MOST:
            raise TargetError(f"`{name}={value!s:.40}` is out of range; type {_MOST} or less.")


def read_numbers(text: str) -> tuple[int, ...]:
    """Read whole numbers between commas, of nine digits at most: ``3,7,12``.

    Raises:
        ValueError: something else.
    """
    parts = text.split(",")
    if not all(map(_NUMBER.fullmatch, parts)):
        raise ValueError("no whole numbers between commas")
    return tuple(map(int, parts))


def require_target(target: str) -> None:
    """Check that some model could satisfy a removal target.

    Raises:
        TargetError: it is no number, or removes nothing or everything of any model.
    """
    removal_count(target, num_blocks=_ANY_DEPTH, protect_first=0, protect_last=0)


def require_positions(positions: int, **arguments: int) -> None:
    """Check that no sequence is longer than the model was made for.

    Args:
        positions: of the model.
        arguments: lengths, by the arguments' names.

    Raises:
        TargetError: one is longer.
    """
    for name, value in arguments.items():
        if value > positions:
            raise TargetError(
                f"`{name}={value}` is beyond the model's {positions} positions; type `{name}={positions}` or less."
            )


def require_vocabulary(vocabulary: int, tokens: Tensor) -> None:
    """Check that the model has an embedding for every token, before a pass meets one that has none.

    A tokenizer may well know more tokens than the model, as long as the text has none of those.

    Args:
        vocabulary: how many tokens the model has embeddings for.
        tokens: ids, of any shape.

    Raises:
        ModelError: one is beyond it.
    """
    least, most = int(tokens.min()), int(tokens.max())
    if least < 0 or most >= vocabulary:
        raise ModelError(
            f"The text has token {most if most >= vocabulary else least}, and the model has embeddings for "
            f"{vocabulary:,} tokens, 0 to {vocabulary - 1}; take the tokenizer that belongs to this model."
        )

"""Holes filled with full linear maps of the hidden states (arXiv 2605.15491), which no stock model has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llmprune.algorithms import Correction, MomentsAccumulator, correct, remaining_error
from llmprune.models.anatomy import find_blocks
from llmprune.models.block_output import Returned
from llmprune.models.capture import BlockRunner
from llmprune.stages.healing.settings import RIDGES, held_back


@torch.inference_mode()
def fitted_maps(dense: PreTrainedModel, kept: list[int], tokens: Tensor) -> dict[int, Correction]:
    """For each block before a hole, by its place: the map of what leaves it to what entered the block behind the hole.

    Solved in order, each on what the maps before it give; the ridge is chosen on the windows that healing holds back.
    """
    _, blocks = find_blocks(dense, dense.config)
    runner = BlockRunner(dense, blocks)
    runner.learn_returned(tokens[:1, :2])
    calls = runner.calls(tokens[:1])
    full = [runner.embed(window[None]) for window in tokens]
    left = list(full)
    entering, maps = 0, {}
    for place, block in enumerate(kept):
        goal = kept[place + 1] if place + 1 < len(kept) else len(blocks)
        left = [runner.forward_block(block, states, calls[block]) for states in left]
        for passed in range(entering, goal):
            full = [runner.forward_block(passed, states, calls[passed]) for states in full]
        entering = goal
        if goal > block + 1:
            maps[place] = _fitted(left, full)
            left = [_mapped(states, maps[place]) for states in left]
    return maps


def _fitted(left: list[Tensor], full: list[Tensor]) -> Correction:
    cut = len(left) - held_back(len(left))
    solved_on, held = (MomentsAccumulator(bias=True) for _ in range(2))
    for place, (states, goal) in enumerate(zip(left, full, strict=True)):
        states, goal = states[0].float(), goal[0].float()
        lengths = goal.norm(dim=-1)
        (solved_on if place < cut else held).update(states, goal - states, weights=1 / lengths)
    found = [correct(solved_on.result(), ridge=ridge * scale) for ridge in RIDGES for scale in (1e-3, 1)]
    return min(found, key=lambda one: remaining_error(held.result(), one))


def _mapped(states: Tensor, correction: Correction) -> Tensor:
    assert correction.bias is not None
    return states + (states.float() @ correction.weight.T + correction.bias).to(states.dtype)


@contextmanager
def holes_filled(model: PreTrainedModel, maps: dict[int, Correction]) -> Iterator[None]:
    """Let the model's blocks give what the maps make of their output."""
    _, blocks = find_blocks(model, model.config)

    def mapped(forward: Callable[..., Any], correction: Correction) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            returned = Returned(forward(*args, **options))
            return returned.around(_mapped(returned.hidden, correction))

        return call

    # A hook would stand outside of the block: a model that changes states between its blocks cannot be benchmarked.
    for place, correction in maps.items():
        blocks[place].forward = mapped(blocks[place].forward, correction)
    try:
        yield
    finally:
        for place in maps:
            del blocks[place].forward

"""What a model's parameters and time are made of, so that a removal's can be told before it is made."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from llmprune.artifacts.records.budget import StepTimes
from llmprune.errors import TargetError
from llmprune.models.checkpoint_decoder import CheckpointDecoder
from llmprune.models.decoder import Decoder
from llmprune.models.timing import time_in_turn
from llmprune.stages.budget_pruning.settings import BudgetSettings


@dataclass(frozen=True)
class Footprint:
    """A dense model in the figures that a budget is about.

    Attributes:
        stored: parameters in all, tied ones once.
        blocks: of these, each block's.
        times: of a decoding step; None: not measured.
    """

    stored: int
    blocks: tuple[int, ...]
    times: StepTimes | None = None

    def parameters(self, removed: Collection[int]) -> int:
        """Parameters without some blocks."""
        return self.stored - sum(self.blocks[block] for block in removed)

    def speed_up(self, removed: Collection[int]) -> float:
        """How many times as fast a decoding step is without some blocks, as the times of the parts say."""
        assert self.times is not None, "the budget is one of speed"
        whole = self.times.rest + sum(self.times.blocks)
        return whole / (whole - sum(self.times.blocks[block] for block in removed))

    def keeps(self, settings: BudgetSettings, removed: Collection[int]) -> bool:
        """Whether the model without some blocks is within the budget."""
        if settings.speed_up is not None:
            return self.speed_up(removed) >= settings.speed_up
        assert settings.limit is not None, "it has a budget"
        return self.parameters(removed) <= settings.limit.of(self.stored)

    def fewest(self, settings: BudgetSettings, candidates: Sequence[int]) -> int:
        """How many of the candidates must go at least, if the largest may go first.

        Raises:
            TargetError: the model is within the budget as it is, or not even without all candidates but one.
        """
        if self.keeps(settings, ()):
            raise TargetError(
                f"The model has {self.stored:,} parameters and is {settings.spelled} as it is; ask for less."
            )
        weights = self.blocks if self.times is None else self.times.blocks
        ordered = sorted(candidates, key=lambda block: -weights[block])[:-1]
        for count in range(1, len(ordered) + 1):
            if self.keeps(settings, ordered[:count]):
                return count
        left = (
            f"{self.parameters(ordered):,} of its {self.stored:,} parameters"
            if self.times is None
            else f"a model {self.speed_up(ordered):.2f} times as fast"
        )
        raise TargetError(
            f"Removing {len(ordered)} of {len(self.blocks)} blocks, the most that can go, leaves {left}, and the "
            f"budget is {settings.spelled}; ask for less. Embeddings and head stay in any case."
        )


def measure_parameters(shell: CheckpointDecoder) -> Footprint:
    """Count a model's parameters, from its files' headers alone."""
    tensors = shell.checkpoint.tensors
    blocks = tuple(sum(tensors[name].numel for name in names) for names in shell.names.by_block)
    return Footprint(shell.checkpoint.num_parameters, blocks)


def time_step(decoder: Decoder, *, batch: int) -> StepTimes:
    """Time each part of a model on one token of ``batch`` sequences, as a step of generating runs it."""
    tokens = torch.zeros((batch, 1), dtype=torch.int64, device=decoder.device)
    runner = decoder.runner
    calls = runner.calls(tokens)
    hidden = runner.embed(tokens)

    def seconds(index: int) -> float:
        with decoder.block(index):
            (found,) = time_in_turn([lambda: runner.forward_block(index, hidden, calls[index])], decoder.device)
        return median(found)

    with torch.inference_mode():
        (rest,) = time_in_turn([lambda: runner.logits(runner.embed(tokens))], decoder.device)
        blocks = tuple(seconds(index) for index in range(len(decoder.blocks)))
    return StepTimes(blocks=blocks, rest=median(rest), batch=batch)

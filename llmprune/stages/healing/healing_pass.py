"""The pass behind healing: the pruned and the dense model walk side by side, a block at a time.

Before a block is healed the dense hidden states go on to where the next block of the pruned model would take them up,
across the hole if there is one. Then the block is solved, written, run and given up. Leading blocks that are the dense
model's own run once for both. A pass that was stopped goes on at the next block and ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmprune.artifacts.files.disk_space import explain_full_disk, require_free_space
from llmprune.artifacts.records.healing import BlockHealing
from llmprune.ranks.group import Placed
from llmprune.stages.common.progress import Progress
from llmprune.stages.healing.share import HealingShare
from llmprune.stages.healing.state import HealingPassState
from llmprune.stages.passes import PassFolder


@dataclass(frozen=True)
class HealingPass:
    """One pass, in a folder of its own, as rank 0 leads it.

    Attributes:
        shares: of the ranks, which do the work.
        places: of the blocks that are healed, in the pruned model.
        folder: where the pass keeps its files.
        begin: what the pass runs on.
        disk: bytes that it takes in its folder at one time.
        progress: who listens.
    """

    shares: Placed[HealingShare]
    places: tuple[int, ...]
    folder: PassFolder[HealingPassState]
    begin: HealingPassState
    disk: int
    progress: Progress

    def heal_blocks(self, on_block: Callable[[BlockHealing], None]) -> HealingPassState:
        """Go through all blocks up to the last one to heal.

        Args:
            on_block: called for every block that is healed, not for those that an earlier pass finished.

        Raises:
            NumericalError: activations or Gram matrices that cannot be solved with.
            LlmpruneError: the disk is full.
        """
        state = self.folder.opened(self.begin, self._embedded, say=self.progress.say)
        total = self.places[-1] + 1
        if state.entering:
            self.progress.say(f"Going on at block {state.entering} of {total}.")
        with self.progress.task("Healing", total) as advance, explain_full_disk(self.folder.path):
            advance(state.entering)
            for place in range(state.entering, total):
                state = self.folder.save(self._passed(place, state))
                advance(1)
                if place in self.places:
                    on_block(state.blocks[-1])
        return state

    def _passed(self, place: int, state: HealingPassState) -> HealingPassState:
        """Have all ranks pass a block."""
        asked = (place, state, place in self.places, place == self.places[-1])
        passed: list[HealingPassState] = self.shares.call("pass_block", *asked)
        return passed[0].model_copy(
            update={
                "states": {name: file for one in passed for name, file in one.states.items()},
                "remarks": tuple(dict.fromkeys(remark for one in passed for remark in one.remarks)),
            }
        )

    def _embedded(self, begin: HealingPassState) -> HealingPassState:
        """The first files of a new pass."""
        require_free_space(self.folder.path, self.disk)
        written = self.shares.call("embedded")
        return begin.model_copy(update={"states": {name: file for one in written for name, file in one.items()}})

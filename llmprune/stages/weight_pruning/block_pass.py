"""The pass behind ``global-prune``: each block is loaded, pruned, written, run, and dropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmprune.artifacts.files.disk_space import explain_full_disk, require_free_space
from llmprune.artifacts.records.provenance import FileRecord
from llmprune.artifacts.records.weight_sparsity import BlockRecord
from llmprune.ranks.group import Placed
from llmprune.stages.common.progress import Progress
from llmprune.stages.passes import PassFolder
from llmprune.stages.weight_pruning.share import PassedBlock, PassShare
from llmprune.stages.weight_pruning.state import PruningPassState


@dataclass(frozen=True)
class PruningPass:
    """One pass over a model's blocks, in a folder of its own, as rank 0 leads it.

    Attributes:
        shares: of the ranks, which do the work.
        blocks: that are pruned, by index, in order.
        folder: where the pass keeps its files.
        begin: what the pass runs on. A stopped pass on something else is not continued.
        disk: bytes that the pass takes in its folder at one time.
        progress: who listens.
    """

    shares: Placed[PassShare]
    blocks: tuple[int, ...]
    folder: PassFolder[PruningPassState]
    begin: PruningPassState
    disk: int
    progress: Progress

    def prune_blocks(self, on_block: Callable[[BlockRecord], None]) -> PruningPassState:
        """Go through all blocks up to the last one to prune.

        Args:
            on_block: called for every block that is pruned, not for those that an earlier pass finished.

        Raises:
            NumericalError: activations or Gram matrices that cannot be solved with.
            LlmpruneError: the disk is full.
        """
        begun: list[PruningPassState] = []

        def begin(state: PruningPassState) -> PruningPassState:
            begun.append(self._begun(state))
            return begun[-1]

        state = self.folder.opened(self.begin, begin, say=self.progress.say)
        total = max(self.blocks) + 1
        if state.entering and not begun:
            self.progress.say(f"Going on at block {state.entering} of {total}.")
        with self.progress.task("Pruning", total) as advance, explain_full_disk(self.folder.path):
            advance(state.entering)
            for block in range(state.entering, total):
                state = self.folder.save(self._passed(block, state))
                advance(1)
                if state.blocks and state.blocks[-1].block == block:
                    on_block(state.blocks[-1])
        return state

    def _passed(self, block: int, state: PruningPassState) -> PruningPassState:
        """Have all ranks pass a block."""
        passed: list[PassedBlock] = self.shares.call("pass_block", block, tuple(state.states))
        first = passed[0]
        remarks = (remark for one in passed for remark in one.remarks)
        return state.model_copy(
            update={
                "entering": block + 1,
                "states": {name: file for one in passed for name, file in one.states.items()},
                "blocks": state.blocks if first.record is None else (*state.blocks, first.record),
                "remarks": tuple(dict.fromkeys((*state.remarks, *remarks))),
                "weights": {**state.weights, **first.weights},
            }
        )

    def _begun(self, begin: PruningPassState) -> PruningPassState:
        """The first files of a new pass."""
        require_free_space(self.folder.path, self.disk)
        written: list[tuple[int, dict[str, FileRecord]]] = self.shares.call("begun")
        (entering, _), *_ = written
        if entering:
            self.progress.say(
                f"Blocks before {entering} are not run: the calibration keeps the hidden states behind them."
            )
        states = {name: file for _, files in written for name, file in files.items()}
        return begin.model_copy(update={"entering": entering, "states": states})

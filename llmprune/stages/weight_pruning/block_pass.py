"""The pass behind ``global-prune``: each block is loaded, pruned, written, run, and dropped.

Within a block nothing is saved: a block of SmolLM2 takes about 12 seconds (70% zeros, default settings, 32 x 1024
tokens, two cores).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from llmprune.algorithms.feed_forward.sparsellm import FfnSettings
from llmprune.artifacts.activations import CachedFile
from llmprune.artifacts.files.disk_space import explain_full_disk, require_free_space
from llmprune.artifacts.files.temporary import scratch_directory
from llmprune.artifacts.records.weight_sparsity import BlockRecord, SparsitySettings
from llmprune.choices import Reference
from llmprune.errors import NumericalError
from llmprune.models.block_linears import LinearSlot
from llmprune.models.decoder import Decoder
from llmprune.models.open_block import FEW_TOKENS, OpenBlock
from llmprune.stages.common.progress import Progress
from llmprune.stages.passes import PassFolder, PassState, Stream
from llmprune.stages.weight_pruning.block import BlockPruning, PrunedBlock
from llmprune.stages.weight_pruning.records import (
    block_record,
    few_tokens,
    raised_dampings,
    unseen_inputs,
    widened_factors,
)
from llmprune.stages.weight_pruning.selection import Selection
from llmprune.stages.weight_pruning.steps import BlockSteps, choose_steps
from llmprune.stages.weight_pruning.streams import Streams


@dataclass(frozen=True)
class PassSettings:
    """How blocks are pruned.

    Attributes:
        ffn: of FFNs that are one problem, and of single layers within it.
        joint: whether FFNs are one problem at all (SparseLLM).
        selection: which matrices.
        blocks: which blocks, by index, in order.
    """

    ffn: FfnSettings
    joint: bool
    selection: Selection
    blocks: tuple[int, ...]


class PruningPassState(PassState):
    """What a pass runs on, and what it has finished."""

    settings: SparsitySettings
    blocks: tuple[BlockRecord, ...] = ()


class PruningPass:
    """One pass over a model's blocks, in a folder of its own.

    Args:
        decoder: the dense model.
        tokens: calibration windows (windows, seq_len) int64.
        settings: how blocks are pruned.
        folder: where the pass keeps its files.
        begin: what the pass runs on. A stopped pass on something else is not continued.
        batch: windows at a time.
        memory: bytes of a block's activations that stay in memory.
        disk: bytes that the pass takes in its folder at one time.
        progress: who listens.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokens: Tensor,
        settings: PassSettings,
        *,
        folder: PassFolder[PruningPassState],
        begin: PruningPassState,
        batch: int,
        memory: int,
        disk: int,
        progress: Progress,
    ) -> None:
        self._decoder = decoder
        self._settings = settings
        self._folder = folder
        self._begin = begin
        self._memory, self._disk = memory, disk
        self._progress = progress
        sides = [Stream(name, decoder, tokens, folder.path, batch) for name in ("pruned", "dense")]
        beside = sides[1] if settings.ffn.reference is Reference.DENSE else None
        self._streams = Streams(sides[0], beside, first=min(settings.blocks))

    def prune_blocks(self, on_block: Callable[[BlockRecord], None]) -> PruningPassState:
        """Go through all blocks up to the last one to prune.

        Args:
            on_block: called for every block that is pruned, not for those that an earlier pass finished.

        Raises:
            NumericalError: activations or Gram matrices that cannot be solved with.
            LlmpruneError: the disk is full.
        """
        state = self._folder.opened(self._begin, self._embedded, say=self._progress.say)
        total = max(self._settings.blocks) + 1
        if state.entering:
            self._progress.say(f"Going on at block {state.entering} of {total}.")
        with self._progress.task("Pruning", total) as advance, explain_full_disk(self._folder.path):
            advance(state.entering)
            for block in range(state.entering, total):
                state = self._pass_block(block, state)
                self._folder.save(state)
                advance(1)
                if state.blocks and state.blocks[-1].block == block:
                    on_block(state.blocks[-1])
        return state

    def _pass_block(self, block: int, state: PruningPassState) -> PruningPassState:
        began = time.perf_counter()
        with self._decoder.block(block), self._matrix_named(opened := OpenBlock(self._decoder, block)):
            if block not in self._settings.blocks:
                return self._passed_by(state, opened)
            steps = self._chosen_steps(opened)
            with scratch_directory(self._folder.path) as scratch:
                work = BlockPruning(
                    opened, steps, self._streams, self._settings.ffn, scratch=scratch, memory=self._memory
                )
                states = work.run_dense()
                pruned = work.prune()
                weights = self._write_weights(block, steps.slots, pruned)
                states, output_error = self._leaving(block, work, states)
            record = block_record(block, steps, pruned, output_error, time.perf_counter() - began)
        odd = (*widened_factors(pruned, steps), *raised_dampings(record, asked=self._settings.ffn.layer.damping))
        odd += (*few_tokens(record), *unseen_inputs(record))
        return state.model_copy(
            update={
                "entering": block + 1,
                "states": states,
                "blocks": (*state.blocks, record),
                "remarks": tuple(dict.fromkeys((*state.remarks, *steps.remarks, *odd))),
                "weights": {**state.weights, **weights},
            }
        )

    def _chosen_steps(self, opened: OpenBlock) -> BlockSteps:
        window = self._streams.first_window(opened.index)
        few = self._streams.first_window(opened.index, length=FEW_TOKENS)
        dense = self._settings.ffn.reference is Reference.DENSE
        return choose_steps(opened, window, few, self._settings.selection, joint=self._settings.joint, dense=dense)

    @contextmanager
    def _matrix_named(self, opened: OpenBlock) -> Iterator[None]:
        """Add to a numerical error which matrix gave NaN or infinity first, if one did.

        That is found by running the block's batches again, matrix by matrix: watching for it all the time would slow
        every pass down.
        """
        try:
            yield
        except NumericalError as error:
            dense = self._streams.dense is not None
            for batch in self._streams.entering(opened.index, dense=dense):
                for states in (batch.dense, batch.pruned):
                    if states is not None and (path := opened.first_not_finite(states, batch.call)) is not None:
                        raise NumericalError(f"{error} The first matrix that gives them is {path}.") from error
            raise

    def _write_weights(self, block: int, slots: Mapping[str, LinearSlot], pruned: PrunedBlock) -> dict[str, CachedFile]:
        """Write the block's finished shard, if the weights would go with the block."""
        if self._decoder.keeps_changes:
            return {}
        layers = pruned.layers.items()
        finished = {slots[path].tensor: slots[path].turned(layer.weight) for path, layer in layers}
        for experts in pruned.experts:
            finished |= experts.tensors
        return self._folder.write_weights(block, finished)

    def _passed_by(self, state: PruningPassState, opened: OpenBlock) -> PruningPassState:
        """Run the hidden states through a block that stays dense: once, as long as both models are one."""
        block = opened.index
        states: dict[str, CachedFile] = {}
        for side in self._streams.sides(block + 1):
            entering = side.entering(block)
            states |= side.write(block + 1, (opened.forward(batch.hidden, batch.call) for batch in entering))
        return state.model_copy(update={"entering": block + 1, "states": states})

    def _leaving(
        self, block: int, work: BlockPruning, states: dict[str, CachedFile]
    ) -> tuple[dict[str, CachedFile], float | None]:
        """Run the hidden states through the pruned block, unless it is the last one to prune.

        Args:
            block: its index.
            work: what pruned it.
            states: the file of the dense states leaving it, where the dense model runs beside.

        Returns:
            The files of the states leaving the block, and ||pruned - dense||^2 / ||dense||^2 of them.
        """
        if block == max(self._settings.blocks):
            return {}, None
        sums = torch.zeros(2, dtype=torch.float64, device=self._decoder.device)

        def compared() -> Iterator[Tensor]:
            for batch, output in work.leaving():
                if states:
                    dense = self._streams.dense_at(block + 1).states(block + 1, batch.place).float()
                    missed = output.float() - dense
                    sums.add_(torch.stack([each.square().sum(dtype=torch.float64) for each in (missed, dense)]))
                yield output

        written = self._streams.pruned.write(block + 1, compared())
        return {**written, **states}, float(sums[0] / sums[1]) if states else None

    def _embedded(self, begin: PruningPassState) -> PruningPassState:
        """The first files of a new pass."""
        require_free_space(self._folder.path, self._disk)
        return begin.model_copy(update={"states": self._streams.pruned.embedded()})

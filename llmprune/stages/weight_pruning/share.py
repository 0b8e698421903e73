"""One rank's part of the pass behind ``global-prune``: its windows go through block after block, which is pruned there.

All ranks prune every block together. Each runs its own windows, sums over tokens are added up over the ranks, and all
install the same weights. Within a block nothing is saved: a block of SmolLM2 takes about 12 seconds (70% zeros, default
settings, 32 x 1024 tokens, two cores).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llmprune.algorithms.feed_forward.sparsellm import FfnSettings
from llmprune.artifacts.files.disk_space import explain_full_disk
from llmprune.artifacts.files.temporary import scratch_directory
from llmprune.artifacts.records.provenance import FileRecord
from llmprune.artifacts.records.weight_sparsity import BlockRecord
from llmprune.choices import Reference
from llmprune.errors import NumericalError
from llmprune.models.block_linears import LinearSlot
from llmprune.models.decoder import Decoder
from llmprune.models.devices import exact_products
from llmprune.models.open_block import FEW_TOKENS, OpenBlock
from llmprune.ranks.group import Ranks
from llmprune.stages.passes import CachedStates, PassFolder, Stream
from llmprune.stages.weight_pruning.block import BlockPruning, PrunedBlock
from llmprune.stages.weight_pruning.records import (
    block_record,
    few_tokens,
    raised_dampings,
    unseen_inputs,
    widened_factors,
)
from llmprune.stages.weight_pruning.selection import Selection
from llmprune.stages.weight_pruning.state import PruningPassState
from llmprune.stages.weight_pruning.steps import BlockSteps, choose_steps
from llmprune.stages.weight_pruning.streams import Streams


@dataclass(frozen=True)
class PassSettings:
    """How blocks are pruned.

    Attributes:
        ffn: of FFNs that are one problem, and of single layers within it.
        ranks: that divide the windows.
        joint: whether FFNs are one problem at all (SparseLLM).
        selection: which matrices.
        blocks: which blocks, by index, in order.
    """

    ffn: FfnSettings
    ranks: Ranks
    joint: bool
    selection: Selection
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class PassedBlock:
    """What a rank made of a block.

    Attributes:
        states: files of hidden states leaving it, by their paths in the folder.
        remarks: what went another way than asked for.
        weights: the file of finished weights, likewise; rank 0 alone writes one.
        record: of a block that was pruned, on rank 0.
    """

    states: dict[str, FileRecord]
    remarks: tuple[str, ...] = ()
    weights: dict[str, FileRecord] = field(default_factory=dict)
    record: BlockRecord | None = None


class PassShare:
    """One rank's part.

    Args:
        decoder: the dense model.
        tokens: calibration windows (windows, seq_len) int64, those of all ranks.
        settings: how blocks are pruned.
        folder: where the pass keeps its files.
        batch: windows at a time.
        memory: bytes of a block's activations that stay in memory.
        cache: hidden states of the dense model that need not be computed; None: there are none.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokens: Tensor,
        settings: PassSettings,
        *,
        folder: PassFolder[PruningPassState],
        batch: int,
        memory: int,
        cache: CachedStates | None = None,
    ) -> None:
        self._decoder = decoder
        self._settings = settings
        self._ranks = settings.ranks
        self._folder = folder
        self._memory = memory
        decoder.expect(range(min(settings.blocks) + 1))  # no other block waits in memory while one is pruned
        sides = [
            Stream(name, decoder, tokens, folder.path, batch, cache, settings.ranks) for name in ("pruned", "dense")
        ]
        beside = sides[1] if settings.ffn.reference is Reference.DENSE else None
        self._streams = Streams(sides[0], beside, first=min(settings.blocks))

    def begun(self) -> tuple[int, dict[str, FileRecord]]:
        """Write the first states: those entering the last block that is cached before any is pruned, else the first.

        Returns:
            That block, and the file by its path in the folder.
        """
        stream, first = self._streams.pruned, self._streams.first
        cached = [block for block in range(1, first + 1) if stream.is_cached(block)]
        with explain_full_disk(self._folder.path):
            if cached:
                return cached[-1], stream.from_cache(cached[-1])
            return 0, stream.embedded()

    def pass_block(self, block: int, states: Collection[str]) -> PassedBlock:
        """Prune a block, or let it stay dense, and run the windows through it.

        Args:
            block: its index.
            states: files of hidden states entering it, of all ranks, by their paths in the folder.

        Raises:
            NumericalError: activations or Gram matrices that cannot be solved with.
            LlmpruneError: the disk is full.
        """
        self._streams.find(states)
        with exact_products(), explain_full_disk(self._folder.path), self._decoder.block(block):
            opened = OpenBlock(self._decoder, block)
            with self._matrix_named(opened):
                passed = self._pruned(opened) if block in self._settings.blocks else self._passed_by(opened)
        return passed

    def _pruned(self, opened: OpenBlock) -> PassedBlock:
        began, block = time.perf_counter(), opened.index
        steps = self._chosen_steps(opened)
        name = f"scratch-{self._ranks.rank}" if self._ranks.size > 1 else "scratch"
        with scratch_directory(self._folder.path, name) as scratch:
            work = BlockPruning(opened, steps, self._streams, self._settings.ffn, scratch=scratch, memory=self._memory)
            states = work.run_dense(last=block == max(self._settings.blocks))
            pruned = work.prune()
            weights = self._write_weights(block, steps.slots, pruned) if self._ranks.is_first else {}
            states, output_error = self._leaving(block, work, states)
        record = block_record(block, steps, pruned, output_error, time.perf_counter() - began)
        odd = (*widened_factors(pruned, steps), *raised_dampings(record, asked=self._settings.ffn.layer.damping))
        remarks = (*steps.remarks, *odd, *few_tokens(record), *unseen_inputs(record), *self._halved)
        return PassedBlock(states, remarks, weights, record if self._ranks.is_first else None)

    @property
    def _halved(self) -> tuple[str, ...]:
        """Batches for which memory did not suffice."""
        return tuple(self._decoder.runner.halving.remarks)

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

    def _write_weights(self, block: int, slots: Mapping[str, LinearSlot], pruned: PrunedBlock) -> dict[str, FileRecord]:
        """Write the block's finished shard, if the weights would go with the block."""
        if self._decoder.keeps_changes:
            return {}
        layers = pruned.layers.items()
        finished = {slots[path].tensor: slots[path].turned(layer.weight) for path, layer in layers}
        for experts in pruned.experts:
            finished |= experts.tensors
        return self._folder.write_weights(block, finished)

    def _passed_by(self, opened: OpenBlock) -> PassedBlock:
        """Run the hidden states through a block that stays dense: once, as long as both models are one.

        The dense model's are not computed where they are cached.
        """
        block = opened.index
        states: dict[str, FileRecord] = {}
        for side in self._streams.sides(block + 1):
            if side is self._streams.dense and side.is_cached(block + 1):
                states |= side.from_cache(block + 1)
                continue
            entering = side.entering(block)
            states |= side.write(block + 1, (opened.forward(batch.hidden, batch.call) for batch in entering))
        return PassedBlock(states, self._halved)

    def _leaving(
        self, block: int, work: BlockPruning, states: dict[str, FileRecord]
    ) -> tuple[dict[str, FileRecord], float | None]:
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
        if not states:
            return written, None
        missed, whole = self._ranks.sum(sums).tolist()
        return {**written, **states}, missed / whole

"""The pass behind ``global-prune``: each block is loaded, pruned, written, run, and dropped.

After each block everything that the next one needs is on disk: the finished weights, the hidden states that leave it,
and the state of the pass. A pass that was stopped goes on at the next block and ends with the same bytes, because a
block depends on nothing but its weights and these files. Within a block nothing is saved: a block of SmolLM2 takes
about 17 seconds (70% zeros, default settings, 32 x 1024 tokens, two cores).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from llmprune.algorithms.feed_forward.sparsellm import FfnSettings
from llmprune.algorithms.weights.pruned import PrunedWeight
from llmprune.artifacts.activations import CachedFile, cached_file, is_intact
from llmprune.artifacts.files.atomic import write_json_atomic
from llmprune.artifacts.files.disk_space import explain_full_disk, is_full_disk, require_free_space
from llmprune.artifacts.records.provenance import Record
from llmprune.artifacts.records.weight_sparsity import BlockRecord, SparsitySettings
from llmprune.choices import Reference
from llmprune.errors import NumericalError, UserError
from llmprune.models.block_linears import LinearSlot
from llmprune.models.decoder import Decoder
from llmprune.models.open_block import OpenBlock
from llmprune.stages.common.progress import Progress
from llmprune.stages.weight_pruning.block import BlockPruning, BlockSteps, PrunedBlock, choose_steps
from llmprune.stages.weight_pruning.records import block_record, raised_dampings
from llmprune.stages.weight_pruning.selection import Selection
from llmprune.stages.weight_pruning.streams import Streams

_STATE = "state.json"
_OWN = ("pruned", "dense", "scratch", "block-*.safetensors", _STATE, f".{_STATE}.*")


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


class PruningPassState(Record):
    """What a pass runs on, and what it has finished."""

    model: str
    settings: SparsitySettings
    entering: int = 0
    blocks: tuple[BlockRecord, ...] = ()
    remarks: tuple[str, ...] = ()
    weights: dict[str, CachedFile] = Field(default_factory=dict)
    states: dict[str, CachedFile] = Field(default_factory=dict)


def stopped_pass(folder: Path) -> PruningPassState | None:
    """What a pass in ``folder`` had finished when it was stopped; None where there is none."""
    try:
        return PruningPassState.model_validate_json((folder / _STATE).read_bytes())
    except (OSError, ValueError):
        return None


def is_left_by_a_pass(folder: Path) -> bool:
    """Whether a folder holds nothing but the files of a pass."""
    return folder.is_dir() and all(any(fnmatch(path.name, name) for name in _OWN) for path in folder.iterdir())


class PruningPass:
    """One pass over a model's blocks, in a folder of its own.

    Args:
        decoder: the dense model.
        tokens: calibration windows (windows, seq_len) int64.
        settings: how blocks are pruned.
        folder: where the pass keeps its files. It is created, and everything in it belongs to the pass.
        begin: what the pass runs on. A stopped pass on something else is not continued.
        batch: windows at a time.
        progress: who listens.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokens: Tensor,
        settings: PassSettings,
        *,
        folder: Path,
        begin: PruningPassState,
        batch: int,
        progress: Progress,
    ) -> None:
        dense = settings.ffn.reference is Reference.DENSE
        self._decoder = decoder
        self._settings = settings
        self._folder = folder
        self._begin = begin
        self._progress = progress
        self._streams = Streams(decoder, tokens, folder, batch, with_dense=dense)

    def prune_blocks(self, on_block: Callable[[BlockRecord], None]) -> PruningPassState:
        """Go through all blocks up to the last one to prune.

        Args:
            on_block: called for every block that is pruned, not for those that an earlier pass finished.

        Raises:
            NumericalError: activations or Gram matrices that cannot be solved with.
            LlmpruneError: the disk is full.
        """
        with explain_full_disk(self._folder):
            state = self._resumed() or self._begun()
        total = max(self._settings.blocks) + 1
        if state.entering:
            self._progress.say(f"Going on at block {state.entering} of {total}.")
        with self._progress.task("Pruning", total) as advance, explain_full_disk(self._folder):
            advance(state.entering)
            for block in range(state.entering, total):
                state = self._pass_block(block, state)
                self._save(state)
                advance(1)
                if state.blocks and state.blocks[-1].block == block:
                    on_block(state.blocks[-1])
        return state

    def _pass_block(self, block: int, state: PruningPassState) -> PruningPassState:
        began = time.perf_counter()
        with self._decoder.block(block), self._matrix_named(opened := OpenBlock(self._decoder, block)):
            if block not in self._settings.blocks:
                return self._advanced(state, opened, pruned=None)
            window = self._streams.first_window(block)
            steps = choose_steps(opened, window, self._settings.selection, joint=self._settings.joint)
            pruned = self._prune(opened, steps)
            weights = self._write_weights(block, steps.slots, pruned.layers)
            state = self._advanced(state, opened, pruned=pruned)
            record = block_record(block, steps, pruned, self._output_error(block), time.perf_counter() - began)
        raised = raised_dampings(record, asked=self._settings.ffn.layer.damping)
        return state.model_copy(
            update={
                "blocks": (*state.blocks, record),
                "remarks": tuple(dict.fromkeys((*state.remarks, *steps.remarks, *raised))),
                "weights": {**state.weights, **weights},
            }
        )

    @contextmanager
    def _matrix_named(self, opened: OpenBlock) -> Iterator[None]:
        """Add to a numerical error which matrix gave NaN or infinity first, if one did.

        That is found by running the block's batches again, matrix by matrix: watching for it all the time would slow
        every pass down.
        """
        try:
            yield
        except NumericalError as error:
            for batch in self._streams.entering(opened.index):
                for states in (batch.dense, batch.pruned):
                    if states is not None and (path := opened.first_not_finite(states, batch.call)) is not None:
                        raise NumericalError(f"{error} The first matrix that gives them is {path}.") from error
            raise

    def _prune(self, opened: OpenBlock, steps: BlockSteps) -> PrunedBlock:
        scratch = self._folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            return BlockPruning(opened, self._streams, self._settings.ffn, scratch=scratch).prune(steps)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _write_weights(
        self, block: int, slots: Mapping[str, LinearSlot], layers: Mapping[str, PrunedWeight]
    ) -> dict[str, CachedFile]:
        """Write the block's finished shard, if the weights would go with the block."""
        if self._decoder.keeps_changes:
            return {}
        name = f"block-{block:05d}.safetensors"
        stored = {slots[path].tensor: slots[path].turned(layer.weight).contiguous() for path, layer in layers.items()}
        if not stored:
            return {}
        save_file({tensor: weight.cpu() for tensor, weight in stored.items()}, self._folder / name, {"format": "pt"})
        return {name: cached_file(self._folder / name)}

    def _advanced(self, state: PruningPassState, opened: OpenBlock, *, pruned: PrunedBlock | None) -> PruningPassState:
        """Run the hidden states through the block, unless it is the last one to prune.

        The dense side was already written by ``BlockPruning``, which runs the dense block to see what its layers get.
        """
        block = opened.index
        if block == max(self._settings.blocks):
            return state.model_copy(update={"entering": block + 1, "states": {}})
        ran_dense = pruned is not None and self._streams.with_dense and pruned.layers
        states = {}
        for side in self._streams.sides:
            name = self._streams.file(side, block + 1)
            if side == "dense" and ran_dense:
                states[name] = cached_file(self._folder / name)
            else:
                states[name] = self._streams.write(side, block + 1, self._outputs(opened, side))
        return state.model_copy(update={"entering": block + 1, "states": states})

    def _outputs(self, opened: OpenBlock, side: str) -> Iterator[Tensor]:
        for batch in self._streams.entering(opened.index):
            entering = batch.pruned if side == "pruned" else batch.dense
            assert entering is not None
            yield opened.forward(entering, batch.call)

    def _output_error(self, block: int) -> float | None:
        """||pruned - dense||^2 / ||dense||^2 of what leaves the block."""
        if not self._streams.with_dense or block == max(self._settings.blocks):
            return None
        sums = torch.zeros(2, dtype=torch.float64)
        for batch in self._streams.entering(block + 1):
            assert batch.dense is not None
            dense = batch.dense.float()
            sums[0] += float((batch.pruned.float() - dense).square().sum(dtype=torch.float64))
            sums[1] += float(dense.square().sum(dtype=torch.float64))
        return float(sums[0] / sums[1])

    def _begun(self) -> PruningPassState:
        """A new pass, with the embeddings written."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._make_folder()
        try:
            return self._embedded()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True)
        except OSError as error:
            if is_full_disk(error):
                raise
            raise UserError(f"Cannot write in {self._folder.parent}: {error.strerror}.") from error

    def _embedded(self) -> PruningPassState:
        width = self._decoder.runner.embed(next(self._streams.tokens_of())[:1, :1]).shape[-1]
        each = self._streams.tokens.numel() * width * self._decoder.runner.stream_dtype.itemsize
        require_free_space(self._folder, 2 * each * len(self._streams.sides))
        states = {}
        for side in self._streams.sides:
            entering = (self._decoder.runner.embed(tokens) for tokens in self._streams.tokens_of())
            states[self._streams.file(side, 0)] = self._streams.write(side, 0, entering)
        state = self._begin.model_copy(update={"states": states})
        self._save(state)
        return state

    def _resumed(self) -> PruningPassState | None:
        """Where an earlier pass on the same stopped; None where there is none, or its files are not whole."""
        state = stopped_pass(self._folder)
        if state is None:
            return None
        same = (state.model, state.settings) == (self._begin.model, self._begin.settings)
        files = {**state.weights, **state.states}
        return state if same and all(is_intact(self._folder / name, file) for name, file in files.items()) else None

    def _save(self, state: PruningPassState) -> None:
        """Write the state, then remove the files that it does not name.

        In this order an interruption leaves files too many, never too few.
        """
        write_json_atomic(self._folder / _STATE, state.model_dump())
        needed = {_STATE, *state.weights, *state.states}
        for path in [path for path in self._folder.rglob("*") if path.is_file()]:
            if path.relative_to(self._folder).as_posix() not in needed:
                path.unlink()

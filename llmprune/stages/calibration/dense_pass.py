"""The pass behind ``calibrate``: each block is loaded once, run over all windows, and dropped.

Hidden states go from file to file, a few windows at a time. In memory they would take 2.1 GB for 128 windows of 2048
tokens of width 4096 in bfloat16, before and after a block. This way memory holds one block and one batch, whatever the
number of windows: on a checkpoint of 4 GiB the whole command peaks at 1.07 GB.

After each block the state of the pass is on disk, so an interrupted pass goes on at the next block.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from llmprune.algorithms.blocks.scores import angular_distances
from llmprune.artifacts.activations import (
    MANIFEST,
    TOKENS,
    BlockStatistics,
    HiddenStatesWriter,
    hidden_name,
    save_tokens,
)
from llmprune.artifacts.files.disk_space import free_space, require_free_space
from llmprune.artifacts.files.ownership import remove_own
from llmprune.artifacts.files.temporary import is_temporary
from llmprune.artifacts.files.tensors import save_tensors
from llmprune.artifacts.hidden_parts import hidden_parts, open_hidden_parts
from llmprune.artifacts.records.environment import Environment
from llmprune.artifacts.records.provenance import FileRecord, Record, write_state
from llmprune.choices import Cache
from llmprune.errors import NumericalError
from llmprune.models.compute import Compute, dtype_name
from llmprune.models.decoder import Decoder
from llmprune.ranks.group import ALONE, Placed
from llmprune.stages.calibration.dense_share import PassShare, Written
from llmprune.stages.common.progress import Progress, shared_task

STATE = "state.json"
_CACHE_SHARE = 10  # of the free space of the disk, one part in ten may hold cached states
_FILES = re.compile(
    rf"{re.escape(STATE)}|{re.escape(MANIFEST)}|{re.escape(TOKENS)}"
    r"|hidden-\d{5}(-\d{5,}-\d{5,})?\.safetensors|last-\d{5}\.safetensors"
)


class DensePassState(Record):
    """What a pass runs on, the blocks and files that it has finished, and what it ran with last.

    The states entering the first ``kept`` blocks stay.
    """

    KIND: ClassVar[str] = "llmprune-calibration-pass"

    kind: Literal["llmprune-calibration-pass"] = "llmprune-calibration-pass"
    model: str
    windows: str
    dtype: str
    cache: Cache
    kept: int = 0
    blocks: tuple[BlockStatistics, ...] = ()
    files: dict[str, FileRecord] = Field(default_factory=dict)
    environment: Environment = Field(default_factory=Environment.now)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class DenseMeasurements:
    """What a pass over the dense model measured.

    Attributes:
        dense_losses: of every window, mean over its predicted tokens, in nats/token.
        blocks: statistics, a record for each block.
        angular_distances: (num_blocks + 1) rows of as many, see ``blocks.scores.angular_distances``.
    """

    dense_losses: tuple[float, ...]
    blocks: tuple[BlockStatistics, ...]
    angular_distances: tuple[tuple[float, ...], ...]

    @property
    def dense_loss(self) -> float:
        """Mean loss over all windows, in nats/token."""
        return sum(self.dense_losses) / len(self.dense_losses)


@dataclass(frozen=True)
class DensePass:
    """One pass of calibration windows through a dense model, in a folder of its own.

    Rank 0 leads it. It writes everything but the hidden states, of which each rank writes those of its own windows.

    Attributes:
        shares: of the ranks.
        progress: who listens.
    """

    shares: Placed[PassShare]
    progress: Progress

    @property
    def decoder(self) -> Decoder:
        """The model."""
        return self.shares.local.decoder

    @property
    def tokens(self) -> Tensor:
        """Calibration windows (num_windows, seq_len) int64."""
        return self.shares.local.tokens

    @property
    def folder(self) -> Path:
        """Where the pass keeps its files."""
        return self.shares.local.folder

    def begun(self, begin: DensePassState, *, kept_in: Path) -> DensePassState:
        """Begin a pass: write the tokens and the embeddings.

        Args:
            begin: what the pass runs on.
            kept_in: where the kept files will lie, for people.

        Raises:
            LlmpruneError: there is no room for the hidden states.
        """
        remove_own(self.folder, is_own, last=(MANIFEST, STATE))
        begin = begin.model_copy(update={"kept": self._announced(begin.cache, kept_in)})
        self.folder.mkdir(exist_ok=True)
        write_state(self.folder / STATE, begin)  # first: it tells whose folder this is
        save_tokens(self.folder / TOKENS, self.tokens)
        files = self._files(0, self.shares.call("embed"), begin.kept)
        return begin.model_copy(update={"files": {TOKENS: FileRecord.of_file(self.folder / TOKENS), **files}})

    def finished(self, state: DensePassState) -> DensePassState:
        """Run the remaining blocks, and write the state of the pass after each.

        Raises:
            NumericalError: the model computes NaN or infinity.
            LlmpruneError: the disk is full.
        """
        done, total = len(state.blocks), len(self.decoder.blocks)
        if done:
            self.progress.say(f"Going on at block {done} of {total}.")
        with self._task("Calibrating", total) as advance:
            advance(done * len(self.shares.local.windows))
            for block in range(done, total):
                state = self._run_block(block, state, advance)
                write_state(self.folder / STATE, state)
                keep_only(self.folder, {STATE, *state.files})
        return state

    def measured(self, state: DensePassState) -> DenseMeasurements:
        """What a finished pass measured; the losses are computed now."""
        last = [load_file(self.folder / last_name(block))["last"] for block in range(len(state.blocks) + 1)]
        leaving = hidden_parts(state.files, len(state.blocks), windows=len(self.tokens))
        with self._task("Dense loss", 1) as advance:
            found = self.shares.call("losses", leaving, own={"advance": advance})
        losses = tuple(loss for part in found for loss in part)
        if not all(map(math.isfinite, losses)):
            raise _head_not_finite(self.decoder)
        return DenseMeasurements(
            dense_losses=losses,
            blocks=state.blocks,
            angular_distances=tuple(tuple(row) for row in angular_distances(torch.stack(last)).tolist()),
        )

    def remarks(self) -> tuple[str, ...]:
        """What the artifact says of how the ranks ran their windows."""
        return tuple(dict.fromkeys(remark for part in self.shares.call("remarks") for remark in part))

    def _run_block(self, block: int, state: DensePassState, advance: Callable[[float], None]) -> DensePassState:
        """Run one block over all windows, and measure it."""
        entering = hidden_parts(state.files, block, windows=len(self.tokens))
        written: list[Written] = self.shares.call("run_block", block, entering, own={"advance": advance})
        sums = torch.stack([part.sums for part in written]).sum(dim=0)
        cosine, input_norm, update_norm = (sums / self.tokens.numel()).tolist()
        statistics = BlockStatistics(influence=1 - cosine, input_norm=input_norm, update_norm=update_norm)
        passed = set() if block < state.kept else set(entering)
        files = {name: file for name, file in state.files.items() if name not in passed}
        files |= self._files(block + 1, written, state.kept)
        return state.model_copy(update={"blocks": (*state.blocks, statistics), "files": files})

    def _files(self, block: int, written: Sequence[Written], kept: int) -> dict[str, FileRecord]:
        """The files of the states entering ``block``, and beside them those of each window's last token.

        The last tokens are all that the angular distances need, and these compare every block with every other: they
        are kept when the files of hidden states are removed. What the artifact keeps becomes one file.
        """
        beside = self.folder / last_name(block)
        save_tensors(beside, {"last": torch.cat([part.last for part in written])})
        files = {part.name: part.file for part in written}
        if block < kept and hidden_name(block) not in files:
            files = {hidden_name(block): self._in_one(block, files)}
        return {**files, beside.name: FileRecord.of_file(beside)}

    def _in_one(self, block: int, names: Collection[str]) -> FileRecord:
        """Copy the states entering ``block`` from the ranks' files into one."""
        runner, windows = self.decoder.runner, len(self.tokens)
        with open_hidden_parts(self.folder, hidden_parts(names, block, windows=windows)) as states:
            shape = (*self.tokens.shape, states.windows(0, 1).shape[-1])
            writer = HiddenStatesWriter(self.folder / hidden_name(block), shape=shape, dtype=runner.stream_dtype)
            try:
                for window in range(windows):
                    writer.append(states.windows(window, window + 1))
                return writer.finish()
            finally:
                writer.discard()

    def _task(self, description: str, times: int) -> AbstractContextManager[Callable[[float], None]]:
        """A bar for all windows, so many times."""
        total, own = (times * len(windows) for windows in (self.tokens, self.shares.local.windows))
        return shared_task(self.progress, description, total, own=own)

    def _announced(self, cache: Cache, kept_in: Path) -> int:
        """Say what the pass will keep, and see that there is room for it; of how many blocks, from the first on."""
        width = self.decoder.runner.embed(self.tokens[:1, :1].to(self.decoder.device)).shape[-1]
        each = self.tokens.numel() * width * self.decoder.runner.stream_dtype.itemsize
        depth = len(self.decoder.blocks)
        most, kept = disk_of_states(each, depth, cache, folder=self.folder, ranks=self.shares.ranks.size)
        windows, seq_len = self.tokens.shape
        self.progress.say(
            f"Calibrating on {windows} x {seq_len} tokens: {kept / 2**30:.2f} GiB of hidden states will "
            f"be kept in {kept_in} ({most / 2**30:.2f} GiB of disk while it runs)."
        )
        require_free_space(self.folder, most)
        return kept // each


def measure_dense(
    decoder: Decoder, tokens: Tensor, folder: Path, compute: Compute, progress: Progress
) -> DenseMeasurements:
    """One whole pass, for its measurements alone; the files in ``folder`` are the caller's to remove.

    Raises:
        NumericalError: the model computes NaN or infinity.
        LlmpruneError: there is no room for the hidden states.
    """
    batch = compute.batch_windows(tokens.shape[1])
    work = DensePass(ALONE.place(PassShare, decoder, tokens, folder, batch, ALONE), progress)
    begin = DensePassState(model="", windows="", dtype=dtype_name(decoder.dtype), cache=Cache.NONE)
    return work.measured(work.finished(work.begun(begin, kept_in=folder)))


def keep_only(partial: Path, names: Collection[str]) -> None:
    """Remove every file of a pass but those in ``names``."""
    remove_own(partial, lambda path: is_own(path) and str(path) not in names)


def is_own(path: PurePosixPath) -> bool:
    """Whether a file in the folder of a pass, or of the artifact that it makes, is one that a pass writes."""
    return _FILES.fullmatch(str(path)) is not None or is_temporary(path)


def disk_of_states(each: int, depth: int, cache: Cache, *, folder: Path, ranks: int = 1) -> tuple[int, int]:
    """Bytes of hidden states on the disk at most while a pass runs, and those that are kept.

    Args:
        each: bytes of the hidden states at one block.
        depth: number of blocks.
        cache: which are kept.
        folder: on the disk that they go to; it need not exist.
        ranks: how many write them; what several have written is there twice while it becomes one file.
    """
    places = depth + 1  # the last one is behind the last block
    kept = {Cache.NONE: 0, Cache.ALL: places}.get(cache)
    if kept is None:
        kept = min(places, free_space(folder) // _CACHE_SHARE // each)
    return min(kept + 2, places + (ranks > 1)) * each, kept * each  # also before and after the present block


def last_name(block: int) -> str:
    """File name of the hidden states that enter ``block`` at each window's last token."""
    return f"last-{block:05d}.safetensors"


def _head_not_finite(decoder: Decoder) -> NumericalError:
    """What to say of losses that are NaN or infinite behind blocks whose hidden states are not."""
    outside = {
        name: float(weight.detach().abs().max())
        for name, weight in decoder.model.named_parameters()
        if not name.startswith(f"{decoder.path}.")
    }
    largest = max(outside, key=lambda name: outside[name])
    return NumericalError(
        f"The model's losses are NaN or infinite in {dtype_name(decoder.dtype)}, its hidden states are not: look at "
        f"{largest}, which has the largest weight outside the blocks ({outside[largest]:.3g})."
    )

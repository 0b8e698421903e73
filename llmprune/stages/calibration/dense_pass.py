"""The pass behind ``calibrate``: each block is loaded once, run over all windows, and dropped.

Hidden states go from file to file, a few windows at a time. In memory they would take 2.1 GB for 128 windows of 2048
tokens of width 4096 in bfloat16, before and after a block. This way memory holds one block and one batch, whatever the
number of windows: on a checkpoint of 4 GiB the whole command peaks at 1.07 GB.

After each block the state of the pass is on disk, so an interrupted pass goes on at the next block.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from llmprune.algorithms.blocks.scores import angular_distances, cosine_similarity_sum
from llmprune.artifacts.activations import (
    MANIFEST,
    TOKENS,
    BlockStatistics,
    CachedFile,
    HiddenStatesWriter,
    cached_file,
    hidden_name,
    open_hidden_states,
    save_tokens,
)
from llmprune.artifacts.files.disk_space import free_space, require_free_space
from llmprune.artifacts.files.ownership import remove_own
from llmprune.artifacts.files.temporary import is_temporary
from llmprune.artifacts.files.tensors import save_tensors
from llmprune.artifacts.records.environment import Environment
from llmprune.artifacts.records.provenance import Record, write_state
from llmprune.choices import Cache
from llmprune.errors import NumericalError
from llmprune.evaluation.losses import token_losses
from llmprune.models.compute import Compute, dtype_name
from llmprune.models.decoder import Decoder
from llmprune.models.open_block import OpenBlock
from llmprune.stages.common.progress import Progress

STATE = "state.json"
_CACHE_SHARE = 10  # of the free space of the disk, one part in ten may hold cached states
_FILES = re.compile(rf"{re.escape(STATE)}|{re.escape(MANIFEST)}|{re.escape(TOKENS)}|(hidden|last)-\d{{5}}\.safetensors")


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
    files: dict[str, CachedFile] = Field(default_factory=dict)
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

    Attributes:
        decoder: the model.
        tokens: calibration windows (num_windows, seq_len) int64.
        folder: where the pass keeps its files.
        compute: how much goes through a block at once.
        progress: who listens.
    """

    decoder: Decoder
    tokens: Tensor
    folder: Path
    compute: Compute
    progress: Progress

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
        files = self._write_states(0, (self.decoder.runner.embed(batch) for _, batch in self._batches()))
        return begin.model_copy(update={"files": {TOKENS: cached_file(self.folder / TOKENS), **files}})

    def finished(self, state: DensePassState) -> DensePassState:
        """Run the remaining blocks, and write the state of the pass after each.

        Raises:
            NumericalError: the model computes NaN or infinity.
            LlmpruneError: the disk is full.
        """
        done, total = len(state.blocks), len(self.decoder.blocks)
        if done:
            self.progress.say(f"Going on at block {done} of {total}.")
        with self.progress.task("Calibrating", total * len(self.tokens)) as advance:
            advance(done * len(self.tokens))
            for block in range(done, total):
                with self.decoder.block(block):
                    state = self._run_block(block, state, advance)
                write_state(self.folder / STATE, state)
                keep_only(self.folder, {STATE, *state.files})
        return state

    def measured(self, state: DensePassState) -> DenseMeasurements:
        """What a finished pass measured; the losses are computed now."""
        last = [load_file(self.folder / last_name(block))["last"] for block in range(len(state.blocks) + 1)]
        losses = tuple(self._dense_losses())
        if not all(map(math.isfinite, losses)):
            raise _head_not_finite(self.decoder)
        return DenseMeasurements(
            dense_losses=losses,
            blocks=state.blocks,
            angular_distances=tuple(tuple(row) for row in angular_distances(torch.stack(last)).tolist()),
        )

    def _run_block(self, block: int, state: DensePassState, advance: Callable[[float], None]) -> DensePassState:
        """Run one block over all windows, from file to file, and measure it."""
        runner = self.decoder.runner
        sums = torch.zeros(3, dtype=torch.float64)

        def outputs() -> Iterator[Tensor]:
            with open_hidden_states(self.folder / hidden_name(block)) as entering:
                for rows, batch in self._batches():
                    before = entering.windows(rows.start, rows.stop).to(self.decoder.device)
                    call = runner.calls(batch)[block]
                    after = runner.forward_block(block, before, call)
                    # Looked at here, while the block is still loaded: only then can the matrix be named.
                    if not bool(torch.isfinite(after).all()):
                        raise OpenBlock(self.decoder, block).not_finite(before, call)
                    sums.add_(_measure(before, after))
                    yield after
                    advance(len(batch))

        files = state.files | self._write_states(block + 1, outputs())
        cosine, input_norm, update_norm = (sums / self.tokens.numel()).tolist()
        statistics = BlockStatistics(influence=1 - cosine, input_norm=input_norm, update_norm=update_norm)
        if block >= state.kept:
            del files[hidden_name(block)]
        return state.model_copy(update={"blocks": (*state.blocks, statistics), "files": files})

    def _write_states(self, block: int, batches: Iterator[Tensor]) -> dict[str, CachedFile]:
        """Write the hidden states entering ``block``, and beside them those of each window's last token.

        The last tokens are all that the angular distances need, and these compare every block with every other: they
        are kept when the files of hidden states are removed.
        """
        path, beside = self.folder / hidden_name(block), self.folder / last_name(block)
        writer: HiddenStatesWriter | None = None
        last: list[Tensor] = []
        try:
            for states in batches:
                if writer is None:
                    shape = (*self.tokens.shape, states.shape[-1])
                    writer = HiddenStatesWriter(path, shape=shape, dtype=self.decoder.runner.stream_dtype)
                writer.append(states)
                last.append(states[:, -1].float().cpu().clone())
            assert writer is not None, "there is at least one window"
            save_tensors(beside, {"last": torch.cat(last)})
            return {path.name: writer.finish(), beside.name: cached_file(beside)}
        finally:
            if writer is not None:
                writer.discard()

    def _dense_losses(self) -> list[float]:
        """Mean loss of every window, in nats/token."""
        losses: list[float] = []
        with (
            open_hidden_states(self.folder / hidden_name(len(self.decoder.blocks))) as leaving,
            self.progress.task("Dense loss", len(self.tokens)) as advance,
        ):
            for rows, batch in self._batches():
                states = leaving.windows(rows.start, rows.stop).to(self.decoder.device)
                losses += token_losses(self.decoder.runner, states, batch).double().mean(dim=1).tolist()
                advance(len(batch))
        return losses

    def _batches(self) -> Iterator[tuple[slice, Tensor]]:
        """The windows in batches that keep the device busy: where they are, and their tokens on the device."""
        size = max(1, self.compute.batch_tokens // self.tokens.shape[1])
        for start in range(0, len(self.tokens), size):
            rows = slice(start, min(start + size, len(self.tokens)))
            yield rows, self.tokens[rows].to(self.decoder.device)

    def _announced(self, cache: Cache, kept_in: Path) -> int:
        """Say what the pass will keep, and see that there is room for it; of how many blocks, from the first on."""
        width = self.decoder.runner.embed(self.tokens[:1, :1].to(self.decoder.device)).shape[-1]
        each = self.tokens.numel() * width * self.decoder.runner.stream_dtype.itemsize
        depth = len(self.decoder.blocks)
        most, kept = disk_of_states(each, depth, cache, folder=self.folder)
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
    work = DensePass(decoder, tokens, folder, compute, progress)
    begin = DensePassState(model="", windows="", dtype=dtype_name(decoder.dtype), cache=Cache.NONE)
    return work.measured(work.finished(work.begun(begin, kept_in=folder)))


def keep_only(partial: Path, names: Collection[str]) -> None:
    """Remove every file of a pass but those in ``names``."""
    remove_own(partial, lambda path: is_own(path) and str(path) not in names)


def is_own(path: PurePosixPath) -> bool:
    """Whether a file in the folder of a pass, or of the artifact that it makes, is one that a pass writes."""
    return _FILES.fullmatch(str(path)) is not None or is_temporary(path)


def disk_of_states(each: int, depth: int, cache: Cache, *, folder: Path) -> tuple[int, int]:
    """Bytes of hidden states on the disk at most while a pass runs, and those that are kept.

    Args:
        each: bytes of the hidden states at one block.
        depth: number of blocks.
        cache: which are kept.
        folder: on the disk that they go to; it need not exist.
    """
    places = depth + 1  # the last one is behind the last block
    kept = {Cache.NONE: 0, Cache.ALL: places}.get(cache)
    if kept is None:
        kept = min(places, free_space(folder) // _CACHE_SHARE // each)
    return min(kept + 2, places) * each, kept * each  # also before and after the present block


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


def _measure(before: Tensor, after: Tensor) -> Tensor:
    """Sums over tokens: cosine similarity of input and output, norm of the input, norm of the update."""
    return torch.tensor(
        [
            cosine_similarity_sum(before, after),
            float(before.float().norm(dim=-1).double().sum()),
            float((after.float() - before.float()).norm(dim=-1).double().sum()),
        ],
        dtype=torch.float64,
    )

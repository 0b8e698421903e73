"""What a model takes: the sizes of its parts, and one block and the head measured on one batch of windows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING

import psutil
import torch

from llmprune.evaluation.losses import token_losses
from llmprune.models.checkpoint_decoder import CheckpointDecoder
from llmprune.models.compute import Compute, dtype_name
from llmprune.models.decoder import Decoder
from llmprune.models.footprint import most_alive
from llmprune.models.loading import LOADING_ROOM
from llmprune.models.memory import MemoryBudget, give_back_freed_memory
from llmprune.models.open_block import block_matrices
from llmprune.models.source import vocabulary
from llmprune.models.timing import now
from llmprune.stages.common.block_times import BlockTimes, random_tokens, time_block
from llmprune.stages.common.work import WorkTimes, time_work

if TYPE_CHECKING:
    from llmprune.stages.common.workspace import Workspace


@dataclass(frozen=True)
class ModelSizes:
    """Bytes of a model's parts.

    Attributes:
        stored: of all weights in the files.
        outside: of what is outside the blocks, in memory.
        outside_stored: of the same in the files.
        blocks: of each block in memory.
        blocks_stored: of each block in the files.
        matrices: (outputs, inputs) of every matrix of the middle block.
        copied: whether loading makes a copy, since the files have another dtype or other tensors.
    """

    stored: int
    outside: int
    outside_stored: int
    blocks: tuple[int, ...]
    blocks_stored: tuple[int, ...]
    matrices: tuple[tuple[int, int], ...]
    copied: bool

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def whole(self) -> int:
        """The whole model in memory."""
        return self.outside + sum(self.blocks)

    def without(self, removed: Sequence[int]) -> ModelSizes:
        """The same model without some blocks."""
        kept = [block for block in range(self.depth) if block not in removed]
        gone = sum(self.blocks_stored[block] for block in removed)
        return replace(
            self,
            stored=self.stored - gone,
            blocks=tuple(self.blocks[block] for block in kept),
            blocks_stored=tuple(self.blocks_stored[block] for block in kept),
        )


@dataclass(frozen=True)
class Memory:
    """Bytes on the machine and on the accelerator."""

    host: int
    device: int


@dataclass(frozen=True)
class ModelCost:
    """What a model takes on this machine with windows of one length.

    Attributes:
        sizes: of its parts.
        seq_len: tokens in a window.
        batch: windows that go through a block together.
        vocabulary: how many tokens it knows.
        width: numbers in the hidden state of a token.
        window_bytes: hidden states of one window.
        times: of one window in one block and in the head.
        timed: gives ``work``, which it measures once.
        steps: seconds of one block for one more token of each of so many texts.
        read: seconds to read a byte of the weights.
        opening: the same for a byte of a block that is read and put in its place.
        block_bytes: tensors alive at most while a block runs on one batch, beside its weights and what it is given.
        head_bytes: tensors alive at most while the head makes losses of one batch.
        base: memory of the machine that Python and its libraries take, once they have computed.
        start: seconds from this process's start until the model was opened.
        device: where is computed.
        dtype: what is computed in.
        processes: that divide the work.
        budget: most memory that may be used.
    """

    sizes: ModelSizes
    seq_len: int
    batch: int
    vocabulary: int
    width: int
    window_bytes: int
    times: BlockTimes
    timed: Callable[[], WorkTimes]
    steps: Mapping[int, float]
    read: float
    opening: float
    block_bytes: int
    head_bytes: int
    base: int
    start: float
    device: str
    dtype: str
    processes: int = 1
    budget: MemoryBudget = field(default_factory=MemoryBudget)

    @property
    def work(self) -> WorkTimes:
        """Seconds of what pruning and healing are made of, timed when somebody asks first."""
        return self.timed()

    def own(self, items: int) -> int:
        """How many of some items, which processes divide, are one's: of the one that has most."""
        return -(-items // self.processes)

    @property
    def on_host(self) -> bool:
        """Whether the processor computes."""
        return self.device == "cpu"

    @property
    def batch_bytes(self) -> int:
        """Hidden states of one batch."""
        return self.batch * self.window_bytes

    @property
    def open_block(self) -> int:
        """Everything outside the blocks, the largest block, and the next one, which is fetched meanwhile."""
        return self.sizes.outside + max(self.sizes.blocks) + max(self.sizes.blocks_stored)

    @property
    def running(self) -> int:
        """An open block, and all that a batch takes on its way through it or through the head."""
        return self.open_block + self.batch_bytes + max(self.block_bytes, self.head_bytes)

    def loading(self, sizes: ModelSizes) -> int:
        """A whole model while transformers loads it.

        The host needs room beside it, and where files have another dtype, they are mapped meanwhile.
        """
        mapped = sizes.stored if self.on_host and sizes.copied else 0
        return sizes.whole + mapped + (int((LOADING_ROOM - 1) * sizes.whole) if self.on_host else 0)

    def next_token(self, texts: int = 1) -> float:
        """Seconds of the whole model for one more token of each of so many texts: it goes through all weights."""
        return self.steps[texts] * self.sizes.whole / max(self.sizes.blocks)

    def memory(self, tensors: int, *, host: int = 0, loading: bool = True) -> Memory:
        """Where tensors lie, and what is on the host in any case.

        Args:
            tensors: bytes on the device that computes.
            host: bytes on the host, wherever is computed.
            loading: whether a block is open. Where the files have another dtype, its stored tensors are there too, and
                on the host beside an accelerator both the open and the next one.
        """
        stored = max(self.sizes.blocks_stored) if loading else 0
        if self.on_host:
            return Memory(tensors + host + (stored if self.sizes.copied else 0), 0)
        return Memory(host + 2 * stored, tensors)


def model_cost(workspace: Workspace, seq_len: int, windows: int | None = None) -> ModelCost:
    """Open a workspace's model, and measure one block of it; nothing is written.

    Args:
        workspace: whose model it is.
        seq_len: tokens in a window.
        windows: how many there are; None: enough for a batch.

    Raises:
        ModelError: it has no usable tokenizer, or cannot be run block by block.
    """
    workspace.tokenizer_fingerprint()  # every command loads the tokenizer, which takes memory of its own
    return measure(workspace.open_decoder, workspace.compute, seq_len, windows)


def measure(
    opened: Callable[[], CheckpointDecoder],
    compute: Compute,
    seq_len: int,
    windows: int | None = None,
    *,
    texts: Iterable[int] = (),
) -> ModelCost:
    """Run one block and the head on a batch of random tokens.

    Args:
        opened: opens the model.
        compute: how much goes through a block at once.
        seq_len: tokens in a window.
        windows: how many there are; None: enough for a batch.
        texts: numbers of texts that are written at the same time, to be measured too.

    Raises:
        ModelError: it cannot be run block by block.
    """
    process = psutil.Process()
    base, start = int(process.memory_info().rss), time.time() - process.create_time()
    decoder, batch = opened(), compute.batch_windows(seq_len)
    batch = min(batch, windows or batch)
    runner, block, sizes = decoder.runner, len(decoder.blocks) // 2, model_sizes(decoder)
    tokens = random_tokens(decoder, batch, seq_len)
    with torch.inference_mode():
        decoder.expect(())  # no other block is read while this one is timed
        hidden = runner.embed(tokens)
        head_bytes = most_alive(lambda: token_losses(runner, hidden, tokens))
        began = now(decoder.device)
        with decoder.block(block):
            opened_in = now(decoder.device) - began
            times = time_block(decoder, block, tokens)
            steps = {count: _step(decoder, block, count) for count in {1, *texts}}
            block_bytes = most_alive(lambda: runner.forward_block(block, hidden, runner.calls(tokens)[block]))
    base = max(base, _besides(process, sizes, decoder))
    return ModelCost(
        sizes=sizes,
        seq_len=seq_len,
        batch=batch,
        vocabulary=vocabulary(decoder.model.config),
        width=hidden.shape[-1],
        window_bytes=hidden.nbytes // batch,
        times=times,
        timed=cache(partial(time_work, decoder.device, decoder.dtype)),
        steps=steps,
        read=decoder.residency.read_seconds / decoder.residency.bytes_read,
        opening=opened_in / sizes.blocks_stored[block],
        block_bytes=block_bytes,
        head_bytes=head_bytes,
        base=base,
        start=start,
        device=str(decoder.device),
        dtype=dtype_name(decoder.dtype),
        processes=compute.ranks.size,
        budget=compute.budget,
    )


def _besides(process: psutil.Process, sizes: ModelSizes, decoder: Decoder) -> int:
    """Memory of a process that is not the weights outside the blocks: libraries have taken theirs when all has run."""
    give_back_freed_memory()
    weights = sizes.outside if decoder.device.type == "cpu" else 0
    return int(process.memory_info().rss) - weights


def _step(decoder: Decoder, block: int, texts: int) -> float:
    """Seconds of a block for as many tokens as texts; fewer than two in a window are no text."""
    windows = max(1, texts // 2)
    return windows * time_block(decoder, block, random_tokens(decoder, windows, 2)).block


def model_sizes(decoder: CheckpointDecoder) -> ModelSizes:
    """The sizes of a model's parts, from shapes alone."""
    used = [one for name, one in decoder.checkpoint.tensors.items() if name in decoder.used]
    blocks = [sum(one.nbytes for one in block.parameters()) for block in decoder.blocks]
    return ModelSizes(
        stored=decoder.checkpoint.nbytes,
        outside=sum(one.nbytes for one in decoder.model.parameters()) - sum(blocks),
        outside_stored=_nbytes(decoder, decoder.names.outside),
        blocks=tuple(blocks),
        blocks_stored=tuple(_nbytes(decoder, names) for names in decoder.names.by_block),
        matrices=tuple(
            (slot.out_features, slot.in_features) for slot in block_matrices(decoder, len(decoder.blocks) // 2)
        ),
        copied=bool(decoder.plan.places.converted)
        or any(one.nbytes != one.numel * decoder.dtype.itemsize for one in used),
    )


def _nbytes(decoder: CheckpointDecoder, names: Iterable[str]) -> int:
    """Bytes of tensors in the files that are there."""
    stored = decoder.checkpoint.tensors
    return sum(stored[name].nbytes for name in names if name in stored)

"""Hidden states entering a block, from file to file: those of the pruned model and, for comparison, of the dense model.

The two models see the same windows. The pruned stream shows each block the errors of the blocks before it. The dense
stream is what a block should give in spite of them. With it as reference (``--targets-from dense``, and refit) SmolLM2
at 70% zeros has a perplexity of 53.0 on WikiText-2; SparseLLM as in its paper, on the pruned stream alone, has 99.2.

Both lie in files for the reason that ``calibration.dense_pass`` gives, and so that an interrupted pass can go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from llmprune.artifacts.activations import CachedFile, HiddenStatesWriter, hidden_name, open_hidden_states
from llmprune.errors import NumericalError
from llmprune.models.capture import BlockCall
from llmprune.models.compute import dtype_name
from llmprune.models.decoder import Decoder


@dataclass(frozen=True)
class Batch:
    """A few windows at one block.

    Attributes:
        place: which batch it is, from 0.
        call: how the model calls the block on them.
        pruned: (batch, seq_len, hidden_size) of the model whose earlier blocks are pruned.
        dense: the same of the dense model; None where it does not run beside.
    """

    place: int
    call: BlockCall
    pruned: Tensor
    dense: Tensor | None


@dataclass(frozen=True)
class Streams:
    """The calibration windows on their way through both models.

    Attributes:
        decoder: whose blocks they pass.
        tokens: (windows, seq_len) int64.
        folder: where the files are, ``pruned/`` and ``dense/``.
        batch: windows at a time.
        with_dense: whether the dense model runs beside.
    """

    decoder: Decoder
    tokens: Tensor
    folder: Path
    batch: int
    with_dense: bool

    @property
    def sides(self) -> tuple[str, ...]:
        """Names of the streams."""
        return ("pruned", "dense") if self.with_dense else ("pruned",)

    def file(self, side: str, block: int) -> str:
        """Path, in the folder, of the states of ``side`` entering ``block``."""
        return f"{side}/{hidden_name(block)}"

    def tokens_of(self) -> Iterator[Tensor]:
        """Tokens batch by batch, on the device."""
        for start in range(0, len(self.tokens), self.batch):
            yield self.tokens[start : start + self.batch].to(self.decoder.device)

    def entering(self, block: int) -> Iterator[Batch]:
        """The batches at ``block``.

        The arguments of a block (positions, masks) are computed anew each time. They are the same every time, but kept
        for all batches they could take more memory than the hidden states: a mask has seq_len x seq_len entries.
        """
        with ExitStack() as files:
            states = [
                files.enter_context(open_hidden_states(self.folder / self.file(side, block))) for side in self.sides
            ]
            for place, tokens in enumerate(self.tokens_of()):
                rows = range(place * self.batch, place * self.batch + len(tokens))
                read = [file.windows(rows.start, rows.stop).to(self.decoder.device) for file in states]
                call = self.decoder.runner.calls(tokens)[block]
                yield Batch(place, call, read[0], read[1] if self.with_dense else None)

    def first_window(self, block: int) -> Batch:
        """One window at ``block``, of the pruned model: enough to see how the block is wired."""
        call = self.decoder.runner.calls(self.tokens[:1].to(self.decoder.device))[block]
        with open_hidden_states(self.folder / self.file("pruned", block)) as states:
            return Batch(0, call, states.windows(0, 1).to(self.decoder.device), None)

    def states(self, side: str, block: int, place: int) -> Tensor:
        """A batch of the states of ``side`` entering ``block``."""
        start = place * self.batch
        with open_hidden_states(self.folder / self.file(side, block)) as states:
            return states.windows(start, min(start + self.batch, len(self.tokens))).to(self.decoder.device)

    def write(self, side: str, block: int, batches: Iterator[Tensor]) -> CachedFile:
        """Write the states of ``side`` entering ``block``; batches must come in order.

        Raises:
            NumericalError: they are NaN or infinite.
        """
        path = self.folder / self.file(side, block)
        path.parent.mkdir(exist_ok=True)
        writer: HiddenStatesWriter | None = None
        try:
            for states in batches:
                _require_finite(states, block)
                if writer is None:
                    shape = (*self.tokens.shape, states.shape[-1])
                    writer = HiddenStatesWriter(path, shape=shape, dtype=self.decoder.runner.stream_dtype)
                writer.append(states)
            assert writer is not None, "there is at least one window"
            return writer.finish()
        finally:
            if writer is not None:
                writer.discard()


def _require_finite(states: Tensor, entering: int) -> None:
    if not bool(states.isfinite().all()):
        source = f"Block {entering - 1}" if entering else "The embedding"
        raise NumericalError(
            f"{source} gives NaN or infinite hidden states in {dtype_name(states.dtype)}; "
            "try `dtype=float32`, or `dtype=bfloat16` if the weights are float16."
        )

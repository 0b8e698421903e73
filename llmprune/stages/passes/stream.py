"""Hidden states of one model on their way from block to block, from file to file.

They lie in files for the reason that ``calibration.dense_pass`` gives, and so that an interrupted pass can go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from llmprune.artifacts.activations import CachedFile, Calibration, HiddenStatesWriter, hidden_name, open_hidden_states
from llmprune.errors import NumericalError
from llmprune.models.capture import BlockCall
from llmprune.models.compute import dtype_name
from llmprune.models.decoder import Decoder


@dataclass(frozen=True)
class Entering:
    """A few windows at one block.

    Attributes:
        place: which batch it is, from 0.
        call: how the model calls the block on them.
        hidden: (batch, seq_len, hidden_size).
    """

    place: int
    call: BlockCall
    hidden: Tensor


@dataclass(frozen=True)
class CachedStates:
    """The dense model's hidden states that a calibration keeps, from one of its windows on.

    Attributes:
        calibration: the artifact.
        first: the window.
    """

    calibration: Calibration
    first: int


def cached_states(known: Calibration | None, *, model: str, dtype: str, first: int = 0) -> CachedStates | None:
    """What a calibration keeps of a model's hidden states; None: it is of another model, or in another dtype.

    Args:
        known: the calibration; None: there is none.
        model: fingerprint of the model.
        dtype: what is computed in.
        first: the first of its windows that is wanted.
    """
    if known is None or (known.manifest.model.fingerprint, known.manifest.dtype) != (model, dtype):
        return None
    return CachedStates(known, first)


@dataclass(frozen=True)
class Stream:
    """The calibration windows on their way through a model.

    Attributes:
        name: of the stream's folder.
        decoder: whose blocks they pass.
        tokens: (windows, seq_len) int64.
        folder: of the pass.
        batch: windows at a time.
        cache: what is known of the same windows in the same model; None: nothing.
    """

    name: str
    decoder: Decoder
    tokens: Tensor
    folder: Path
    batch: int
    cache: CachedStates | None = None

    def file(self, block: int) -> str:
        """Path, in the folder, of the states entering ``block``."""
        return f"{self.name}/{hidden_name(block)}"

    def tokens_of(self) -> Iterator[Tensor]:
        """Tokens batch by batch, on the device."""
        for start in range(0, len(self.tokens), self.batch):
            yield self.tokens[start : start + self.batch].to(self.decoder.device)

    def entering(self, block: int) -> Iterator[Entering]:
        """The batches at ``block``.

        The arguments of a block (positions, masks) are computed anew each time. They are the same every time, but kept
        for all batches they could take more memory than the hidden states: a mask has seq_len x seq_len entries.
        """
        with open_hidden_states(self.folder / self.file(block)) as states:
            for place, tokens in enumerate(self.tokens_of()):
                start = place * self.batch
                hidden = states.windows(start, start + len(tokens)).to(self.decoder.device)
                yield Entering(place, self.decoder.runner.calls(tokens)[block], hidden)

    def first_window(self, block: int, *, length: int | None = None) -> Entering:
        """One window at ``block``, or its first ``length`` tokens: enough to see how the block is wired."""
        call = self.decoder.runner.calls(self.tokens[:1, :length].to(self.decoder.device))[block]
        with open_hidden_states(self.folder / self.file(block)) as states:
            return Entering(0, call, states.windows(0, 1)[:, :length].to(self.decoder.device))

    def states(self, block: int, place: int) -> Tensor:
        """A batch of the states entering ``block``."""
        start = place * self.batch
        with open_hidden_states(self.folder / self.file(block)) as states:
            return states.windows(start, min(start + self.batch, len(self.tokens))).to(self.decoder.device)

    def embedded(self) -> dict[str, CachedFile]:
        """Write the states entering the first block; returns the file by its path in the folder."""
        return self.write(0, (self.decoder.runner.embed(tokens) for tokens in self.tokens_of()))

    def is_cached(self, block: int) -> bool:
        """Whether the states entering ``block`` need not be computed; the depth: those leaving the last."""
        return self.cache is not None and self.cache.calibration.keeps(block)

    def from_cache(self, block: int) -> dict[str, CachedFile]:
        """Write the states entering ``block`` as they are cached; returns the file by its path in the folder.

        Raises:
            ArtifactError: the cached file is damaged.
        """
        assert self.cache is not None, "is_cached() first"
        begin, end = self.cache.first, self.cache.first + len(self.tokens)
        with self.cache.calibration.hidden_states(block) as states:
            parts = range(begin, end, self.batch)
            return self.write(block, (states.windows(start, min(start + self.batch, end)) for start in parts))

    def write(self, block: int, batches: Iterator[Tensor]) -> dict[str, CachedFile]:
        """Write the states entering ``block``; batches must come in order. Returns the file by its path in the folder.

        Raises:
            NumericalError: they are NaN or infinite.
        """
        path = self.folder / self.file(block)
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
            return {self.file(block): writer.finish()}
        finally:
            if writer is not None:
                writer.discard()

    @property
    def nbytes(self) -> int:
        """Bytes of the states entering a block."""
        width = self.decoder.runner.embed(self.tokens[:1, :1].to(self.decoder.device)).shape[-1]
        return self.tokens.numel() * width * self.decoder.runner.stream_dtype.itemsize


def _require_finite(states: Tensor, entering: int) -> None:
    if not bool(states.isfinite().all()):
        source = f"Block {entering - 1}" if entering else "The embedding"
        raise NumericalError(
            f"{source} gives NaN or infinite hidden states in {dtype_name(states.dtype)}; "
            "try `dtype=float32`, or `dtype=bfloat16` if the weights are float16."
        )

"""Hidden states of one model on their way from block to block, from file to file.

They lie in files for the reason that ``calibration.dense_pass`` gives, and so that an interrupted pass can go on. Each
of several processes writes those of its own windows into a file of its own, and reads what it needs from whatever files
there are: a pass can go on with another number of processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor

from llmprune.artifacts.activations import Calibration, HiddenStatesWriter, hidden_name
from llmprune.artifacts.hidden_parts import hidden_parts, open_hidden_parts
from llmprune.artifacts.records.provenance import FileRecord
from llmprune.errors import NumericalError
from llmprune.models.capture import BlockCall
from llmprune.models.compute import dtype_name
from llmprune.models.decoder import Decoder
from llmprune.models.known_calls import KnownCalls
from llmprune.ranks.group import ALONE, Ranks


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
        ranks: which divide the windows among them.
    """

    name: str
    decoder: Decoder
    tokens: Tensor
    folder: Path
    batch: int
    cache: CachedStates | None = None
    ranks: Ranks = ALONE
    _files: set[str] = field(default_factory=set, repr=False)

    @property
    def windows(self) -> range:
        """Those of this process."""
        return self.ranks.share(range(len(self.tokens)))

    def file(self, block: int) -> str:
        """Path, in the folder, of the states entering ``block`` that this process writes."""
        return f"{self.name}/{hidden_name(block, self.windows if self.ranks.size > 1 else None)}"

    @cached_property
    def _calls(self) -> KnownCalls:
        return KnownCalls(self.decoder.runner)

    def call(self, block: int, place: int, tokens: Tensor) -> BlockCall:
        """How the model calls ``block`` on a batch, whose tokens (batch, seq_len) are known from ``tokens_of``."""
        return self._calls.at(place, tokens)[block]

    def find(self, files: Iterable[str]) -> None:
        """Read from these files of the folder from now on, and from those that are written.

        Args:
            files: by their paths in the folder; those of other streams are passed over.
        """
        self._files.clear()
        self._files.update(files)

    def add(self, files: Iterable[str]) -> None:
        """Read from these files too, which other processes have written."""
        self._files.update(files)

    def has(self, block: int) -> bool:
        """Whether there are files of the states entering ``block``."""
        return bool(self._parts(block))

    def tokens_of(self) -> Iterator[Tensor]:
        """Tokens batch by batch, on the device."""
        own = self.ranks.share(self.tokens)
        for start in range(0, len(own), self.batch):
            yield own[start : start + self.batch].to(self.decoder.device)

    def entering(self, block: int) -> Iterator[Entering]:
        """The batches at ``block``."""
        for place, tokens in enumerate(self.tokens_of()):
            yield Entering(place, self.call(block, place, tokens), self.states(block, place))

    def first_window(self, block: int, *, length: int | None = None) -> Entering:
        """The first window at ``block``, or its first ``length`` tokens: enough to see how the block is wired.

        It is the same window on all ranks, so that all see the same.
        """
        call = self.decoder.runner.calls(self.tokens[:1, :length].to(self.decoder.device))[block]
        return Entering(0, call, self._read(block, range(1))[:, :length].to(self.decoder.device))

    def states(self, block: int, place: int) -> Tensor:
        """A batch of the states entering ``block``."""
        start = place * self.batch
        return self._read(block, self.windows[start : start + self.batch]).to(self.decoder.device)

    def batches(self, block: int) -> Iterator[Tensor]:
        """The states entering ``block``, batch by batch."""
        for place, _ in enumerate(self.tokens_of()):
            yield self.states(block, place)

    def embedded(self) -> dict[str, FileRecord]:
        """Write the states entering the first block; returns the file by its path in the folder."""
        return self.write(0, (self.decoder.runner.embed(tokens) for tokens in self.tokens_of()))

    def is_cached(self, block: int) -> bool:
        """Whether the states entering ``block`` need not be computed; the depth: those leaving the last."""
        return self.cache is not None and self.cache.calibration.keeps(block)

    def from_cache(self, block: int) -> dict[str, FileRecord]:
        """Write the states entering ``block`` as they are cached; returns the file by its path in the folder.

        Raises:
            ArtifactError: the cached file is damaged.
        """
        assert self.cache is not None, "is_cached() first"
        begin, end = (self.cache.first + place for place in (self.windows.start, self.windows.stop))
        with self.cache.calibration.hidden_states(block) as states:
            parts = range(begin, end, self.batch)
            return self.write(block, (states.windows(start, min(start + self.batch, end)) for start in parts))

    def write(self, block: int, batches: Iterator[Tensor]) -> dict[str, FileRecord]:
        """Write this process's states entering ``block``; batches must come in order.

        Returns:
            The file by its path in the folder; none where this process has no windows.

        Raises:
            NumericalError: they are NaN or infinite.
        """
        name = self.file(block)
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        writer: HiddenStatesWriter | None = None
        try:
            for states in batches:
                _require_finite(states, block)
                if writer is None:
                    shape = (len(self.windows), self.tokens.shape[1], states.shape[-1])
                    writer = HiddenStatesWriter(path, shape=shape, dtype=self.decoder.runner.stream_dtype)
                writer.append(states)
            if writer is None:
                return {}
            written = writer.finish()
            self._files.add(name)
            return {name: written}
        finally:
            if writer is not None:
                writer.discard()

    @property
    def nbytes(self) -> int:
        """Bytes of the states of all windows entering a block."""
        width = self.decoder.runner.embed(self.tokens[:1, :1].to(self.decoder.device)).shape[-1]
        return self.tokens.numel() * width * self.decoder.runner.stream_dtype.itemsize

    def _read(self, block: int, windows: range) -> Tensor:
        """Some windows of the states entering ``block``, whoever wrote them."""
        with open_hidden_parts(self.folder / self.name, self._parts(block)) as states:
            return states.windows(windows.start, windows.stop)

    def _parts(self, block: int) -> dict[str, range]:
        """The files of the states entering ``block``, by their names in the stream's own folder."""
        own = f"{self.name}/"
        names = (name.removeprefix(own) for name in self._files if name.startswith(own))
        return hidden_parts(names, block, windows=len(self.tokens))


def _require_finite(states: Tensor, entering: int) -> None:
    if not bool(states.isfinite().all()):
        source = f"Block {entering - 1}" if entering else "The embedding"
        raise NumericalError(
            f"{source} gives NaN or infinite hidden states in {dtype_name(states.dtype)}; "
            "try `dtype=float32`, or `dtype=bfloat16` if the weights are float16."
        )

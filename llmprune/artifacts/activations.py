"""The calibration artifact: token windows, cached hidden states, and what one pass over the model measured."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from safetensors import safe_open
from torch import Tensor

from llmprune.artifacts.checkpoints.header import TensorEntry, build_header, read_header
from llmprune.artifacts.files.ownership import Owned
from llmprune.artifacts.files.temporary import is_temporary, unused_name
from llmprune.artifacts.files.tensors import save_tensors
from llmprune.artifacts.records.environment import Environment
from llmprune.artifacts.records.provenance import (
    Artifact,
    CorpusIdentity,
    FileRecord,
    ModelIdentity,
    Record,
    recorded_as,
)
from llmprune.choices import Cache, ChatTemplate
from llmprune.errors import ArtifactError

TOKENS = "tokens.safetensors"
MANIFEST = "manifest.json"
_DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}


class BlockStatistics(Record):
    """What the pass over the model measured at one block.

    Attributes:
        influence: 1 - mean cosine similarity of the block's input and output (ShortGPT's block influence).
        input_norm: mean over tokens of the Euclidean norm of the hidden states entering it.
        update_norm: the same of what the block adds to them.
    """

    influence: float
    input_norm: float
    update_norm: float


class CalibrationManifest(Artifact):
    """``manifest.json``.

    Attributes:
        model: the model that was run.
        corpus: the text the windows come from.
        num_windows: calibration windows.
        seq_len: tokens in each.
        sampling: how windows were drawn.
        seed: of the drawing.
        bos: whether every window starts with the tokenizer's BOS token.
        chat_template: how conversations became text, where the text has any.
        windows_fingerprint: SHA-256 of the tokens.
        tokenizer: fingerprint of the tokenizer that gave them (``calibration.tokenizer_identity``); None in files
            from before it was kept.
        dtype: what the pass over the dense model computed in; None: there was none yet, only windows were drawn.
        cache: which hidden states of that pass are kept.
        dense_losses: of every window, mean over its predicted tokens, in nats/token; none before the pass.
        blocks: statistics, a record for each block; none before the pass.
        angular_distances: (num_blocks + 1) rows of as many, see ``blocks.scores.angular_distances``; likewise.
        files: every other file of the artifact.
        environment: what it was computed with; None in files from before it was kept.
        remarks: where the pass went on with something else.
    """

    KIND: ClassVar[str] = "llmprune-calibration"

    kind: Literal["llmprune-calibration"] = "llmprune-calibration"
    schema_version: int = 1
    model: ModelIdentity
    corpus: CorpusIdentity
    num_windows: int
    seq_len: int
    sampling: str
    seed: int | None
    bos: bool
    chat_template: ChatTemplate = ChatTemplate.AUTO
    windows_fingerprint: str
    tokenizer: str | None = None
    dtype: str | None = None
    cache: Cache = Cache.NONE
    dense_losses: tuple[float, ...] = ()
    blocks: tuple[BlockStatistics, ...] = ()
    angular_distances: tuple[tuple[float, ...], ...] = ()
    files: dict[str, FileRecord] = Field(default_factory=dict)
    environment: Environment | None = None
    remarks: tuple[str, ...] = ()

    @field_validator("cache", mode="before")
    @classmethod
    def _known_cache(cls, value: object) -> object:
        """Files from before ``none`` was there say ``first``, and keep what enters the first block."""
        return Cache.NONE if value == "first" else value

    @property
    def measured(self) -> bool:
        """Whether a pass over the dense model was made."""
        return bool(self.blocks)

    @property
    def dense_loss(self) -> float:
        """Mean loss over all windows (each has as many predicted tokens), in nats/token."""
        return sum(self.dense_losses) / len(self.dense_losses)


@dataclass(frozen=True)
class Calibration:
    """A calibration artifact on disk, opened for reading."""

    directory: Path
    manifest: CalibrationManifest

    def tokens(self) -> Tensor:
        """The token windows: (num_windows, seq_len) int64."""
        path = self._checked(TOKENS)
        with safe_open(path, framework="pt") as file:
            tokens = file.get_tensor("tokens")
        assert isinstance(tokens, Tensor)
        return tokens.long()

    def keeps(self, block: int) -> bool:
        """Whether the hidden states entering ``block`` are there; the number of blocks: those leaving the last."""
        return hidden_name(block) in self.manifest.files

    @contextmanager
    def hidden_states(self, block: int) -> Iterator[HiddenStates]:
        """The hidden states entering ``block``, for reading window by window."""
        path = self._checked(hidden_name(block))
        with open_hidden_states(path) as states:
            yield states

    def require_intact(self) -> None:
        """See that every file of the artifact is what it was when it was finished.

        Raises:
            ArtifactError: one is not.
        """
        for name in self.manifest.files:
            self._checked(name)

    def _checked(self, name: str) -> Path:
        known = self.manifest.files.get(name)
        path = self.directory / name
        if known is None:
            raise ArtifactError(
                f"{self.directory} does not keep {name} (its cache is '{self.manifest.cache}'); "
                "type: llmprune calibrate --cache all"
            )
        if not known.is_at(path):
            raise ArtifactError(f"{path} is missing or is not what calibrate wrote; type: llmprune calibrate --force")
        return path


def open_calibration(directory: Path) -> Calibration:
    """Open a calibration artifact.

    Raises:
        ArtifactError: there is none, or it is damaged or of another schema.
    """
    if not (directory / MANIFEST).is_file():
        raise ArtifactError(
            f"{directory} holds no {MANIFEST}, so it is no calibration; move it away, or type `run=OTHER`."
        )
    return Calibration(directory, CalibrationManifest.read(directory / MANIFEST))


def calibration_files(directory: Path) -> Owned:
    """Which files of a finished calibration are llmprune's: those that its manifest names."""
    manifest = recorded_as(directory / MANIFEST, CalibrationManifest.KIND)
    if manifest is None:
        return is_temporary
    names = manifest.get("files")
    known = {MANIFEST, *(names if isinstance(names, dict) else ())}
    return lambda path: str(path) in known or is_temporary(path)


def hidden_name(block: int, windows: range | None = None) -> str:
    """File name of the hidden states entering ``block``; ``windows``: which of them it holds, where not all."""
    part = "" if windows is None else f"-{windows.start:05d}-{windows.stop:05d}"
    return f"hidden-{block:05d}{part}.safetensors"


def save_tokens(path: Path, tokens: Tensor) -> None:
    """Write token windows (num_windows, seq_len) int64, as int32: no vocabulary is larger."""
    save_tensors(path, {"tokens": tokens.to(torch.int32)})


class HiddenStates:
    """Hidden states (num_windows, seq_len, hidden_size) of a file, read a few windows at a time.

    They are read and not mapped: a mapped file counts as memory of the process as far as it was touched.
    """

    def __init__(self, file: BufferedReader, entry: TensorEntry) -> None:
        self._file, self._start = file, entry.start
        self._dtype = {name: dtype for dtype, name in _DTYPE_NAMES.items()}[entry.dtype]
        self.shape: tuple[int, ...] = tuple(entry.shape)

    def windows(self, start: int, stop: int) -> Tensor:
        """Windows ``start`` to ``stop``: a copy, in the file's dtype."""
        start, stop, _ = slice(start, stop).indices(self.shape[0])
        part = torch.empty(max(0, stop - start), *self.shape[1:], dtype=self._dtype)
        self._file.seek(self._start + start * (part.nbytes // max(1, len(part))))
        self._file.readinto(part.view(torch.uint8).numpy().data)
        return part


@contextmanager
def open_hidden_states(path: Path) -> Iterator[HiddenStates]:
    """Open a file that ``HiddenStatesWriter`` finished."""
    (entry,) = read_header(path)
    with path.open("rb") as file:
        yield HiddenStates(file, entry)


class HiddenStatesWriter:
    """Writes hidden states window by window, so that only a few of them are ever in memory.

    The file is an ordinary safetensors file with one tensor, ``hidden_states``. It has
    its final name only once it is whole.

    Args:
        path: the final name.
        shape: (num_windows, seq_len, hidden_size).
        dtype: of the tensor.
    """

    def __init__(self, path: Path, *, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
        self._path = path
        self._partial = unused_name(path, "partial")
        self._digest = hashlib.sha256()
        nbytes = shape[0] * shape[1] * shape[2] * dtype.itemsize
        header = build_header([("hidden_states", _DTYPE_NAMES[dtype], shape, nbytes)], {"format": "pt"})
        self._expected = len(header) + nbytes
        self._file: BinaryIO = self._partial.open("wb")
        self._write(header)

    def append(self, windows: Tensor) -> None:
        """Write the next windows, (any number, seq_len, hidden_size)."""
        self._write(windows.detach().cpu().contiguous().view(torch.uint8).numpy().data)

    def finish(self) -> FileRecord:
        """Flush the file to the disk, close it and give it its final name."""
        assert self._file.tell() == self._expected, "fewer or more windows than announced"
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.rename(self._path)
        return FileRecord(bytes=self._expected, sha256=self._digest.hexdigest())

    def discard(self) -> None:
        """Close the file and remove it, unless it is finished."""
        if not self._file.closed:
            with suppress(OSError):  # what a full disk did not take is still in the buffer
                self._file.close()
            self._partial.unlink(missing_ok=True)

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)

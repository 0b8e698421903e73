"""Copying tensors from checkpoint to checkpoint, renamed, as bytes: no tensor is ever built.

Every piece passes through memory once. There it is written, and a second thread sums up the file's SHA-256 and looks
for NaN. So what is recorded of a file is what was meant to be in it, whatever the disk makes of it.
"""

from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmprune.artifacts.checkpoints.checkpoint import INDEX_NAME, Checkpoint, TensorEntry
from llmprune.artifacts.checkpoints.finiteness import refuse_non_finite
from llmprune.artifacts.checkpoints.header import build_header, check_name
from llmprune.artifacts.checkpoints.layout import (
    place_odd_last,
    refuse_existing_weights,
    shard_names,
    split_by_size,
    write_index,
)
from llmprune.artifacts.checkpoints.watching import PIECE, Watcher
from llmprune.artifacts.files.digests import FileDigest
from llmprune.artifacts.files.disk_space import explain_full_disk, require_free_space
from llmprune.artifacts.files.ranges import open_shards, read_into, write_fully
from llmprune.artifacts.files.sizes import parse_size
from llmprune.choices import SHARD_SIZE

DEFAULT_SHARD_BYTES = parse_size(SHARD_SIZE)
Change: TypeAlias = Callable[[TensorEntry, int, NDArray[np.uint8]], None]


@dataclass(frozen=True)
class CopyReport:
    """What `copy_tensors` wrote.

    Attributes:
        nbytes: bytes of the tensors.
        num_parameters: their elements.
        shards: the files of weights, in order.
        files: what is in these, and in the index where there is one, by name.
    """

    nbytes: int
    num_parameters: int
    shards: tuple[Path, ...]
    files: Mapping[str, FileDigest]

    @property
    def directory(self) -> Path:
        """The folder that they lie in."""
        return self.shards[0].parent

    def beside(self, files: Mapping[str, FileDigest]) -> Self:
        """The same with files that were written beside the weights."""
        return replace(self, files={**self.files, **files})


@dataclass(frozen=True)
class _Placed:
    """A tensor of the source and its new name."""

    entry: TensorEntry
    name: str


def copy_tensors(
    source: Checkpoint,
    renames: Mapping[str, str],
    directory: Path,
    *,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    progress: Callable[[int], None] | None = None,
    check_finite: Container[str] = (),
    change: Change | None = None,
) -> CopyReport:
    """Copy tensors bit for bit into new shards (and an index, when there are several) in ``directory``.

    Args:
        source: where they come from. It must not lie in ``directory``.
        renames: source name -> new name, in output order. In the order of ``source.tensors`` the disk is read forwards.
        directory: an existing folder without weights, such as `atomic_directory` yields.
        max_shard_bytes: bytes of tensors a file; a larger tensor gets a file of its own.
        progress: called with the number of bytes copied since its last call.
        check_finite: tensors of the source in which to look for NaN and infinity, as they are written.
        change: called with a tensor of the source, the offset of a piece in it and the piece (bytes, from an offset
            and of a length that are multiples of 8 elements, but for the end), which it may change in place.

    Raises:
        CheckpointError: ``source`` lacks a tensor, or a file of it can no longer be read.
        NonFiniteWeightsError: ``check_finite`` found something. It is a CheckpointError and a NumericalError.
        OutputExistsError: ``directory`` holds weights.
        ValueError: two tensors get one name, a name is reserved, or there is nothing to copy.
        LlmpruneError: the disk is full. After this or any other exception no file of the copy is left.
    """
    placed = _place(source, renames)
    refuse_existing_weights(directory)
    total = sum(item.entry.nbytes for item in placed)
    require_free_space(directory, total)
    runs = split_by_size(placed, nbytes=lambda item: item.entry.nbytes, max_bytes=max_shard_bytes)
    files = dict(zip((directory / name for name in shard_names(len(runs))), runs, strict=True))
    num_parameters = sum(item.entry.numel for item in placed)
    with explain_full_disk(directory, needed=total), _all_or_none(list(files)):
        digests: dict[str, FileDigest] = {}
        with Watcher(check_finite) as watcher, open_shards(source.shards) as sources:
            for path, run in files.items():
                _write_shard(path, run, sources, watcher, change, progress or (lambda _: None))
                digests[path.name] = watcher.file_done()
            refuse_non_finite(watcher.non_finite)
        if len(files) > 1:
            weight_map = {item.name: path.name for path, run in files.items() for item in run}
            index = write_index(directory, weight_map, total_size=total, total_parameters=num_parameters)
            digests[INDEX_NAME] = index
    return CopyReport(total, num_parameters, tuple(files), digests)


def _place(source: Checkpoint, renames: Mapping[str, str]) -> list[_Placed]:
    if not renames:
        raise ValueError("Nothing to copy: a checkpoint cannot be empty.")
    if len(set(renames.values())) != len(renames):
        raise ValueError("Two tensors cannot be copied to the same name.")
    for name in renames.values():
        check_name(name)
    return [_Placed(source.entry(old), new) for old, new in renames.items()]


@contextmanager
def _all_or_none(paths: list[Path]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise


def _write_shard(
    path: Path,
    run: list[_Placed],
    sources: Mapping[Path, FileIO],
    watcher: Watcher,
    change: Change | None,
    progress: Callable[[int], None],
) -> None:
    run = place_odd_last(run, dtype=lambda item: item.entry.dtype, nbytes=lambda item: item.entry.nbytes)
    fields = ((item.name, item.entry.dtype, item.entry.shape, item.entry.nbytes) for item in run)
    header = build_header(fields, {"format": "pt"})
    with path.open("xb", buffering=0) as output:
        write_fully(output, header)
        watcher.add(header)
        for entry in (item.entry for item in run):
            for start in range(0, entry.nbytes, PIECE):
                with watcher.piece(entry, min(PIECE, entry.nbytes - start)) as piece:
                    read_into(sources[entry.shard], entry.start + start, piece.data)
                    if change is not None:
                        change(entry, start, piece)
                    write_fully(output, piece.data)
                progress(len(piece))

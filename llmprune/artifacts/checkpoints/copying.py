"""Copying tensors from checkpoint to checkpoint, renamed, as bytes: no tensor is ever built."""

from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint, TensorEntry
from llmprune.artifacts.checkpoints.finiteness import is_finite, refuse_non_finite
from llmprune.artifacts.checkpoints.header import build_header, check_name
from llmprune.artifacts.checkpoints.layout import (
    place_odd_last,
    refuse_existing_weights,
    shard_names,
    split_by_size,
    write_index,
)
from llmprune.artifacts.files.disk_space import explain_full_disk, require_free_space
from llmprune.artifacts.files.ranges import copy_range, open_shards, write_fully
from llmprune.artifacts.files.sizes import parse_size
from llmprune.choices import SHARD_SIZE

DEFAULT_SHARD_BYTES = parse_size(SHARD_SIZE)
_STEP = 64 << 20  # bytes between two reports of progress


@dataclass(frozen=True)
class CopyReport:
    """What `copy_tensors` wrote.

    Attributes:
        nbytes: their bytes.
        num_parameters: their elements.
        shards: the files, in order.
    """

    nbytes: int
    num_parameters: int
    shards: tuple[Path, ...]


@dataclass(frozen=True)
class _Placed:
    """A tensor of the source and its new name."""

    entry: TensorEntry
    name: str


@dataclass(frozen=True)
class _Span:
    """Neighbouring bytes of one source shard, and the tensors that lie in them whole."""

    shard: Path
    start: int
    end: int
    entries: tuple[TensorEntry, ...]


def copy_tensors(
    source: Checkpoint,
    renames: Mapping[str, str],
    directory: Path,
    *,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    progress: Callable[[int], None] | None = None,
    check_finite: Container[str] = (),
) -> CopyReport:
    """Copy tensors bit for bit into new shards (and an index, when there are several) in ``directory``.

    Args:
        source: where they come from. It must not lie in ``directory``.
        renames: source name -> new name, in output order. Tensors in the order of ``source.tensors`` are
            copied in long runs.
        directory: an existing folder without weights, such as `atomic_directory` yields.
        max_shard_bytes: bytes of tensors a file; a larger tensor gets a file of its own.
        progress: called with the number of bytes copied since its last call.
        check_finite: tensors of the source in which to look for NaN and infinity, in a second thread.

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
        with _Checker(source, check_finite) as checker, open_shards(source.shards) as sources:
            for path, run in files.items():
                _write_shard(path, run, sources, checker, progress or (lambda _: None))
            refuse_non_finite(checker.found())
        if len(files) > 1:
            weight_map = {item.name: path.name for path, run in files.items() for item in run}
            write_index(directory, weight_map, total_size=total, total_parameters=num_parameters)
    return CopyReport(total, num_parameters, tuple(files))


class _Checker:
    """Looks for NaN behind the copy, one span at a time, while its bytes are still in the page cache."""

    def __init__(self, source: Checkpoint, names: Container[str]) -> None:
        self._names = names
        self._shards = source.shards
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="llmprune-finite")
        self._results: list[Future[list[str]]] = []

    def __enter__(self) -> "_Checker":
        self._opened = open_shards(self._shards)  # its own: a file has one position
        self._files = self._opened.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._opened.__exit__(None, None, None)

    def submit(self, span: _Span) -> None:
        if entries := [entry for entry in span.entries if entry.name in self._names]:
            self._results.append(self._pool.submit(self._check, span.shard, entries))

    def found(self) -> list[str]:
        return [name for result in self._results for name in result.result()]

    def _check(self, shard: Path, entries: list[TensorEntry]) -> list[str]:
        return [entry.name for entry in entries if not is_finite(self._files[shard], entry)]


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
    checker: _Checker,
    progress: Callable[[int], None],
) -> None:
    run = place_odd_last(run, dtype=lambda item: item.entry.dtype, nbytes=lambda item: item.entry.nbytes)
    fields = ((item.name, item.entry.dtype, item.entry.shape, item.entry.nbytes) for item in run)
    with path.open("xb", buffering=0) as output:
        write_fully(output, build_header(fields, {"format": "pt"}))
        for span in _spans([item.entry for item in run]):
            for start in range(span.start, span.end, _STEP):
                end = min(start + _STEP, span.end)
                copy_range(sources[span.shard], start, end, output)
                progress(end - start)
            checker.submit(span)


def _spans(entries: list[TensorEntry]) -> Iterator[_Span]:
    """Join neighbours in the source into spans of up to `_STEP` bytes, or of one larger tensor."""
    first = 0
    for index, entry in enumerate(entries):
        following = entries[index + 1] if index + 1 < len(entries) else None
        joins = following is not None and (following.shard, following.start) == (entry.shard, entry.end)
        if joins and following is not None and following.end - entries[first].start <= _STEP:
            continue
        yield _Span(entry.shard, entries[first].start, entry.end, tuple(entries[first : index + 1]))
        first = index + 1

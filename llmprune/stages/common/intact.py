"""Whether a checkpoint that llmprune wrote is still what was written, by the digests in its ``llmprune.json``."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint, open_checkpoint, sample_tensors
from llmprune.artifacts.checkpoints.scanning import digest_weights
from llmprune.artifacts.files.digests import FileDigest
from llmprune.artifacts.masks.mask import MASK_NAME
from llmprune.artifacts.records.conversion import CONVERSION_NAME, Conversion
from llmprune.artifacts.records.provenance import FileRecord
from llmprune.artifacts.records.pruning import RECORD_NAME, PruningRecord, WrittenFiles
from llmprune.artifacts.records.unchecked import remark_unchecked
from llmprune.errors import ChangedError
from llmprune.models.belonging import beside_weights
from llmprune.models.source import fingerprint_of
from llmprune.spelling import listed
from llmprune.stages.common.progress import Progress

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_FOR_PEOPLE = ("LICENSE*", "NOTICE*", "USE_POLICY*")  # what somebody adds to a checkpoint by right
_RETRAINED = 0.1  # share of the tensors that differ, from which on it is no damage


def written_files(directory: Path, files: Mapping[str, FileRecord]) -> WrittenFiles:
    """What is noted of a checkpoint that was just written. Of the weights, samples are read again.

    Args:
        directory: the checkpoint.
        files: every file by its path in it, but for those that are not compared.
    """
    checkpoint = open_checkpoint(directory)
    return WrittenFiles(
        fingerprint=fingerprint_of(directory, checkpoint),
        files=dict(sorted(files.items())),
        tensors=sample_tensors(checkpoint),
    )


@dataclass(frozen=True)
class Intact:
    """The checks of one command. A checkpoint is read for them once, however many of its steps begin with it.

    Attributes:
        check: whether to check at all.
    """

    check: bool = True
    _intact: set[object] = field(default_factory=set, repr=False, compare=False)
    _read: dict[object, dict[str, FileDigest]] = field(default_factory=dict, repr=False, compare=False)

    def digests(self, checkpoint: Checkpoint) -> Mapping[str, FileDigest]:
        """What the files of weights of a checkpoint hold; they are read once, unless they change meanwhile.

        Raises:
            CheckpointError: a file can no longer be read.
        """
        seen = _signature(checkpoint.shards)
        if seen not in self._read:
            self._read[seen] = digest_weights(checkpoint)
        return self._read[seen]

    def require(
        self,
        directory: Path,
        progress: Progress,
        *,
        weights: Mapping[str, FileDigest] | None = None,
        left_out: Container[str] = (),
    ) -> None:
        """See that a checkpoint is what llmprune wrote. Of one that llmprune did not write nothing is asked.

        What it converted is asked about as what it pruned. One of an earlier version has no digests: it is passed
        with an ``UncheckedWarning``.

        Args:
            directory: the checkpoint.
            progress: hears that nothing is checked.
            weights: what its files of weights hold, where they were just read; None: they are read now.
            left_out: names of shards that were not downloaded.

        Raises:
            ChangedError: it was damaged or changed; the message tells which.
            ArtifactError: its record cannot be read.
            CheckpointError: nor can its weights.
        """
        if (directory / CONVERSION_NAME).is_file():
            self._require(directory, Conversion.read(directory / CONVERSION_NAME).written, progress, weights, left_out)
        elif (directory / RECORD_NAME).is_file():
            written = PruningRecord.read(directory / RECORD_NAME).written
            self._require(directory, written, progress, weights, left_out)

    def _require(
        self,
        directory: Path,
        written: WrittenFiles | None,
        progress: Progress,
        weights: Mapping[str, FileDigest] | None,
        left_out: Container[str],
    ) -> None:
        if written is None:
            remark_unchecked(directory)
            return
        if not self.check:
            progress.say(f"Whether {directory.name} is what llmprune wrote is not checked.")
            return
        seen = _signature(directory / name for name in written.files)
        if seen not in self._intact:
            _require_files(directory, written, left_out)
            checkpoint = open_checkpoint(directory, left_out=left_out)
            _require_weights(checkpoint, written, weights or self.digests(checkpoint), left_out)
            self._intact.add(seen)


def _signature(paths: Iterable[Path]) -> object:
    """What changes when one of these files is written again, or another is put in its place."""
    known = [(path, path.stat()) for path in paths if path.exists()]
    return tuple((path.absolute(), found.st_ino, found.st_size, found.st_mtime_ns) for path, found in known)


def _is_weights(name: str) -> bool:
    return name.endswith(".safetensors")


def _require_files(directory: Path, written: WrittenFiles, left_out: Container[str]) -> None:
    """Check that all files are there, that nothing else would be loaded, and all but the weights."""
    expected = {name: file.digest for name, file in written.files.items() if name not in left_out}
    missing = [name for name in expected if not (directory / name).is_file()]
    if missing:
        raise _changed(directory, f"lacks {listed(missing)}, which llmprune wrote")
    there = {path.name for pattern in _WEIGHTS for path in directory.glob(pattern)}
    there |= {str(path) for path in beside_weights(directory)}
    others = there - written.files.keys() - {MASK_NAME}
    added = sorted(name for name in others if not any(fnmatch(name, pattern) for pattern in _FOR_PEOPLE))
    if added:
        raise _changed(directory, f"holds {listed(added)}, which llmprune did not write")
    for name, digest in expected.items():
        if not _is_weights(name) and FileDigest.of_file(directory / name) != digest:
            raise _changed(directory, f"has another {name} than llmprune wrote")


def _require_weights(
    checkpoint: Checkpoint, written: WrittenFiles, found: Mapping[str, FileDigest], left_out: Container[str]
) -> None:
    expected = {name: file.digest for name, file in written.files.items() if _is_weights(name) and name not in left_out}
    wrong = sorted(name for name, digest in expected.items() if found.get(name) != digest)
    if wrong:
        raise _explained(checkpoint.directory, checkpoint, written, wrong)


def _explained(directory: Path, checkpoint: Checkpoint, written: WrittenFiles, wrong: list[str]) -> ChangedError:
    """Weights that are not the written ones: after a training most tensors differ, after damage few."""
    samples = {name: sample for name, sample in written.tensors.items() if name not in checkpoint.elsewhere}
    found = sample_tensors(checkpoint)
    if found.keys() != samples.keys():
        return _changed(directory, f"has other tensors in {listed(wrong)} than llmprune wrote")
    differing = [name for name, sample in samples.items() if found[name] != sample]
    if len(differing) > max(1, _RETRAINED * len(samples)):
        return ChangedError(
            f"{directory} was changed since llmprune wrote it: {len(differing)} of its {len(samples)} tensors have "
            "other weights, as after a fine-tune",
            advice=f"its {RECORD_NAME} does not describe these: move that out, so that it is a model like any other, "
            "or type `check=False`.",
        )
    where = f" (in {differing[0]:.100})" if len(differing) == 1 else ""
    return _changed(directory, f"is damaged: {listed(wrong)} has another SHA-256 than when it was written{where}")


def _changed(directory: Path, what: str) -> ChangedError:
    again = f"make it again ({RECORD_NAME} has the command)"
    if (directory / CONVERSION_NAME).is_file():
        again = "delete it, so that it is converted again"
    return ChangedError(f"{directory} {what}", advice=f"put an intact copy back, {again}, or type `check=False`.")

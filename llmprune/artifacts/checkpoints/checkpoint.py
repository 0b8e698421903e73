"""A checkpoint on disk: which tensors it holds and where, checked, without reading the tensors themselves.

Files are found as transformers finds them: ``model.safetensors``, else the shards that
``model.safetensors.index.json`` names. A folder of symbolic links, as in the Hub's cache, is fine.
"""

import dataclasses
import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Self

from safetensors import SafetensorError, safe_open
from torch import Tensor

from llmprune.artifacts.checkpoints.header import TensorEntry, parse_json_object, read_header
from llmprune.artifacts.files.ranges import open_shards, read_range
from llmprune.artifacts.files.reading import read_small
from llmprune.errors import CheckpointError
from llmprune.spelling import listed

__all__ = [
    "INDEX_NAME",
    "PICKLED_INDEX_NAME",
    "PICKLED_NAME",
    "SINGLE_NAME",
    "Checkpoint",
    "TensorEntry",
    "has_only_pickles",
    "open_checkpoint",
    "read_weight_map",
    "require_shards",
    "sample_tensors",
]

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
PICKLED_NAME = "pytorch_model.bin"
PICKLED_INDEX_NAME = "pytorch_model.bin.index.json"
_PAGE = 4096  # bytes
_PAGES = 16
_LONGEST_NAME = 255  # bytes


@dataclass(frozen=True)
class Checkpoint:
    """The weights in a folder.

    Attributes:
        directory: the folder.
        tensors: every tensor by name; in the order of the shards' names, then of the bytes in a shard, so
            that walking them reads the disk forwards.
        shards: the files, sorted by name.
        elsewhere: names of the tensors in shards that were left out, known from the index alone.
    """

    directory: Path
    tensors: Mapping[str, TensorEntry]
    shards: tuple[Path, ...]
    elsewhere: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor's name, those elsewhere behind the others."""
        return (*self.tensors, *sorted(self.elsewhere))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, headers not counted."""
        return sum(entry.nbytes for entry in self.tensors.values())

    @property
    def num_parameters(self) -> int:
        """Elements of all tensors; one that is tied to another is stored, and counted, once."""
        return sum(entry.numel for entry in self.tensors.values())

    def entry(self, name: str) -> TensorEntry:
        """The tensor called ``name``.

        Raises:
            CheckpointError: there is none.
        """
        try:
            return self.tensors[name]
        except KeyError:
            problem = "does not hold the shard with" if name in self.elsewhere else "has no tensor named"
            raise CheckpointError(f"{self.directory} {problem} {name!r:.100}.") from None

    def load(self, names: Iterable[str], *, device: str = "cpu") -> dict[str, Tensor]:
        """Read just these tensors, in the order asked for, with the dtypes and shapes they have on disk.

        On the CPU the tensors are private views of the mapped file: its pages are read when they are first
        touched, and the file must stay what it is while they live.

        Raises:
            CheckpointError: a name that the checkpoint lacks, or a file that can no longer be read.
        """
        entries = [self.entry(name) for name in names]
        tensors: dict[str, Tensor] = {}
        for shard in dict.fromkeys(entry.shard for entry in entries):
            try:
                with safe_open(shard, framework="pt", device=device) as file:
                    tensors |= {entry.name: file.get_tensor(entry.name) for entry in entries if entry.shard == shard}
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{shard} can no longer be read: {error}.") from error
        return {entry.name: tensors[entry.name] for entry in entries}

    def overlaid(self, newer: Iterable[Path]) -> Self:
        """The same tensors in the same order, those that the safetensors files ``newer`` hold taken from there.

        Raises:
            CheckpointError: a file is malformed, or holds a tensor that this checkpoint lacks or has in another shape.
        """
        newer = tuple(newer)
        for entry in (entry for file in newer for entry in read_header(file)):
            if self.entry(entry.name).shape != entry.shape:
                raise CheckpointError(
                    f"{entry.shard} holds {entry.name!r:.100} in another shape than {self.directory}."
                )
        return self.replaced(newer)

    def replaced(self, newer: Iterable[Path]) -> Self:
        """The same tensors in the same order, those that the safetensors files ``newer`` hold in place of the old ones.

        Raises:
            CheckpointError: a file is malformed.
        """
        files = tuple(newer)
        entries = {entry.name: entry for file in files for entry in read_header(file)}
        return dataclasses.replace(self, tensors={**self.tensors, **entries}, shards=(*self.shards, *files))

    def fingerprint(self) -> str:
        """A SHA-256 that tells checkpoints apart after reading at most 64 KiB of each tensor.

        Covers every name, dtype and shape and, of each tensor, its bytes up to 64 KiB or, of a larger one, 16
        pages of 4 KiB spaced evenly from its first to its last bytes. Sharding, order and metadata do not
        matter. Of tensors elsewhere it covers the names only, so it is not the whole checkpoint's.

        Tells apart: other architectures, dtypes, trainings, quantisations and prunings, renamed or swapped
        tensors, files cut off or zeroed in part: whatever changes weights throughout a tensor. Cannot tell:
        an edit of a large tensor that lies wholly between the pages, such as one row of an embedding. It is
        no protection against someone who means to deceive.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        with open_shards(self.shards) as files:
            for name in sorted(self.tensors):
                entry = self.tensors[name]
                digest.update(repr((name, entry.dtype, entry.shape)).encode())
                for start, end in _sampled_ranges(entry):
                    digest.update(read_range(files[entry.shard], start, end))
        for name in sorted(self.elsewhere):
            digest.update(repr((name, "left out")).encode())
        return digest.hexdigest()


def sample_tensors(checkpoint: Checkpoint) -> dict[str, str]:
    """A short digest of every tensor by name, of what `Checkpoint.fingerprint` reads of it: 8 hexadecimal digits.

    They tell in which tensors two checkpoints differ, where that is throughout.

    Raises:
        CheckpointError: a file can no longer be read.
    """
    samples: dict[str, str] = {}
    with open_shards(checkpoint.shards) as files:
        for name, entry in checkpoint.tensors.items():
            digest = hashlib.sha256(repr((entry.dtype, entry.shape)).encode())
            for start, end in _sampled_ranges(entry):
                digest.update(read_range(files[entry.shard], start, end))
            samples[name] = digest.hexdigest()[:8]
    return samples


def open_checkpoint(directory: Path, *, left_out: Container[str] = ()) -> Checkpoint:
    """Read the headers of the checkpoint in ``directory``; check them against the files' sizes.

    The index says which files there are, and the files what they hold, as transformers has it: an index may leave
    a tensor out, or name one that is not stored (a tied head).

    Args:
        directory: the folder.
        left_out: names of shards that need not be there and are not looked at.

    Raises:
        CheckpointError: there are no safetensors files, one is missing, cut off or malformed, or two hold the same
            tensor.
    """
    if not directory.is_dir():
        problem = "is a file, not a directory" if directory.exists() else "does not exist"
        raise CheckpointError(f"{directory} {problem}; give the directory of a model.")
    single, index = directory / SINGLE_NAME, directory / INDEX_NAME
    if single.exists():
        weight_map: dict[str, str] = {}
        shards: tuple[Path, ...] = (single,)
    elif index.exists():
        weight_map = read_weight_map(index)
        shards = tuple(directory / name for name in sorted(set(weight_map.values())) if name not in left_out)
    else:
        raise CheckpointError(_explain_no_weights(directory))
    tensors = _collect(shards, index)
    elsewhere = frozenset(name for name, shard in weight_map.items() if shard in left_out)
    if not tensors:
        raise CheckpointError(f"{single} holds no tensors.")
    return Checkpoint(directory, tensors, shards, elsewhere)


def has_only_pickles(directory: Path) -> bool:
    """Whether transformers would read the weights of ``directory`` from pickles, since no safetensors come first."""
    if (directory / SINGLE_NAME).exists() or (directory / INDEX_NAME).exists():
        return False
    return (directory / PICKLED_NAME).exists() or (directory / PICKLED_INDEX_NAME).exists()


def read_weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> file name, from the index of a sharded checkpoint, of safetensors files or of pickles.

    Raises:
        CheckpointError: it cannot be read, is no index, or names files outside its folder.
    """
    again = "download the file again"
    try:
        text = read_small(index)
    except OSError as error:
        raise CheckpointError(f"{index} cannot be read: {error.strerror}.") from error
    weight_map = parse_json_object(text, what=str(index)).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map that says which file holds which tensor; {again}.")
    for shard in weight_map.values():
        _check_shard_name(index, shard)
    return weight_map


def _check_shard_name(index: Path, shard: object) -> None:
    """Only the name counts: the Hub's cache keeps its files elsewhere and links to them."""
    kind = Path(index.name.removesuffix(".index.json")).suffix
    if not isinstance(shard, str) or "\0" in shard or not shard.endswith(kind):
        raise CheckpointError(f"{index} names {shard!r:.100}, which is no {kind} file.")
    if len(shard.encode("utf-8", "surrogatepass")) > _LONGEST_NAME:
        raise CheckpointError(f"{index} names {shard!r:.100}, which is longer than a file's name can be.")
    for path in (PurePosixPath(shard), PureWindowsPath(shard)):
        if path.anchor or ".." in path.parts:
            raise CheckpointError(f"{index} names {shard!r:.100}, a file outside its folder.")


def require_shards(shards: tuple[Path, ...], index: Path) -> None:
    """See that the files that ``index`` names, or the only one there is, are there.

    Raises:
        CheckpointError: one is not.
    """
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        source = f", named by {index.name}," if len(shards) > 1 else ""
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise CheckpointError(f"{shards[0].parent}: {missing[0]}{others}{source} is missing; download it again.")


def _collect(shards: tuple[Path, ...], index: Path) -> dict[str, TensorEntry]:
    require_shards(shards, index)
    tensors: dict[str, TensorEntry] = {}
    for shard in shards:
        for entry in read_header(shard):
            if entry.name in tensors:
                first = tensors[entry.name].shard.name
                raise CheckpointError(f"The tensor {entry.name!r:.100} is in {shard} and again in {first}.")
            tensors[entry.name] = entry
    return tensors


def _explain_no_weights(directory: Path) -> str:
    known = (SINGLE_NAME, INDEX_NAME, PICKLED_NAME, PICKLED_INDEX_NAME)
    if has_only_pickles(directory):
        return (
            f"{directory} has its weights only as pickles; a checkpoint of safetensors files was expected: convert "
            "them once with transformers: AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW)."
        )
    others = sorted(
        path.name for pattern in ("*.safetensors", "pytorch_model*.bin") for path in directory.glob(pattern)
    )
    if others:
        return f"{directory} holds {listed(others, 1)}, but none of {', '.join(known)}."
    return f"{directory} holds no weights: none of {', '.join(known)}."


def _sampled_ranges(entry: TensorEntry) -> Iterator[tuple[int, int]]:
    """What `Checkpoint.fingerprint` reads; relative to the tensor it depends on the size alone."""
    if entry.nbytes <= _PAGE * _PAGES:
        yield entry.start, entry.end
        return
    for page in range(_PAGES):
        start = entry.start + (entry.nbytes - _PAGE) * page // (_PAGES - 1)
        yield start, start + _PAGE

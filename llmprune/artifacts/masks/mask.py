"""Which weights of a pruned checkpoint are zero, as one small file that prunes a sibling of its base model alike.

A mask is a safetensors file. Its tensors have the names of the weights and hold one bit an element, 1 where
the weight is kept and 0 where it is zero: element i, counted in row-major order of the stored shape, is bit
i % 8, from the least significant, of byte i // 8; what is left over of the last byte is 0. The header's
free text says the rest:

    kind, schema_version, llmprune    what wrote it
    fingerprint    SHA-256 of the weights that it was read from (``Checkpoint.fingerprint``)
    shapes         JSON: name -> shape of each weight, as stored
    numbered       JSON: what stands before a weight's first number -> how many numbers the checkpoint has there
                   ({"model.layers.": 24}), so that no mask is laid on blocks that it was not made for
    pattern        such as 2:4 or 70%, where it is known
    bit_order      the rule above, for people
    content_sha256 of all that stands here besides, as JSON with sorted names, and of the bits behind the header; files
                   of earlier versions do not have it
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmprune.artifacts.checkpoints.block_numbers import split_at_number
from llmprune.artifacts.checkpoints.checkpoint import Checkpoint
from llmprune.artifacts.checkpoints.header import (
    TensorEntry,
    build_header,
    parse_json_object,
    read_header,
    read_metadata,
)
from llmprune.artifacts.checkpoints.zeros import iter_zeros
from llmprune.artifacts.files.atomic import atomic_file
from llmprune.artifacts.files.ranges import open_shards, read_range, write_fully
from llmprune.artifacts.records.unchecked import remark_unchecked
from llmprune.errors import ArtifactError
from llmprune.version import __version__

MASK_NAME = "mask.safetensors"
KIND, SCHEMA = "llmprune-mask", 1
BIT_ORDER = "1 is kept; element i in row-major order is bit i % 8, from the least significant, of byte i // 8"

_DIGEST = "content_sha256"
_STEP = 1 << 20  # bytes


@dataclass(frozen=True)
class MaskedTensor:
    """The mask of one weight.

    Attributes:
        name: of the weight in its checkpoint.
        shape: of the weight as stored.
        bits: where the packed bits lie.
    """

    name: str
    shape: tuple[int, ...]
    bits: TensorEntry

    @property
    def numel(self) -> int:
        """Elements of the weight."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Mask:
    """A mask file that was checked.

    Attributes:
        path: the file.
        fingerprint: of the weights that it was read from.
        tensors: by name, in the order of their bytes.
        numbered: what stands before a weight's first number -> how many numbers its checkpoint has there.
        pattern: such as ``2:4``; None: not recorded.
    """

    path: Path
    fingerprint: str
    tensors: Mapping[str, MaskedTensor]
    numbered: Mapping[str, int]
    pattern: str | None = None

    def kept(self, name: str) -> NDArray[np.bool_]:
        """The mask of one weight, in its shape: True where the weight is kept.

        Raises:
            ArtifactError: there is none of that name.
            CheckpointError: the file can no longer be read.
        """
        if name not in self.tensors:
            raise ArtifactError(f"{self.path} has no mask of {name!r:.100}.")
        tensor = self.tensors[name]
        with open_shards([self.path]) as files:
            return kept_elements(files[self.path], tensor, 0, tensor.numel).reshape(tensor.shape)


def write_mask(checkpoint: Checkpoint, tensors: Sequence[str], path: Path, *, pattern: str | None = None) -> None:
    """Write to ``path`` which elements of ``tensors`` are zero in ``checkpoint``, about 1 MiB of them in memory.

    Args:
        checkpoint: a checkpoint with zeros in its weights.
        tensors: names of the pruned weights.
        path: the new file; an old one is replaced.
        pattern: what to record as the pattern that was pruned to.

    Raises:
        CheckpointError: no tensor of such a name, a dtype that no model is accepted in, or a file that became shorter.
        LlmpruneError: the disk is full; the old file is intact.
        ValueError: there are no tensors.
    """
    entries = sorted({checkpoint.entry(name) for name in tensors}, key=lambda entry: (entry.shard, entry.start))
    if not entries:
        raise ValueError("A mask needs a tensor.")
    metadata = _metadata(checkpoint, entries, pattern)
    fields = [(entry.name, "U8", (-(-entry.numel // 8),), -(-entry.numel // 8)) for entry in entries]
    with (
        atomic_file(path) as partial,
        partial.open("wb", buffering=0) as output,
        open_shards(checkpoint.shards) as files,
    ):
        digest = _digest(metadata)
        write_fully(output, build_header(fields, {**metadata, _DIGEST: digest.hexdigest()}))
        for entry in entries:
            for zeros in iter_zeros(files[entry.shard], entry, unit=8):
                bits = np.packbits(~zeros, bitorder="little").data
                digest.update(bits)
                write_fully(output, bits)
        output.seek(0)  # a digest has the same length whatever it is
        write_fully(output, build_header(fields, {**metadata, _DIGEST: digest.hexdigest()}))


def read_mask(path: Path) -> Mask:
    """Read a mask file, and check its header against what the file holds and all of it against its digest.

    Raises:
        CheckpointError: no safetensors file, cut off, or malformed.
        ArtifactError: no mask, a mask of a newer schema, or one that contradicts itself or its digest.
    """
    entries = {entry.name: entry for entry in read_header(path)}
    text = read_metadata(path)
    if text.get("kind") != KIND:
        raise ArtifactError(f"{path} is no mask of llmprune's: its kind is {text.get('kind')!r:.60}, not '{KIND}'.")
    if text.get("schema_version") != str(SCHEMA):
        raise ArtifactError(
            f"{path} has schema {text.get('schema_version')!r:.40}, but this llmprune ({__version__}) reads schema "
            f"{SCHEMA}; use the version that wrote it."
        )
    shapes, numbered = (_counts(path, name, text.get(name)) for name in ("shapes", "numbered"))
    if shapes.keys() != entries.keys():
        odd = min(shapes.keys() ^ entries.keys())
        raise _damaged(path, f"{odd!r:.100} is not both among its shapes and among its tensors")
    tensors = {name: _masked(path, entry, shapes[name]) for name, entry in entries.items()}
    _check_last_bytes(path, tensors.values())
    if not all(type(count) is int and count > 0 for count in numbered.values()):
        raise _damaged(path, "'numbered' does not hold counts")
    if "fingerprint" not in text:
        raise _damaged(path, "its header has no 'fingerprint'")
    _check_digest(path, text, entries.values())
    return Mask(path, text["fingerprint"], tensors, numbered, text.get("pattern"))


def kept_elements(file: FileIO, tensor: MaskedTensor, start: int, end: int) -> NDArray[np.bool_]:
    """Elements ``start`` (a multiple of 8) up to ``end`` of a weight, flat: True where kept.

    Args:
        file: the open mask file.
        tensor: the weight's mask.
        start: first element, in row-major order.
        end: behind the last.

    Raises:
        CheckpointError: the file became shorter.
    """
    assert start % 8 == 0, "bits are read by the byte"
    begin = tensor.bits.start
    packed = np.frombuffer(read_range(file, begin + start // 8, begin - (-end // 8)), np.uint8)
    return np.unpackbits(packed, count=end - start, bitorder="little").view(np.bool_)


def numbered_modules(names: Iterable[str]) -> dict[str, int]:
    """What stands before a name's first number -> how many numbers stand there: {"model.layers.": 24}."""
    found: dict[str, set[int]] = defaultdict(set)
    for prefix, number in _numbers(names):
        found[prefix].add(number)
    return {prefix: len(numbers) for prefix, numbers in found.items()}


def _numbers(names: Iterable[str]) -> Iterator[tuple[str, int]]:
    for name in names:
        if parts := split_at_number(name):
            yield parts[:2]


def _metadata(checkpoint: Checkpoint, entries: Sequence[TensorEntry], pattern: str | None) -> dict[str, str]:
    masked = {prefix for prefix, _ in _numbers(entry.name for entry in entries)}
    numbered = {prefix: n for prefix, n in numbered_modules(checkpoint.tensors).items() if prefix in masked}
    return {
        "format": "pt",
        "kind": KIND,
        "schema_version": str(SCHEMA),
        "llmprune": __version__,
        "fingerprint": checkpoint.fingerprint(),
        "shapes": json.dumps({entry.name: entry.shape for entry in entries}),
        "numbered": json.dumps(numbered),
        "bit_order": BIT_ORDER,
        **({} if pattern is None else {"pattern": pattern}),
    }


def _counts(path: Path, name: str, text: str | None) -> dict[str, Any]:
    if not isinstance(text, str):
        raise _damaged(path, f"its header has no '{name}'")
    return parse_json_object(text.encode(errors="replace"), what=f"'{name}' of {path}")


def _masked(path: Path, entry: TensorEntry, shape: object) -> MaskedTensor:
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise _damaged(path, f"the shape of {entry.name!r:.100} is {shape!r:.60}")
    tensor = MaskedTensor(entry.name, tuple(shape), entry)
    if (entry.dtype, entry.nbytes) != ("U8", -(-tensor.numel // 8)):
        raise _damaged(path, f"{entry.name!r:.100} does not have a bit for each element of {tensor.shape!r:.60}")
    return tensor


def _check_last_bytes(path: Path, tensors: Iterable[MaskedTensor]) -> None:
    """See that what no element has a place in is 0: else the bits were packed by another rule."""
    with open_shards([path]) as files:
        for tensor in tensors:
            left_over = -tensor.numel % 8
            if left_over and read_range(files[path], tensor.bits.end - 1, tensor.bits.end)[0] >> (8 - left_over):
                raise _damaged(path, f"{tensor.name!r:.100} has bits behind its last element")


def _digest(metadata: Mapping[str, str]) -> hashlib._Hash:
    """A digest that has begun with the header's text; the bits are to follow."""
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())


def _check_digest(path: Path, text: Mapping[str, str], entries: Collection[TensorEntry]) -> None:
    told = text.get(_DIGEST)
    if told is None:
        remark_unchecked(path)
        return
    digest = _digest({name: value for name, value in text.items() if name != _DIGEST})
    with open_shards([path]) as files:
        end = max(entry.end for entry in entries)
        for start in range(min(entry.start for entry in entries), end, _STEP):
            digest.update(read_range(files[path], start, min(start + _STEP, end)))
    if digest.hexdigest() != told:
        raise _damaged(path, "its content does not fit its digest")


def _damaged(path: Path, problem: str) -> ArtifactError:
    return ArtifactError(f"{path} is damaged: {problem}; get an intact copy.")

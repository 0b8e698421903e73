"""The header of one safetensors file: what it holds and where, read and written without touching a tensor.

The format: 8 bytes with the length of the header (unsigned, little endian), the header (JSON, padded with
spaces), then the tensors' bytes without holes. ``data_offsets`` count from the end of the header.

Read by hand, since huggingface_hub's reader takes damaged files: names that come twice, offsets that overlap or leave
holes, and files that are longer or shorter than their header says.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmprune.artifacts.files.reading import MAX_BYTES, open_regular, parse_json
from llmprune.artifacts.files.remembered import Remembered
from llmprune.errors import CheckpointError

# Bits an element, for every dtype of the format.
DTYPE_BITS: Mapping[str, int] = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("BF16", "F16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
_MAX_DIMENSIONS = 64  # torch has no more
_MAX_COUNT = 2**63  # elements and bytes: what no file system holds
_METADATA = "__metadata__"
_GIT_LFS = b"version https://git-lfs"
_MOST_HEADERS = 1024  # more shards than a checkpoint has


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies.

    Attributes:
        name: its name in the checkpoint.
        dtype: as safetensors writes it, such as ``"BF16"``.
        shape: in elements.
        shard: the file that holds it.
        start: absolute offset of its first byte in ``shard``.
        end: absolute offset behind its last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: Path
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.end - self.start

    @property
    def numel(self) -> int:
        """Elements of the tensor."""
        return math.prod(self.shape)


_HEADERS: Remembered[tuple[TensorEntry, ...]] = Remembered(most=_MOST_HEADERS)


def read_header(path: Path) -> list[TensorEntry]:
    """List the tensors of the safetensors file ``path`` in the order of their bytes.

    Reads the header alone, and only once for as long as the file stays as it is.

    Raises:
        CheckpointError: the file is not what the format says, cut off, or longer than its header says.
    """
    return list(_HEADERS.get(path, lambda: _parsed(path)))


def _parsed(path: Path) -> tuple[TensorEntry, ...]:
    header, start, size = _read_json(path)
    _pop_metadata(path, header)
    entries = [_parse_entry(path, name, fields, start) for name, fields in header.items()]
    entries.sort(key=lambda entry: (entry.start, entry.end))
    _check_offsets(path, entries, start, size)
    return tuple(entries)


def read_metadata(path: Path) -> dict[str, str]:
    """The free text in the header of the safetensors file ``path``: name -> text; empty where there is none.

    Raises:
        CheckpointError: the file is not what the format says.
    """
    header, _, _ = _read_json(path)
    metadata = _pop_metadata(path, header)
    for name, text in metadata.items():
        if not isinstance(text, str):
            raise CheckpointError(f"{path}: {name!r:.60} in its {_METADATA} is no text; download the file again.")
    return metadata


def build_header(tensors: Iterable[tuple[str, str, tuple[int, ...], int]], metadata: Mapping[str, str]) -> bytes:
    """Write the header of a file that holds ``tensors`` one behind the other.

    Args:
        tensors: (name, dtype, shape, bytes) of each, in the order of their bytes.
        metadata: free text; readers look for ``{"format": "pt"}``.

    Returns:
        The first bytes of the file, a multiple of 8, so that the tensors begin aligned.
    """
    header: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
    offset = 0
    for name, dtype, shape, nbytes in tensors:
        fields = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
        header[name] = fields
        offset += nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text


def check_name(name: str) -> None:
    """Refuse the one name that the format keeps for itself.

    Raises:
        ValueError: ``name`` is that name.
    """
    if name == _METADATA:
        raise ValueError(f"No tensor can be named {_METADATA}.")


def is_tensor_name(name: object) -> bool:
    """Whether something could be the name of a tensor: a text of printable characters, not kept by the format."""
    return isinstance(name, str) and name.isprintable() and name != _METADATA


def refuse_git_lfs(path: Path) -> None:
    """See that ``path`` is no pointer that Git LFS left in place of a large file.

    Raises:
        CheckpointError: it is, or it cannot be read.
    """
    try:
        with open_regular(path) as file:
            first = file.read(len(_GIT_LFS))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    _refuse_pointer(path, first)


def parse_json_object(text: bytes, *, what: str) -> dict[str, Any]:
    """Parse ``text`` as a JSON object in which no name comes twice and every name is valid Unicode.

    Args:
        text: UTF-8.
        what: names the text in errors.

    Raises:
        CheckpointError: it is anything else.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members: dict[str, Any] = {}
        for name, member in pairs:
            name.encode()  # a lone surrogate raises UnicodeEncodeError, a ValueError
            if name in members:
                raise CheckpointError(f"In {what} the name {name!r:.100} comes twice.")
            members[name] = member
        return members

    try:
        parsed = parse_json(text, pairs=unique)
    except ValueError as error:
        raise CheckpointError(f"There is no valid JSON in {what}; download the file again.") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"There is no JSON object in {what}; download the file again.")
    return parsed


def _read_json(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header as it stands, where the tensors begin, and how many bytes the file has."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = _data_start(path, file.read(len(_GIT_LFS)), size)
            file.seek(8)
            text = file.read(start - 8)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    return parse_json_object(text, what=f"the header of {path}"), start, size


def _pop_metadata(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path}: its {_METADATA} is not a JSON object; download the file again.")
    return metadata


def _data_start(path: Path, first: bytes, size: int) -> int:
    """The absolute offset where the tensors begin, from the first bytes of the file."""
    _refuse_pointer(path, first)
    if size < 8:
        raise CheckpointError(f"{path} is cut off: it has {size} bytes, not even the length of a header.")
    length = int.from_bytes(first[:8], "little")
    if length > MAX_BYTES or length < 2:
        raise CheckpointError(f"{path} is no safetensors file: its header would have {length} bytes.")
    if 8 + length > size:
        raise CheckpointError(
            f"{path} is cut off: its header ends at byte {8 + length}, the file at {size}; download it again."
        )
    return 8 + length


def _refuse_pointer(path: Path, first: bytes) -> None:
    if first == _GIT_LFS:
        raise CheckpointError(f'{path} is a Git LFS pointer, not the weights; run "git lfs pull" in its folder.')


def _is_count(number: object) -> bool:
    return type(number) is int and 0 <= number < _MAX_COUNT


def _parse_entry(path: Path, name: str, fields: object, data_start: int) -> TensorEntry:
    wrong = f"{path}: tensor {name!r:.100}"
    if not isinstance(fields, dict) or not {"dtype", "shape", "data_offsets"} <= fields.keys():
        raise CheckpointError(f"{wrong} has no dtype, shape and data_offsets in the header; download the file again.")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise CheckpointError(f"{wrong} has the dtype {dtype!r:.40}, which safetensors does not know.")
    if not (isinstance(shape, list) and len(shape) <= _MAX_DIMENSIONS and all(map(_is_count, shape))):
        raise CheckpointError(f"{wrong} has the shape {shape!r:.60}, which is not a list of counts.")
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(map(_is_count, offsets))):
        raise CheckpointError(f"{wrong} has the offsets {offsets!r:.60}, which are not two positions.")
    begin, end = offsets
    bits = math.prod(shape) * DTYPE_BITS[dtype]  # of 64 dimensions below 2**63: some hundred digits at most
    if bits != (end - begin) * 8:
        raise CheckpointError(
            f"{wrong} has {end - begin} bytes, but {dtype} {tuple(shape)!r:.100} takes {-(-bits // 8)}."
        )
    return TensorEntry(name, dtype, tuple(shape), path, data_start + begin, data_start + end)


def _check_offsets(path: Path, entries: list[TensorEntry], start: int, size: int) -> None:
    """Check that the tensors cover the rest of the file: no hole, no overlap, no byte missing or left."""
    position = start
    for entry in entries:
        if entry.start != position:
            problem = "overlaps the tensor before it" if entry.start < position else "leaves a hole before it"
            raise CheckpointError(f"{path}: tensor {entry.name!r:.100} {problem}; download the file again.")
        position = entry.end
    if position > size:
        raise CheckpointError(
            f"{path} is cut off: its tensors end at byte {position}, the file at {size}; download it again."
        )
    if position < size:
        raise CheckpointError(f"{path} has {size - position} bytes more than its header says; download the file again.")

"""How a checkpoint is laid out in files: the shards, their names and order, and the index."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from llmprune.artifacts.checkpoints.checkpoint import INDEX_NAME, SINGLE_NAME
from llmprune.artifacts.checkpoints.header import DTYPE_BITS
from llmprune.artifacts.files.atomic import write_json_atomic
from llmprune.artifacts.files.digests import FileDigest
from llmprune.errors import OutputExistsError

T = TypeVar("T")


def shard_names(count: int) -> list[str]:
    """The file names of ``count`` shards, as transformers gives them."""
    if count == 1:
        return [SINGLE_NAME]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def split_by_size(items: Iterable[T], *, nbytes: Callable[[T], int], max_bytes: int) -> list[list[T]]:
    """Cut ``items`` into runs of at most ``max_bytes``; an item larger than that is a run of its own.

    By hand, since huggingface_hub's splitting takes large items out of their order, in which the source is read once
    from front to back.
    """
    runs: list[list[T]] = []
    room = -1
    for item in items:
        if not runs or nbytes(item) > room:
            runs.append([])
            room = max_bytes
        runs[-1].append(item)
        room -= nbytes(item)
    return runs


def place_odd_last(items: Sequence[T], *, dtype: Callable[[T], str], nbytes: Callable[[T], int]) -> list[T]:
    """Order the tensors of a shard so that each begins at a multiple of its element size.

    Some readers map the file and cannot use a misaligned tensor, and the format allows no holes. Tensors of a
    multiple of 8 bytes, nearly all of them, keep their order; the odd ones come last, wide elements first.
    """
    even = [item for item in items if nbytes(item) % 8 == 0]
    odd = [item for item in items if nbytes(item) % 8]
    return even + sorted(odd, key=lambda item: -DTYPE_BITS[dtype(item)])


def refuse_existing_weights(directory: Path) -> None:
    """Refuse a folder that has weights already: they would be mixed with the new ones.

    Raises:
        OutputExistsError: it has.
    """
    names = sorted(path.name for path in directory.glob("model*.safetensors*"))
    if names:
        raise OutputExistsError(f"{directory} already holds {names[0]}; give another directory with `out`.")


def write_index(
    directory: Path, weight_map: Mapping[str, str], *, total_size: int, total_parameters: int
) -> FileDigest:
    """Write the index of a sharded checkpoint; returns what was written.

    Args:
        directory: the folder of the shards.
        weight_map: tensor name -> file name.
        total_size: bytes of all tensors.
        total_parameters: elements of all tensors.
    """
    metadata = {"total_parameters": total_parameters, "total_size": total_size}
    index = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
    return write_json_atomic(directory / INDEX_NAME, index)

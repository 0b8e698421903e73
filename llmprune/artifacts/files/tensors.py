"""Files of tensors that exist completely or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from llmprune.artifacts.files.atomic import sync
from llmprune.artifacts.files.temporary import temporary_directory


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write contiguous tensors on the CPU as the safetensors file ``path``, flushed to the disk.

    The library writes to a temporary name of its own beside the file. So it is given a temporary directory of ours.

    Args:
        path: the file.
        tensors: by name.
        metadata: the free text of its header.
    """
    with temporary_directory(path) as folder:
        written = folder / path.name
        save_file(dict(tensors), written, metadata)
        sync(written)
        written.replace(path)

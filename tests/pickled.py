"""Checkpoints whose weights are pickled, as much of what the Hub has from before 2023."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor


def pickle_weights(directory: Path, tensors: Mapping[str, Tensor], *, num_shards: int = 1) -> Path:
    """Put pickles into ``directory``, in place of safetensors files. Tensors that share memory share it in a file."""
    for path in directory.glob("model*.safetensors*"):
        path.unlink()
    if num_shards == 1:
        torch.save(dict(tensors), directory / "pytorch_model.bin")
        return directory
    names = list(tensors)
    weight_map = {}
    for number in range(num_shards):
        file = f"pytorch_model-{number + 1:05d}-of-{num_shards:05d}.bin"
        own = names[len(names) * number // num_shards : len(names) * (number + 1) // num_shards]
        torch.save({name: tensors[name] for name in own}, directory / file)
        weight_map |= dict.fromkeys(own, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return directory


class Code:
    """What runs a command when it is unpickled as any object may be: it makes the file ``mark``."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.mark}",)

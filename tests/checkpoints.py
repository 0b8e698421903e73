"""Checkpoint files as other software writes them, by safetensors' own writer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint, open_checkpoint


def save_shards(folder: Path, tensors: Mapping[str, Tensor], *, max_shard_bytes: int = 1 << 20) -> Checkpoint:
    """Write tensors into ``folder``, in files of at most so many bytes, with an index where there are several."""
    folder.mkdir(exist_ok=True)
    shards: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and sum(other.nbytes for other in shards[-1].values()) + tensor.nbytes > max_shard_bytes:
            shards.append({})
        shards[-1][name] = tensor.contiguous().clone()
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", {"format": "pt"})
        return open_checkpoint(folder)
    files = {f"model-{n:05d}-of-{len(shards):05d}.safetensors": shard for n, shard in enumerate(shards, start=1)}
    for file, shard in files.items():
        save_file(shard, folder / file, {"format": "pt"})
    weight_map = {name: file for file, shard in files.items() for name in shard}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return open_checkpoint(folder)

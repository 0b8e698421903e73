"""Reading all weights of a checkpoint once, from front to back, to tell what its files hold now."""

from __future__ import annotations

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint
from llmprune.artifacts.checkpoints.watching import PIECE, Watcher
from llmprune.artifacts.files.digests import FileDigest
from llmprune.artifacts.files.ranges import open_shards, read_into, read_range


def digest_weights(checkpoint: Checkpoint) -> dict[str, FileDigest]:
    """What every file of weights holds, by its path in the checkpoint. About 8 MiB of it are in memory.

    Raises:
        CheckpointError: a file can no longer be read, or became shorter.
    """
    digests: dict[str, FileDigest] = {}
    with Watcher() as watcher, open_shards(checkpoint.shards) as opened:
        for shard in checkpoint.shards:
            entries = [entry for entry in checkpoint.tensors.values() if entry.shard == shard]
            first = min((entry.start for entry in entries), default=shard.stat().st_size)
            watcher.add(read_range(opened[shard], 0, first))
            for entry in entries:
                for start in range(entry.start, entry.end, PIECE):
                    with watcher.piece(entry, min(PIECE, entry.end - start)) as piece:
                        read_into(opened[shard], start, piece.data)
            digests[shard.relative_to(checkpoint.directory).as_posix()] = watcher.file_done()
    return digests

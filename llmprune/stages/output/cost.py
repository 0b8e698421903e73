"""What the last steps of every stage that writes a checkpoint take: writing it, and seeing that it computes."""

from __future__ import annotations

from llmprune.models.belonging import beside_weights
from llmprune.models.compute import Compute
from llmprune.models.loading import LOADING_ROOM
from llmprune.stages.common.model_cost import ModelCost, ModelSizes
from llmprune.stages.common.plans import Estimate
from llmprune.stages.common.workspace import Workspace

_RECORDS = 10_000  # bytes of config, record and card, about
_WRITING = 2e-9  # seconds to write a byte, about
_COMPARED, _LOGITS = 128, 5  # tokens that are compared, and how often their logits are in memory
_GENERATED = 48  # forward passes of a few tokens to generate with and without the cache


def writing_step(workspace: Workspace, cost: ModelCost, nbytes: int, *, beside: int = 0) -> Estimate:
    """Write a checkpoint whose weights have ``nbytes``.

    Args:
        workspace: whose model's other files are carried along.
        cost: of that model.
        nbytes: bytes of the new weights.
        beside: bytes of files that are there only meanwhile.
    """
    directory = workspace.directory
    carried = sum((directory / path).stat().st_size for path in beside_weights(directory))
    headers = sum(shard.stat().st_size for shard in workspace.open_checkpoint().shards) - cost.sizes.stored
    headers = headers * nbytes // cost.sizes.stored
    written = nbytes + headers + carried + _RECORDS
    seconds = nbytes * (cost.read + _WRITING)
    return Estimate(
        "writing", disk=written + beside, kept=written, read=nbytes + carried, written=written, seconds=seconds
    )


def verification_steps(cost: ModelCost, made: ModelSizes, compute: Compute, *, verify: bool) -> list[Estimate]:
    """Compare the written checkpoint with its source, and load it whole if that fits.

    Args:
        cost: of the source.
        made: sizes of the new checkpoint.
        compute: tells what is free.
        verify: whether that is asked for at all.
    """
    if not verify:
        return []
    share = _COMPARED / (cost.seq_len * cost.batch)
    both = cost.open_block + made.outside + max(made.blocks)  # the written one's next block is not fetched meanwhile
    logits = _LOGITS * 4 * _COMPARED * cost.vocabulary
    memory = cost.memory(both + logits + int(share * cost.block_bytes))
    windows = _COMPARED / cost.seq_len
    seconds = 2 * windows * cost.times.through(made.depth) + 2 * made.stored * cost.opening
    steps = [Estimate("comparison", memory.host, memory.device, read=2 * made.stored, seconds=seconds)]
    if LOADING_ROOM * made.whole <= compute.free_bytes():
        steps.append(loading_step(cost, made, "loading it whole", tokens=_GENERATED))
    return steps


def loading_step(cost: ModelCost, made: ModelSizes, step: str, *, tokens: int) -> Estimate:
    """Load a model whole by plain transformers, and let it generate a little.

    Args:
        cost: of the model that it was made from.
        made: its sizes.
        step: its name.
        tokens: forward passes of a few tokens.
    """
    memory = cost.memory(cost.loading(made), loading=False)
    share = made.whole / cost.sizes.whole
    seconds = made.stored * cost.opening + tokens * cost.next_token() * share
    host = memory.host if cost.on_host else made.stored
    return Estimate(step, host, memory.device, read=made.stored, seconds=seconds)

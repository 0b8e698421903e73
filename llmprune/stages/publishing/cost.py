"""What ``push`` takes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from llmprune.models.compute import Compute
from llmprune.models.loading import open_decoder
from llmprune.publishing.contents import collect
from llmprune.publishing.history import patterns
from llmprune.stages.common.model_cost import measure
from llmprune.stages.common.plans import Estimate, Plan, plan_of
from llmprune.stages.publishing.stage import PushSettings, read_record, require_described

_SEQ_LEN = 16  # tokens that are run through the model, about
_HASHING = 1e-9  # seconds to hash or count a byte, about


def plan_push(directory: Path, settings: PushSettings, *, compute: Compute, trust_remote_code: bool = False) -> Plan:
    """What ``push`` is expected to take; the Hub is not asked.

    Raises:
        As ``push`` does, as far as the checkpoint's files tell.
    """
    record = read_record(directory)
    checkpoint = require_described(directory, record, trust_remote_code)
    opened = partial(
        open_decoder, directory, device=compute.device, dtype=compute.dtype, trust_remote_code=trust_remote_code
    )
    cost = measure(opened, compute, _SEQ_LEN)
    files, stored = collect(directory, checkpoint.shards), cost.sizes.stored
    size, share = sum(file.size for file in files), 1 / cost.batch
    memory = cost.memory(cost.open_block + int(share * max(cost.block_bytes, cost.head_bytes)))
    seconds = stored * cost.opening + cost.times.through(cost.sizes.depth)
    steps = [Estimate("loading block by block", memory.host, memory.device, read=stored, seconds=seconds)]
    if patterns(record):
        steps.append(Estimate("counting zeros", read=stored, seconds=stored * (cost.read + _HASHING)))
    steps.append(Estimate("hashing", read=size, seconds=size * (cost.read + _HASHING)))
    remarks = [f"{size / 1e9:.3g} GB would be sent, less what the Hub has; how long that takes is not estimated"]
    if not settings.dry_run:
        steps.append(Estimate("sending", read=size, seconds=None))
    return plan_of("push", cost, steps, remarks if not settings.dry_run else ())

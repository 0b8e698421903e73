"""The history of a pruned model: its record, and those of the models that it was made from."""

from __future__ import annotations

import re

from llmprune.artifacts.records.pruning import PruningRecord

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


def steps(record: PruningRecord) -> tuple[PruningRecord, ...]:
    """The records from the first pruning to this one."""
    earlier = steps(record.source_record) if record.source_record is not None else ()
    return (*earlier, record)


def removed_blocks(record: PruningRecord) -> tuple[int, ...]:
    """All removed blocks in ascending order, by their index in the model that the first step began with."""
    first = steps(record)[0].source
    left = list(range(first.num_blocks))
    for step in steps(record):
        if step.removal is not None:
            gone = {left[block] for block in step.removal.removed}
            left = [block for block in left if block not in gone]
    return tuple(sorted(set(range(first.num_blocks)) - set(left)))


def expert_counts(record: PruningRecord) -> tuple[int, int] | None:
    """Experts of a block before the first removal of experts, and now; None where none were removed."""
    steps_of_experts = [step.experts for step in steps(record) if step.experts is not None]
    return (steps_of_experts[0].before, steps_of_experts[-1].left) if steps_of_experts else None


def patterns(record: PruningRecord) -> tuple[str, ...]:
    """The patterns that weights were pruned to, step by step. For a mask: the pattern that it names, or ``unknown``."""
    sparse = (step for step in steps(record) if step.pruned_tensors)
    return tuple(step.pattern or "unknown" for step in sparse)


def base_on_hub(record: PruningRecord) -> str | None:
    """The Hub id of the nearest model in the history that came from the Hub; None: all were local."""
    names = (step.source.name.split("@")[0] for step in reversed(steps(record)))
    return next((name for name in names if _HUB_ID.fullmatch(name)), None)  # a local model's name is no path


def base_name(record: PruningRecord) -> str:
    """The name of the first model in the history, without owner and revision."""
    return steps(record)[0].source.own_name

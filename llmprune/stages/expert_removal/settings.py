"""The settings of ``remove-experts``, and how many experts a target means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmprune.algorithms.blocks.target import target_count
from llmprune.artifacts.checkpoints.copying import DEFAULT_SHARD_BYTES
from llmprune.choices import EXPERT_TARGET, ExpertMetric
from llmprune.errors import TargetError
from llmprune.models.expert_surgery import ExpertLayout

_BLOCK = re.compile(r"(?P<block>[0-9]{1,6}):(?P<experts>[0-9]{1,6}(,[0-9]{1,6})*)")
_MANY = 2**63  # experts: what is refused for so many is refused for any number


@dataclass(frozen=True)
class ExpertSettings:
    """Which experts to remove, and where to write the result.

    Attributes:
        target: ``25%``, ``0.25`` or ``2``: that many experts of every block that has experts.
        experts: for each of these blocks, these experts, by hand, instead of a target.
        metric: what makes an expert important.
        out: the new checkpoint's directory; None: in the run directory, named after what is kept.
        max_shard_bytes: largest weight file.
        verify: reload the result and compare it with the source whose router cannot choose the removed experts.
        force: replace an output directory that holds another checkpoint.

    Raises:
        TargetError: a target that no model could satisfy.
    """

    target: str = EXPERT_TARGET
    experts: Mapping[int, tuple[int, ...]] | None = None
    metric: ExpertMetric = ExpertMetric.REAP
    out: Path | None = None
    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    verify: bool = True
    force: bool = False

    def __post_init__(self) -> None:
        target_count(self.target, total=_MANY, noun="expert")


def parse_experts(typed: Iterable[str] | None) -> dict[int, tuple[int, ...]] | None:
    """Read ``3:0,5`` as experts 0 and 5 of block 3, for each block; nothing typed is None.

    Raises:
        TargetError: something else, or a block twice.
    """
    read: dict[int, tuple[int, ...]] = {}
    for text in typed or ():
        match = _BLOCK.fullmatch(text.strip())
        if match is None or int(match["block"]) in read:
            raise TargetError(f"'{text}' names no experts of another block; type for example `experts=3:0,5`.")
        read[int(match["block"])] = tuple(sorted({int(expert) for expert in match["experts"].split(",")}))
    return read or None


def count_to_remove(target: str, layout: ExpertLayout) -> int:
    """How many experts of each block a target removes.

    Raises:
        TargetError: none, or so many that the rest could not be routed to.
    """
    count = target_count(target, total=layout.count, noun="expert")
    require_routable(count, layout, called=f"A target of {target.strip()}")
    return count


def require_routable(count: int, layout: ExpertLayout, *, called: str) -> None:
    """See that a router can choose among the experts that are left when ``count`` of each block go.

    Raises:
        TargetError: it cannot; ``called`` is what the message calls the removal.
    """
    left, groups = layout.count - count, layout.groups
    if left < layout.per_token:
        raise TargetError(
            f"{called} leaves {max(left, 0)} of {layout.count} experts, and each token is sent to {layout.per_token}; "
            f"at most {layout.count - layout.per_token} can go."
        )
    if groups == 1:
        return
    if count % groups:
        raise TargetError(
            f"{called} removes {count} of {layout.count} experts, which are chosen from {groups} groups of equal size; "
            f"type a multiple of {groups}."
        )
    if left // groups < 2 or left // groups * layout.chosen_groups < layout.per_token:
        raise TargetError(
            f"{called} leaves {left // groups} experts in each of {groups} groups, of which {layout.chosen_groups} are "
            f"chosen first, and each token is sent to {layout.per_token} experts; lower the target."
        )


def check_experts(experts: Mapping[int, tuple[int, ...]], layout: ExpertLayout) -> None:
    """See that experts named by hand are as many of every block, of each group, and can go.

    Raises:
        TargetError: they are not.
    """
    if set(experts) != set(layout.blocks):
        raise TargetError(
            f"`experts` names blocks {_listed(experts)}, and the blocks with experts are {_listed(layout.blocks)}; a "
            "config knows one number of experts, so as many must go of each."
        )
    counts = {len(set(gone)) for gone in experts.values()}
    if len(counts) > 1 or 0 in counts:
        raise TargetError(
            f"`experts` names {_listed(counts)} experts a block; a config knows one number of experts, so as many must "
            "go of each block, and at least one."
        )
    for block, gone in experts.items():
        if outside := [expert for expert in gone if not 0 <= expert < layout.count]:
            raise TargetError(
                f"`experts` names expert {outside[0]} of block {block}, which has experts 0 to {layout.count - 1}."
            )
    require_routable(counts.pop(), layout, called="`experts`")
    size = layout.count // layout.groups
    for block, gone in experts.items():
        if len({sum(expert // size == group for expert in set(gone)) for group in range(layout.groups)}) > 1:
            raise TargetError(
                f"`experts` names other numbers of experts in the {layout.groups} groups of block {block}; as many "
                "must go of each."
            )


def _listed(numbers: object) -> str:
    return ", ".join(map(str, sorted(numbers))) or "none"  # type: ignore[call-overload]

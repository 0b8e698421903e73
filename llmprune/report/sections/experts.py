"""Which experts were removed, and what was measured of all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmprune.report.parts import Cell, Section, Table
from llmprune.report.wording import label_of

if TYPE_CHECKING:
    from llmprune.artifacts.records.expert_importance import ExpertImportance
    from llmprune.artifacts.records.pruning import ExpertRemoval
    from llmprune.report.contents import RunContents


def experts_section(contents: RunContents) -> Section:
    """The removed experts of every checkpoint that lacks some, and the importance of each expert."""
    lead, tables = [], []
    for one in contents.checkpoints:
        if (removal := one.record.experts) is not None:
            label = label_of(contents, one.name)
            lead.append(f"{label}: {_told(removal)}")
            tables.append(_removed_table(label, removal))
    if contents.experts is not None:
        lead.append(_measured(contents.experts))
        tables.append(_importance_table(contents.experts))
    return Section("experts", "Experts", tuple(lead), tables=tuple(tables))


def _told(removal: ExpertRemoval) -> str:
    chosen = f"by {removal.metric}, on {removal.calibration}" if removal.metric else "by hand"
    return (
        f"{removal.before - removal.left} of {removal.before} experts were removed from each of "
        f"{len(removal.removed)} blocks, chosen {chosen}."
    )


def _measured(known: ExpertImportance) -> str:
    return (
        "Importance of an expert (REAP): router weight times output norm, averaged over the tokens that it was sent. "
        f"Measured on {known.num_windows} windows of {known.seq_len} tokens of {known.corpus.described}, "
        f"in {known.dtype}."
    )


def _removed_table(label: str, removal: ExpertRemoval) -> Table:
    rows = tuple(
        (Cell(str(block), block), Cell(", ".join(map(str, gone)))) for block, gone in sorted(removal.removed.items())
    )
    return Table(f"Removed experts, by their index before: {label}", ("block", "experts"), rows)


def _importance_table(known: ExpertImportance) -> Table:
    rows = tuple(
        (
            Cell(str(one.block), one.block),
            Cell(str(expert), expert),
            Cell(f"{tokens:,}", tokens),
            Cell(f"{reap:.4g}", reap),
        )
        for one in known.blocks
        for expert, (tokens, reap) in enumerate(zip(one.tokens, one.reap, strict=True))
    )
    return Table("Every expert", ("block", "expert", "tokens", "importance"), rows, folded=True)

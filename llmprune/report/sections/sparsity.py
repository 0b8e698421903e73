"""Where the zeros are, and the error that they make in each block."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from llmprune.report.charts.search import Profile, draw_profiles
from llmprune.report.charts.sparsity import draw_sparsity
from llmprune.report.parts import Cell, Chart, Missing, Section, Table
from llmprune.report.wording import label_of

if TYPE_CHECKING:
    from llmprune.artifacts.records.pruning import PruningRecord
    from llmprune.artifacts.records.weight_sparsity import WeightSparsity
    from llmprune.artifacts.records.zeros_counted import SparsityReport
    from llmprune.report.contents import Checkpoint, RunContents

_IN_BLOCK = re.compile(r"\.(?P<block>\d+)\.(?P<kind>.+?)(\.weight)?$")


@dataclass(frozen=True)
class Matrix:
    """One pruned matrix of a checkpoint.

    Attributes:
        tensor: its name.
        block: its block's index in the checkpoint.
        kind: its path in the block.
        weights: number of its elements.
        zeros: number of elements that are zero.
        error: ||(W - T) X||^2 / ||T X||^2 when it was pruned; None: a mask was applied, and the error is not known.
    """

    tensor: str
    block: int
    kind: str
    weights: int
    zeros: int
    error: float | None


def sparsity_section(contents: RunContents) -> Section:
    """A heat map, an error profile and tables for every checkpoint whose weights were pruned."""
    title = "Where the zeros are"
    sparse = [one for one in contents.checkpoints if one.record.pruned_tensors]
    if not sparse:
        missing = Missing("No weights were pruned in this run.", "llmprune global-prune --sparsity 50%")
        return Section("sparsity", title, missing=(missing,))
    lead, charts, tables = [], [], []
    for number, one in enumerate(sparse, start=1):
        label, counted = label_of(contents, one.name), _counted(contents, one)
        lead.append(f"{label}: {_told(one.record)}{_told_of_files(counted)}")
        if matrices := list(_matrices(one.record, counted)):
            charts.append(_heat_map(label, matrices, one.record.num_blocks, counted=counted is not None, number=number))
            tables += [_kinds_table(label, matrices), _matrices_table(label, matrices)]
        if one.record.sparsity is not None:
            charts += _error_chart(label, one.record.sparsity, one.record.num_blocks, number)
    return Section("sparsity", title, tuple(lead), charts=tuple(charts), tables=tuple(tables))


def _counted(contents: RunContents, checkpoint: Checkpoint) -> SparsityReport | None:
    """The zeros that the newest benchmark of a checkpoint counted in its files."""
    reports = [one.result.model.sparsity for one in contents.measurements if one.result.model.name == checkpoint.name]
    return next((report for report in reversed(reports) if report is not None), None)


def _matrices(record: PruningRecord, counted: SparsityReport | None) -> Iterator[Matrix]:
    """All pruned matrices. Of a mask's matrices, only what was counted is known."""
    tensors = {tensor.name: tensor for tensor in counted.tensors} if counted else {}
    for block in record.sparsity.blocks if record.sparsity else ():
        for one in block.matrices:
            zeros = sum(tensors[name].zeros for name in one.tensors) if one.tensor in tensors else one.zeros
            found = _IN_BLOCK.search(one.tensor)
            place = int(found["block"]) if found else block.block
            yield Matrix(one.tensor, place, one.kind, one.numel, zeros, one.error)
    for name in record.masked.tensors if record.masked else ():
        if name in tensors and (found := _IN_BLOCK.search(name)):
            yield Matrix(name, int(found["block"]), found["kind"], tensors[name].parameters, tensors[name].zeros, None)


def _told(record: PruningRecord) -> str:
    """What was done, from the record."""
    if (sparsity := record.sparsity) is not None:
        settings = sparsity.settings
        return (
            f"{sparsity.zeros / sparsity.numel:.2%} of the {sparsity.numel:,} weights of its pruned matrices are zero "
            f"(before: {sparsity.zeros_before / sparsity.numel:.2%}); {settings.method}, {settings.pattern}, towards "
            f"the {settings.targets_from} model's activations, on {settings.windows} windows of {settings.seq_len} "
            f"tokens of {settings.text}, {settings.dtype}."
        )
    masked = record.masked
    assert masked is not None, "weights are pruned by a method or by a mask"
    return (
        f"{masked.zeros / masked.numel:.2%} of the {masked.numel:,} weights that the mask of {masked.mask} names are "
        f"zero (before: {masked.zeros_before / masked.numel:.2%})."
    )


def _told_of_files(counted: SparsityReport | None) -> str:
    """What was counted in the files."""
    if counted is None:
        return " No benchmark has counted the zeros in its files yet; type: llmprune bench"
    said = (
        f" Counted in the files: {counted.ratio:.2%} of all {counted.parameters:,} stored weights are zero, "
        f"{counted.zero_rows:,} rows and {counted.zero_columns:,} columns throughout."
    )
    if counted.pattern is None:
        return said
    kept = "holds in all" if not counted.violations else f"is broken in {counted.violations:,} of"
    return f"{said} The pattern {counted.pattern} {kept} {counted.groups:,} groups."


def _heat_map(label: str, matrices: list[Matrix], num_blocks: int, *, counted: bool, number: int) -> Chart:
    kinds = list(dict.fromkeys(one.kind for one in matrices))
    short = _short_names(kinds)
    shares = {(one.block, short[one.kind]): one.zeros / one.weights for one in matrices}
    source = "counted in the files by llmprune bench" if counted else "as its llmprune.json records them"
    return Chart(
        f"sparsity-{number}",
        f"Share of zeros by block and matrix: {label}",
        f"Zeros {source}. Matrices without a square were not pruned.",
        partial(draw_sparsity, shares, [short[kind] for kind in kinds], num_blocks),
    )


def _short_names(kinds: list[str]) -> dict[str, str]:
    """Last parts of the kinds' paths, unless two of them are alike."""
    last = {kind: kind.rsplit(".", 1)[-1] for kind in kinds}
    return last if len(set(last.values())) == len(kinds) else {kind: kind for kind in kinds}


def _error_chart(label: str, sparsity: WeightSparsity, num_blocks: int, number: int) -> list[Chart]:
    errors = {one.block: one.output_error for one in sparsity.blocks if one.output_error is not None}
    if not errors:
        return []
    profile = Profile("||pruned - dense||² / ||dense||²", errors)
    return [
        Chart(
            f"errors-{number}",
            f"Error of the hidden states against depth: {label}",
            "How far the hidden states that leave each block are from the dense model's, as a share of their energy, "
            "on the calibration windows.",
            partial(draw_profiles, [profile], (), max(num_blocks, *(block + 1 for block in errors))),
        )
    ]


def _kinds_table(label: str, matrices: list[Matrix]) -> Table:
    rows = []
    for kind in dict.fromkeys(one.kind for one in matrices):
        alike = [one for one in matrices if one.kind == kind]
        weights, zeros = sum(one.weights for one in alike), sum(one.zeros for one in alike)
        errors = [one.error for one in alike if one.error is not None]
        rows.append(
            (
                Cell(kind, code=True),
                Cell(str(len(alike)), len(alike)),
                Cell(f"{weights:,}", weights),
                Cell(f"{zeros / weights:.2%}", zeros / weights),
                _error_cell(sum(errors) / len(errors) if errors else None),
                _error_cell(max(errors, default=None)),
            )
        )
    columns = ("matrix", "blocks", "weights", "zeros", "mean error", "largest error")
    return Table(f"By kind of matrix: {label}", columns, tuple(rows))


def _error_cell(error: float | None) -> Cell:
    return Cell("") if error is None else Cell(f"{error:.4f}", error)


def _matrices_table(label: str, matrices: list[Matrix]) -> Table:
    rows = tuple(
        (
            Cell(str(one.block), one.block),
            Cell(one.kind, code=True),
            Cell(f"{one.weights:,}", one.weights),
            Cell(f"{one.zeros:,}", one.zeros),
            Cell(f"{one.zeros / one.weights:.2%}", one.zeros / one.weights),
            _error_cell(one.error),
        )
        for one in matrices
    )
    columns = ("block", "matrix", "weights", "zeros", "share", "error")
    return Table(f"Every matrix: {label}", columns, rows, folded=True)

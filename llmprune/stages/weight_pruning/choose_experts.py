"""Which experts of a block are pruned, and whether each is one problem: seen on one window."""

from __future__ import annotations

from collections import defaultdict

from llmprune.models.open_block import OpenBlock
from llmprune.models.open_experts import OpenExperts, block_experts
from llmprune.stages.weight_pruning.experts import ExpertsStep
from llmprune.stages.weight_pruning.selection import Selection
from llmprune.stages.weight_pruning.streams import Batch


def choose_experts(
    block: OpenBlock, window: Batch, selection: Selection, *, joint: bool
) -> tuple[dict[str, ExpertsStep], list[str]]:
    """What is done to a block's experts, by the path of their module, and remarks on what is done otherwise.

    Args:
        block: open, its weights dense.
        window: one window entering it.
        selection: which matrices.
        joint: solve each expert as one problem where it is of a known kind.
    """
    steps: dict[str, ExpertsStep] = {}
    remarks: list[str] = []
    for path, experts in block_experts(block).items():
        chosen = _chosen(experts, selection)
        if not chosen:
            continue
        routing = experts.routing(window.pruned, window.call)
        if routing is None or not experts.are_as_stored(routing):
            remarks.append(f"{path} computes its experts in an unknown way, and stays dense")
            continue
        wiring = experts.find_wiring(routing) if joint else None
        if joint and wiring is None:
            remarks.append(f"{path} has no known activation: its experts are pruned by SparseGPT, matrix by matrix")
        steps[path] = ExpertsStep(experts, chosen, wiring)
    return steps, remarks


def _chosen(experts: OpenExperts, selection: Selection) -> dict[int, frozenset[str]]:
    """For each expert that is to be pruned, the paths of the matrices to prune."""
    chosen: dict[int, set[str]] = defaultdict(set)
    for matrix in experts.experts.matrices:
        for expert, slot in enumerate(matrix.slots()):
            if selection.takes(slot):
                chosen[expert].add(matrix.path)
    return {expert: frozenset(paths) for expert, paths in sorted(chosen.items())}

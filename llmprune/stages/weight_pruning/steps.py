"""What is done to a block: which of its layers are pruned, in which order, and what holds of it, seen on one window.

A group is the layers that have the same input (query, key and value). An FFN whose wiring is known is one step, and so
are the experts of a module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from llmprune.choices import Part
from llmprune.models.block_linears import LinearSlot
from llmprune.models.ffn_wiring import FfnWiring
from llmprune.models.open_block import OpenBlock
from llmprune.models.shortcuts import Shortcut, find_shortcuts
from llmprune.stages.weight_pruning.choose_experts import choose_experts
from llmprune.stages.weight_pruning.experts import ExpertsStep
from llmprune.stages.weight_pruning.selection import Selection
from llmprune.stages.weight_pruning.streams import Batch

Step = tuple[str, ...] | FfnWiring | ExpertsStep


@dataclass(frozen=True)
class BlockSteps:
    """What is done to a block.

    Attributes:
        order: each is a group of layers with the same input, the FFN, or experts.
        slots: the layers to prune, by path.
        used: paths of all layers and experts, pruned or not, in order of use.
        shortcuts: ways past parts that are finished.
        remarks: what is done differently than asked for.
        adds: whether the FFN that is one step adds its output to the residual stream as it is.
        repairing: the layer before FFN and experts whose output alone is added to the block's input (the attention's
            output), as a group. It can also correct the error that the earlier blocks have left there. None: no layer.
    """

    order: tuple[Step, ...]
    slots: dict[str, LinearSlot]
    used: tuple[str, ...]
    shortcuts: tuple[Shortcut, ...]
    remarks: tuple[str, ...] = ()
    adds: bool = False
    repairing: tuple[str, ...] | None = None

    @property
    def pruned(self) -> tuple[str, ...]:
        """Paths of all layers and experts that are pruned."""
        return tuple(path for step in self.order for path in paths_of(step))


def paths_of(step: Step) -> tuple[str, ...]:
    """The layers, or the experts' module, that a step prunes."""
    if isinstance(step, ExpertsStep):
        return (step.path,)
    return (*step.inner, step.down) if isinstance(step, FfnWiring) else step


def choose_steps(
    block: OpenBlock, window: Batch, few: Batch, selection: Selection, *, joint: bool, dense: bool
) -> BlockSteps:
    """Watch one window pass through the block, and decide what is pruned together.

    Args:
        block: open, its weights dense.
        window: one window entering it, run where not every layer is used by its first tokens: which are at all.
        few: its first tokens: which layers are used, with which inputs, and what is computed of what.
        selection: which layers.
        joint: solve the FFN as one problem where it is of a known kind.
        dense: the dense model is the reference.
    """
    groups, ffn = block.groups(few.pruned, few.call)
    if not {path for group in groups for path in group} >= block.linears().keys() | block.experts().keys():
        groups, ffn = block.groups(window.pruned, window.call)
    experts, odd = choose_experts(block, window, selection, joint=joint)
    slots = {path: slot for path, slot in block.linears().items() if selection.takes(slot)}
    unused = [path for path in slots if not any(path in group for group in groups)]
    remarks = [f"{path} was used by no token, and stays dense" for path in unused]  # an expert, for example
    remarks += [f"{path} is no linear layer, and stays dense" for path in block.other_matrices()]
    remarks += [f"{path} is not stored as it is used, and stays dense" for path in block.merged()]
    remarks += [f"{path} is a router, and stays dense" for path in _dense_routers(block, selection)]
    remarks += odd
    slots = {path: slot for path, slot in slots.items() if path not in unused}
    why = _why_not_joint(ffn, slots) if joint else None
    remarks += [f"{why}: such an FFN is pruned by SparseGPT, matrix by matrix"] if why else []
    whole = ffn if joint and ffn is not None and ffn.down in slots and why is None else None
    order = tuple(_steps(groups, slots, whole, experts))
    used = tuple(path for group in groups for path in group)
    return BlockSteps(
        order=order,
        slots=slots,
        used=used,
        shortcuts=find_shortcuts(block, used, ffn, few.pruned, few.call),
        remarks=tuple(remarks),
        adds=dense and whole is not None and block.adds_ffn(whole, few.pruned, few.call),
        repairing=_repairing(block, order, few) if dense else None,
    )


def _dense_routers(block: OpenBlock, selection: Selection) -> list[str]:
    """Routers, where they were not asked for."""
    if Part.ROUTERS in selection.parts:
        return []
    return [path for path, slot in block.linears().items() if slot.part is Part.ROUTERS]


def _why_not_joint(ffn: FfnWiring | None, slots: dict[str, LinearSlot]) -> str | None:
    """Why an FFN cannot be one problem; None if it can, or if nothing of one is to be pruned."""
    if not any(slot.part is Part.FFN for slot in slots.values()):
        return None
    if ffn is None:
        return "No gated or plain feed-forward network of a known activation was seen in some block"
    missing = [path for path in (*ffn.inner, ffn.down) if path not in slots]
    return f"{', '.join(missing)} is to stay dense" if missing else None


def _steps(
    groups: Sequence[tuple[str, ...]],
    slots: dict[str, LinearSlot],
    ffn: FfnWiring | None,
    experts: Mapping[str, ExpertsStep],
) -> Iterator[Step]:
    joint = (*ffn.inner, ffn.down) if ffn is not None else ()
    for group in groups:
        if group[0] in experts:
            yield experts[group[0]]
        if alone := tuple(path for path in group if path in slots and path not in joint):
            yield alone
        if ffn is not None and ffn.down in group:
            yield ffn


def _repairing(block: OpenBlock, order: Sequence[Step], few: Batch) -> tuple[str, ...] | None:
    ffns: list[FfnWiring | None] = [step for step in order if isinstance(step, FfnWiring)]
    if not ffns and any(isinstance(step, ExpertsStep) for step in order):
        ffns = [None]
    alone = [step for step in order if isinstance(step, tuple) and len(step) == 1]
    found = (step for ffn in ffns for step in alone if block.adds_before_ffn(step[0], ffn, few.pruned, few.call))
    return next(found, None)

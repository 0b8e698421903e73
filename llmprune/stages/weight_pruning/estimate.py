"""What pruning takes, from shapes alone: memory, disk, bytes read and written, and what is computed.

Names: T tokens, and H, F and I as the block's shapes have them. What is kept of the tokens has the dtype that is
computed in, what is solved is float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NotRequired, TypedDict, Unpack

from llmprune.algorithms.weights.slabs import SLAB
from llmprune.choices import Method, Reference
from llmprune.models.compute import Compute
from llmprune.models.decoder import Decoder
from llmprune.models.open_block import block_matrices
from llmprune.stages.common.work import Work
from llmprune.stages.weight_pruning.block_shapes import BlockShapes
from llmprune.stages.weight_pruning.settings import PruningSettings
from llmprune.stages.weight_pruning.work import solve_work, token_work

MEMORY = 1 << 30  # bytes of activations that stay in memory on the CPU; of another device a quarter of what is free
_WIDE = 4  # bytes of a float32
_FIRST_USE = 48 << 20  # bytes that libraries take for themselves when they first compute
_TEMPORARIES = 8  # tensors (batch, F) of a pass over the tokens that live at one time
_SOLVED = 4  # matrices like a weight that live while it is solved: moments, target, columns or what is missing
_IN_SLABS = 6  # the same of what is worked out slab by slab, as the refit


@dataclass(frozen=True)
class PruningNeeds:
    """What pruning takes beside an open block and what its run on a batch takes.

    Attributes:
        memory: bytes at one time, at most, on the device that computes.
        kept: bytes of a block's activations among these, at most; the rest goes to files.
        lacking: bytes that are more than is free, or than a memory budget leaves.
        disk: bytes at one time, at most, beside the new checkpoint.
        read: bytes of hidden states and spilled tensors that are read.
        written: bytes of these and of finished weights that are written.
        work: what is computed, over all blocks.
    """

    memory: int
    kept: int
    lacking: int
    disk: int
    read: int
    written: int
    work: Work


def needs_of(
    decoder: Decoder,
    settings: PruningSettings,
    blocks: Sequence[int],
    *,
    windows: int,
    seq_len: int,
    compute: Compute,
) -> PruningNeeds:
    """What pruning takes beside the open decoder, from shapes alone; its weights need not be there.

    Args:
        decoder: the dense model, or its shell.
        settings: how to prune.
        blocks: to prune, by index.
        windows: calibration windows.
        seq_len: tokens in each.
        compute: how much goes through a block at once.
    """
    width = decoder.model.config.get_text_config().hidden_size
    matrices = (block_matrices(decoder, block) for block in blocks)
    shapes = [BlockShapes.of(slots, filter(settings.selection.takes, slots), width) for slots in matrices]
    largest = max(shapes, key=lambda one: one.weights)
    return fitted_needs(
        largest,
        settings,
        compute,
        beside=max(decoder.block_bytes(block) for block in blocks),
        tokens=windows * seq_len,
        seq_len=seq_len,
        batch=compute.batch_windows(seq_len) * seq_len,
        blocks=len(blocks),
        before=max(blocks) + 1 - len(blocks),
        itemsize=decoder.dtype.itemsize,
        stored=0 if decoder.keeps_changes else decoder.dtype.itemsize,
        spills_wide=compute.device.type == "cpu",
    )


def fitted_needs(
    shapes: BlockShapes, settings: PruningSettings, compute: Compute, *, beside: int, **shape: Unpack[Amounts]
) -> PruningNeeds:
    """What pruning takes within the memory that is free; see ``pruning_needs``.

    As many of a block's activations stay in memory as is left beside the matrices, up to a bound. 32 x 1024 tokens of
    SmolLM2 (width 576, FFN 1,536) take 0.95 GB in float32 and never leave memory where there is some; 128 x 2048 tokens
    of Llama-2-7B's width take 16 GB in bfloat16.

    Args:
        shapes: of a block.
        settings: how to prune.
        compute: tells what is free.
        beside: bytes of open blocks and of what their runs take.
        shape: the other arguments of ``pruning_needs``.
    """
    free = compute.free_bytes()
    bound = MEMORY if compute.device.type == "cpu" else free // 4
    least = pruning_needs(shapes, settings, memory=0, **shape).memory
    needs = pruning_needs(shapes, settings, memory=max(0, min(bound, free - least - beside)), **shape)
    return replace(needs, lacking=max(0, least + beside - free))


class Amounts(TypedDict):
    """Arguments of ``pruning_needs``, see there."""

    tokens: int
    seq_len: int
    batch: int
    blocks: int
    before: int
    itemsize: int
    stored: int
    spills_wide: bool
    processes: NotRequired[int]


def pruning_needs(
    shapes: BlockShapes,
    settings: PruningSettings,
    *,
    tokens: int,
    seq_len: int,
    batch: int,
    blocks: int,
    before: int,
    itemsize: int,
    stored: int,
    memory: int,
    spills_wide: bool,
    processes: int = 1,
) -> PruningNeeds:
    """What ``global-prune`` takes for blocks of these shapes.

    Args:
        shapes: of a block.
        settings: how to prune.
        tokens: of the calibration windows.
        seq_len: of one of them.
        batch: tokens that go through a block at once.
        blocks: how many are pruned.
        before: how many that stay dense the hidden states pass before the last of these.
        itemsize: bytes of a number in the dtype that is computed in.
        stored: the same of the finished weights that are written; 0: none are.
        memory: bytes of activations that stay in memory, at most.
        spills_wide: whether an FFN's activations go to a file (on the CPU).
        processes: that divide the solves, each of which has so many tokens.
    """
    joint = settings.method is Method.SPARSELLM and shapes.inner > 0
    dense = settings.reference is Reference.DENSE
    one = itemsize * tokens * shapes.width  # the states of one model at one block
    sides = 2 if dense else 1
    kept = itemsize * tokens * _kept_numbers(shapes, joint=joint, dense=dense, rounds=settings.rounds)
    wide = 0 if joint or not spills_wide else itemsize * tokens * shapes.hidden
    spilled = max(0, kept - memory)
    finished = stored * shapes.weights * blocks
    passes = 2 * settings.rounds + 2 if joint else 1
    each = token_work(shapes, settings, seq_len, joint=joint, dense=dense)
    solves = solve_work(shapes, settings, joint=joint, dense=dense)
    return PruningNeeds(
        memory=_FIRST_USE
        + min(kept, memory)
        + max(
            _solve_bytes(shapes, joint=joint, dense=dense, processes=processes),
            _pass_bytes(shapes, joint=joint, dense=dense) + _TEMPORARIES * _WIDE * batch * shapes.hidden,
        )
        + (max(itemsize, stored) + 1) * shapes.weights * (2 if joint else 1),  # the best round's and the current one's
        kept=memory,
        lacking=0,
        disk=max(_pruning_files(blocks, dense) * one + spilled + wide, _most_files(blocks, before, dense) * one)
        + finished,
        read=sides * one * (4 * blocks + before) + (passes * spilled + wide) * blocks,
        written=sides * one * (blocks + before) + (passes // 2 * spilled + spilled + wide) * blocks + finished,
        work=each.times(blocks * tokens)
        + solves.times(blocks / processes)
        + Work(narrow=before * tokens * shapes.forward(seq_len)),
    )


def _pruning_files(blocks: int, dense: bool) -> int:
    """Files of hidden states that are there while a block is pruned: entering it, and the dense ones leaving it."""
    return min(blocks + 1, 3) if dense else 1


def _most_files(blocks: int, before: int, dense: bool) -> int:
    """The same when the states leaving a block are written."""
    return min(blocks + 1, 4) if dense else min(blocks + before, 2)


def _kept_numbers(shapes: BlockShapes, *, joint: bool, dense: bool, rounds: int) -> int:
    """Numbers that are kept of a token at one time, at most, but for those of ``spills_wide``."""
    attention = 2 * shapes.heads if dense else shapes.heads  # what its last projection is given, in both models
    first = shapes.width if dense else 0  # what the dense model gives the block's first layers
    if joint:
        own = shapes.inner if rounds > 1 else 0  # what the pruned inner matrices give
        rounds_of_ffn = 3 * shapes.width + shapes.inner + own  # X, Y, the attention's output, z and s
        return max(rounds_of_ffn, first + attention + shapes.width + shapes.inner if dense else 0)
    return first + attention + (shapes.width + shapes.hidden if dense and shapes.inner else 0)


def _solve_bytes(shapes: BlockShapes, *, joint: bool, dense: bool, processes: int) -> int:
    """A matrix is solved: Gram matrix, factors and moments of its inputs, and the weights on their way."""
    largest = max(rows * columns for rows, columns in shapes.matrices)
    others = shapes.width if joint else shapes.widest  # inputs of matrices that are pruned by themselves
    factors = 1 if processes == 1 else 3
    squares = max((1 + factors) * shapes.widest**2, (1 + factors + dense) * max(others, shapes.heads) ** 2)
    return _WIDE * (squares + _SOLVED * largest + _IN_SLABS * min(SLAB, largest))


def _pass_bytes(shapes: BlockShapes, *, joint: bool, dense: bool) -> int:
    """The tokens pass: what is summed up of them, and the gain of the problem of p."""
    if not joint:
        return _WIDE * (1 + dense) * shapes.widest**2
    down, inner = shapes.width * shapes.hidden, shapes.inner * shapes.width
    return _WIDE * max(shapes.hidden**2 + 2 * down, (0 if dense else shapes.hidden**2) + inner + 2 * down)

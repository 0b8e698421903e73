"""SLEB's search over a decoder's blocks, round by round; what is kept of it is the caller's."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from llmprune.algorithms.blocks.chunks import chunks
from llmprune.algorithms.blocks.elimination import EliminationRule
from llmprune.algorithms.blocks.evaluator import Measure
from llmprune.algorithms.blocks.forks import Healer
from llmprune.algorithms.blocks.search import Round, greedy_rounds, losses_without
from llmprune.artifacts.records.importance import CandidateRecord, RoundRecord
from llmprune.models.compute import Compute
from llmprune.models.decoder import Decoder
from llmprune.stages.block_search.cost import Division, SearchCost, divide_memory, measure_window_cost
from llmprune.stages.block_search.evaluator import WindowEvaluator
from llmprune.stages.block_search.healer import CutHealer
from llmprune.stages.block_search.removable import Removable
from llmprune.stages.block_search.settings import RedundancySettings, protected_blocks, solving_windows
from llmprune.stages.common.progress import Progress


def shuffled_windows(num_windows: int, settings: RedundancySettings, *, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the windows that corrections are solved on, and of those that candidates are measured on, in order.

    Raises:
        TargetError: too few for a search with healing.
    """
    order = torch.randperm(num_windows, generator=torch.Generator().manual_seed(seed))
    cut = solving_windows(num_windows, settings)
    return order[:cut], order[cut:]


def window_evaluator(
    decoder: Decoder,
    tokens: Tensor,
    settings: RedundancySettings,
    *,
    seed: int,
    masked: frozenset[str] | None,
    compute: Compute,
    progress: Progress,
    scratch: Path | None = None,
) -> WindowEvaluator:
    """The calibration windows in shuffled order, in chunks that fit into memory.

    Args:
        decoder: the model; its blocks are kept in memory if there is room.
        tokens: (num_windows, seq_len) int64.
        settings: of the search.
        seed: of the order.
        masked: names of the tensors whose zeros healing leaves zeros; None: all.
        compute: where, and how much goes through a block at once.
        progress: who listens.
        scratch: folder for states that memory has no room for; None: that of temporary files.
    """
    solved_on, measured = (tokens[part] for part in shuffled_windows(len(tokens), settings, seed=seed))
    batch = settings.batch_size or compute.batch_windows(tokens.shape[1])
    division = _divide_memory(decoder, solved_on, measured, settings, compute, progress)
    healer = None
    if settings.heal:
        healer = CutHealer(
            decoder,
            solved_on,
            batch=batch,
            masked=masked,
            say=progress.say,
            ranks=compute.ranks,
            state_bytes=division.beside,
            scratch=scratch,
        )
    return WindowEvaluator(
        decoder,
        measured,
        batch_size=batch,
        chunk_windows=settings.chunk_windows,
        state_bytes=division.states,
        scratch=scratch,
        healer=healer,
    )


def _divide_memory(
    decoder: Decoder,
    solved_on: Tensor,
    measured: Tensor,
    settings: RedundancySettings,
    compute: Compute,
    progress: Progress,
) -> Division:
    """Keep blocks in memory if all fit beside the states, or if there is memory that states have no use for."""
    sizes = [decoder.block_bytes(block) for block in range(len(decoder.blocks))]
    window = decoder.runner.embed(measured[:1].to(decoder.device)).nbytes
    division = divide_memory(sizes, window, len(measured), settings, solved_on=len(solved_on), compute=compute)
    decoder.keep(device=division.device, host=division.host)
    if decoder.pass_seconds:
        progress.say("The blocks do not fit into memory: those that do not are read from disk in every pass over them.")
    return division


def dense_loss(evaluator: WindowEvaluator) -> float:
    """Mean loss with no block skipped, in nats/token."""
    loss, tokens = 0.0, 0
    for windows in chunks(evaluator, 0, evaluator.num_windows, states=1):
        states = evaluator.entering(windows)[None].clone()
        for block in range(evaluator.num_blocks):
            evaluator.apply_block(block, states, windows)
        found = evaluator.losses(states, windows)
        loss, tokens = loss + float(found.sums.sum()), tokens + found.tokens * len(windows)
    return loss / tokens


def search_rounds(
    evaluator: WindowEvaluator,
    settings: RedundancySettings,
    *,
    count: int,
    removed: Sequence[int] = (),
    removable: Removable,
    progress: Progress,
    measure: Measure | None = None,
    healer: Healer | None = None,
) -> Iterator[RoundRecord]:
    """Decide which blocks go, one at a time.

    Args:
        evaluator: model and calibration windows.
        settings: of the search.
        count: blocks to remove in all, those in ``removed`` included.
        removed: that an earlier search has removed, in order.
        removable: which blocks may go.
        progress: who listens.
        measure: has candidates measured; None: by the evaluator alone.
        healer: has them healed; None: the evaluator's own, if it has one.

    Yields:
        Each round as it is decided.

    Raises:
        NumericalError: a loss is not a number.
        TargetError: no block may go before ``count`` have.
    """
    cost = SearchCost(
        remaining=tuple(block for block in range(evaluator.num_blocks) if block not in removed),
        protected=protected_blocks(settings, evaluator.num_blocks),
        rounds=count - len(removed),
        windows=evaluator.num_windows,
        solved_on=evaluator.healer.num_windows if evaluator.healer is not None else 0,
        eliminates=settings.eliminates,
        fitting=evaluator.fitting,
    )
    progress.say(cost.announcement(measure_window_cost(evaluator)))
    if removed and evaluator.healer is not None:
        progress.say(f"The corrections for the {len(removed)} blocks that an earlier search removed are solved again.")
    with progress.task("Searching", cost.steps) as advance:
        yield from _timed(
            greedy_rounds(
                evaluator,
                count=count,
                removed=removed,
                protected=cost.protected,
                may_go=removable.may_go,
                rule=EliminationRule(settings.error_rate) if settings.eliminates else None,
                healer=healer or evaluator.healer,
                measure=measure or partial(losses_without, evaluator, stack=evaluator.stack),
                on_chunk=lambda done: advance(cost.step(done)),
            )
        )


def _timed(rounds: Iterator[Round]) -> Iterator[RoundRecord]:
    """Each round as it is recorded, with the wall time that it took to decide."""
    while True:
        started = time.monotonic()
        decided = next(rounds, None)
        if decided is None:
            return
        yield RoundRecord(
            removed=decided.removed,
            loss=decided.loss,
            candidates=tuple(CandidateRecord(**asdict(candidate)) for candidate in decided.candidates),
            block_forwards=decided.block_forwards,
            naive_block_forwards=decided.naive_block_forwards,
            seconds=time.monotonic() - started,
        )

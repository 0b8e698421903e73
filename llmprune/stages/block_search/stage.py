"""``llmprune verify-redundancy``: which blocks are redundant, decided by measurement or by a one-shot score."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch

from llmprune.algorithms.blocks.elimination import EliminationRule
from llmprune.algorithms.blocks.scores import closest_run, least_influential
from llmprune.algorithms.blocks.search import Round, greedy_rounds
from llmprune.algorithms.blocks.target import removal_count
from llmprune.artifacts.activations import Calibration, CalibrationManifest, open_calibration
from llmprune.artifacts.records.importance import (
    CandidateRecord,
    Importance,
    RoundRecord,
    SearchSettings,
)
from llmprune.choices import ERROR_RATE, PROTECT_FIRST, PROTECT_LAST, TARGET, Metric, Search
from llmprune.errors import ArtifactError, TargetError
from llmprune.models.compute import dtype_name
from llmprune.models.loading import Decoder
from llmprune.stages.block_search.cost import SearchCost, chunk_windows, measure_window_cost
from llmprune.stages.block_search.evaluator import WindowEvaluator
from llmprune.stages.calibration import CalibrationSettings, calibrate, require_same_model
from llmprune.stages.common.checks import require_at_least, require_target
from llmprune.stages.common.workspace import Workspace


@dataclass(frozen=True)
class RedundancySettings:
    """What to search for, and how.

    Attributes:
        target: blocks to remove: ``20%``, ``0.2`` or ``6``.
        metric: ``sleb``, ``block-influence`` or ``angular``.
        search: ``eliminate`` drops hopeless candidates early; ``exhaustive`` measures all on every window.
        protect_first: blocks at the start that stay.
        protect_last: blocks at the end that stay.
        error_rate: of one early-elimination comparison.
        chunk_windows: windows that go through the model together; None: from a memory budget.
        batch_size: windows in one forward pass of a block; None: what keeps the device busy.

    Raises:
        TargetError: a target or number that no model could satisfy.
    """

    target: str = TARGET
    metric: Metric = Metric.SLEB
    search: Search = Search.ELIMINATE
    protect_first: int = PROTECT_FIRST
    protect_last: int = PROTECT_LAST
    error_rate: float = ERROR_RATE
    chunk_windows: int | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        require_target(self.target)
        require_at_least(0, protect_first=self.protect_first, protect_last=self.protect_last)
        require_at_least(1, chunk_windows=self.chunk_windows, batch_size=self.batch_size)
        if not 0 < self.error_rate < 0.5:
            raise TargetError(
                f"--error-rate {self.error_rate} is not between 0 and 0.5; type for example --error-rate 1e-3."
            )


def verify_redundancy(
    workspace: Workspace,
    settings: RedundancySettings,
    *,
    on_round: Callable[[RoundRecord], None] = lambda _: None,
    force: bool = False,
) -> Importance:
    """Rank the blocks that a target removes, going on from an earlier or interrupted search.

    Runs ``calibrate`` with its defaults first where the run has no calibration.

    Args:
        workspace: run directory and model.
        settings: what to search for.
        on_round: called after every decided round, once it is on disk.
        force: start anew where the run holds a search made with other settings.

    Returns:
        The importance artifact as written.

    Raises:
        TargetError: the target or another option is out of range.
        ArtifactError: calibration or importance file of another model, or made with other settings.
    """
    count = removal_count(
        settings.target,
        num_blocks=workspace.model.num_blocks,
        protect_first=settings.protect_first,
        protect_last=settings.protect_last,
    )
    calibration = _calibration(workspace)
    known = _known(workspace, calibration.manifest, settings, force=force)
    if known is not None and known.has_best(count):
        workspace.progress.say(f"{workspace.run.importance} already ranks {len(known.order)} blocks: nothing to do.")
        return known
    with workspace.writing():
        if settings.metric == Metric.SLEB:
            return _search(workspace, calibration, settings, count, known, on_round)
        return _score(workspace, calibration.manifest, settings, count)


def _calibration(workspace: Workspace) -> Calibration:
    place = workspace.run.calibration
    if not place.exists():
        workspace.progress.say(
            f"{workspace.run.path} has no calibration yet: running calibrate with its defaults first."
        )
        return calibrate(workspace, CalibrationSettings())
    calibration = open_calibration(place)
    require_same_model(workspace, calibration)
    return calibration


def _known(
    workspace: Workspace, calibration: CalibrationManifest, settings: RedundancySettings, *, force: bool
) -> Importance | None:
    """The run's importance file, if it is one that this search can go on from."""
    path = workspace.run.importance
    if not path.exists() or force:
        return None
    known = Importance.read(path)
    known.check_belongs(workspace.model, path)
    same_text = known.windows_fingerprint == calibration.windows_fingerprint
    if not same_text or known.settings != _recorded(settings, known.settings.dtype):
        raise ArtifactError(
            f"{path} holds a search made with other settings or another calibration "
            f"({known.settings.metric}, {known.settings.search or 'one-shot'}, {known.num_windows} x {known.seq_len} "
            f"tokens of {known.corpus.name}); type --force to start anew, or --run OTHER to keep both."
        )
    return known


def _recorded(settings: RedundancySettings, dtype: str) -> SearchSettings:
    searched = settings.metric == Metric.SLEB
    eliminates = searched and settings.search == Search.ELIMINATE
    return SearchSettings(
        metric=settings.metric,
        search=settings.search if searched else None,
        protect_first=settings.protect_first,
        protect_last=settings.protect_last,
        error_rate=settings.error_rate if eliminates else None,
        min_segments=EliminationRule().min_segments if eliminates else None,
        dtype=dtype,
    )


def _importance(
    workspace: Workspace,
    calibration: CalibrationManifest,
    settings: RedundancySettings,
    dtype: str,
    *,
    scores: tuple[float, ...] | None = None,
    order: tuple[int, ...] = (),
) -> Importance:
    return Importance(
        model=workspace.model,
        corpus=calibration.corpus,
        windows_fingerprint=calibration.windows_fingerprint,
        num_windows=calibration.num_windows,
        seq_len=calibration.seq_len,
        settings=_recorded(settings, dtype),
        dense_loss=calibration.dense_loss,
        scores=scores,
        order=order,
    )


def _protected(settings: RedundancySettings, num_blocks: int) -> frozenset[int]:
    ends = (*range(settings.protect_first), *range(num_blocks - settings.protect_last, num_blocks))
    return frozenset(ends)


def _score(
    workspace: Workspace, calibration: CalibrationManifest, settings: RedundancySettings, count: int
) -> Importance:
    """Rank by a one-shot score, which the calibration has measured already."""
    protected = _protected(settings, workspace.model.num_blocks)
    if settings.metric == Metric.BLOCK_INFLUENCE:
        scores = [block.influence for block in calibration.blocks]
        order = least_influential(scores, count=count, protected=protected)
    else:
        scores = [calibration.angular_distances[block][block + 1] for block in range(len(calibration.blocks))]
        order = closest_run(calibration.angular_distances, count=count, protected=protected)
    importance = _importance(
        workspace, calibration, settings, calibration.dtype, scores=tuple(scores), order=tuple(order)
    )
    importance.write(workspace.run.importance)
    return importance


def _search(
    workspace: Workspace,
    calibration: Calibration,
    settings: RedundancySettings,
    count: int,
    known: Importance | None,
    on_round: Callable[[RoundRecord], None],
) -> Importance:
    """SLEB's search, saved after every round."""
    if known is not None:
        workspace = workspace.going_on(workspace.run.importance, known.settings.dtype)
    else:
        workspace = workspace.going_on(calibration.directory, calibration.manifest.dtype)
    workspace.remark_slow_dtype()
    decoder = workspace.open_decoder()
    importance = known or _importance(workspace, calibration.manifest, settings, dtype_name(decoder.dtype))
    _require_same_dtype(importance, decoder, workspace)
    evaluator = _evaluator(decoder, calibration, settings, workspace)
    cost = SearchCost(
        remaining=tuple(block for block in range(len(decoder.blocks)) if block not in importance.order),
        protected=_protected(settings, len(decoder.blocks)),
        rounds=count - len(importance.order),
        chunks=evaluator.num_chunks,
        windows=calibration.manifest.num_windows,
        eliminates=settings.search == Search.ELIMINATE,
    )
    workspace.progress.say(cost.announcement(measure_window_cost(evaluator)))
    with workspace.progress.task("Searching", cost.steps) as advance:
        rounds = greedy_rounds(
            evaluator,
            count=count,
            removed=importance.order,
            protected=cost.protected,
            rule=EliminationRule(settings.error_rate) if cost.eliminates else None,
            on_chunk=lambda done: advance(cost.step(done)),
        )
        for decided in _timed(rounds):
            importance = importance.model_copy(
                update={
                    "rounds": (*importance.rounds, decided),
                    "order": (*importance.order, decided.removed),
                }
            )
            importance.write(workspace.run.importance)
            on_round(decided)
    return importance


def _require_same_dtype(importance: Importance, decoder: Decoder, workspace: Workspace) -> None:
    if importance.settings.dtype != dtype_name(decoder.dtype):
        raise ArtifactError(
            f"{workspace.run.importance} was searched in {importance.settings.dtype}, and this search would go on in "
            f"{dtype_name(decoder.dtype)}; type --dtype {importance.settings.dtype}, or --force to start anew."
        )


def _evaluator(
    decoder: Decoder, calibration: Calibration, settings: RedundancySettings, workspace: Workspace
) -> WindowEvaluator:
    """The calibration windows in shuffled order, in chunks that fit into memory."""
    tokens = calibration.tokens()
    generator = torch.Generator().manual_seed(calibration.manifest.seed or 0)
    tokens = tokens[torch.randperm(len(tokens), generator=generator)]
    compute = workspace.compute
    eliminates = settings.metric == Metric.SLEB and settings.search == Search.ELIMINATE
    blocks_bytes = sum(decoder.block_bytes(block) for block in range(len(decoder.blocks)))
    if blocks_bytes < compute.free_bytes() // 2:
        decoder.keep_resident()
    else:
        workspace.progress.say("The blocks do not fit into memory: each is read from disk whenever it is run.")
    return WindowEvaluator(
        decoder,
        tokens,
        chunk_windows=settings.chunk_windows or chunk_windows(decoder, tokens, compute, eliminates=eliminates),
        batch_size=settings.batch_size or max(1, compute.batch_tokens // tokens.shape[1]),
    )


def _timed(rounds: Iterator[Round]) -> Iterator[RoundRecord]:
    """Each round as it is recorded, with its wall time."""
    started = time.monotonic()
    for decided in rounds:
        yield RoundRecord(
            removed=decided.removed,
            loss=decided.loss,
            candidates=tuple(CandidateRecord(**asdict(candidate)) for candidate in decided.candidates),
            block_forwards=decided.block_forwards,
            naive_block_forwards=decided.naive_block_forwards,
            seconds=time.monotonic() - started,
        )
        started = time.monotonic()

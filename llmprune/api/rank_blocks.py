"""Ranking the blocks of a model, a round at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from llmprune.algorithms import Candidate
from llmprune.api.choice import choice
from llmprune.api.models import Model, OnDisk
from llmprune.api.progress import Logged
from llmprune.api.ranking import Ground, Ranking, Round, Target, count_blocks
from llmprune.api.windows import Windows, as_windows, required
from llmprune.artifacts.records.importance import Importance, RoundRecord, measured_on
from llmprune.artifacts.records.pruning import zeroed_tensors
from llmprune.choices import DEVICE, ERROR_RATE, PROTECT_FIRST, PROTECT_LAST, Dtype, Metric, Search
from llmprune.errors import TargetError
from llmprune.models.compute import Compute
from llmprune.models.decoder import Decoder
from llmprune.models.removability import RemovalCheck, check_of
from llmprune.models.resident import model_decoder
from llmprune.models.source import positions, vocabulary
from llmprune.stages.block_search import (
    RedundancySettings,
    Removable,
    dense_loss,
    open_check,
    order_blocks,
    score_blocks,
    search_rounds,
    search_steps,
    solving_windows,
    verify_redundancy,
    window_evaluator,
)
from llmprune.stages.calibration import calibrate_on, measure_dense
from llmprune.stages.common.checks import require_positions, require_vocabulary
from llmprune.stages.common.progress import Progress
from llmprune.stages.common.workspace import Workspace
from llmprune.text.windows import TokenWindows


def rank_blocks(
    model: Model,
    windows: Windows | None = None,
    *,
    target: Target | None = None,
    metric: str = Metric.SLEB,
    search: str = Search.ELIMINATE,
    protect_first: int = PROTECT_FIRST,
    protect_last: int = PROTECT_LAST,
    error_rate: float = ERROR_RATE,
    heal: bool = False,
    seed: int | None = None,
    run: Path | str | None = None,
    device: str = DEVICE,
    dtype: str = Dtype.AUTO,
    memory_budget: str | None = None,
    trust_remote_code: bool = False,
    check: bool = True,
    progress: Progress | None = None,
) -> Ranking:
    """Rank the blocks of a model by how little it loses without them, one round for each step of an iteration.

    SLEB (arXiv 2402.09025, algorithm 1): skip each block in turn, let the one go whose absence raises the loss least,
    and measure all others again. Nothing is computed before the first step. A model in memory is left as it is.

    Args:
        model: in memory, or its path or Hub id; one on disk need not fit into memory.
        windows: from ``calibration_windows``, or tokens (windows, seq_len); None: those of ``run``.
        target: where the iteration ends, such as ``"20%"`` or ``6``; None: when one unprotected block is left.
        metric: ``sleb``, or a score that one pass measures: ``block-influence``, or ``angular``, which ranks one run
            of as many blocks as ``target`` says.
        search: ``eliminate`` drops hopeless candidates early; ``exhaustive`` measures all on every window.
        protect_first: blocks at the start that stay.
        protect_last: blocks at the end that stay.
        error_rate: chance, in one round, of dropping early the block that exhaustive would remove.
        heal: measure each candidate with the block before it healed by least squares for its absence, on half of the
            windows (at most 32), and measure on the others; the healed model goes into the next round.
        seed: of the order in which windows are visited; None: that of the windows.
        run: for a model on disk, a run directory in which every round is kept: what it holds of this search already is
            not decided again.
        device: for a model on disk, ``auto``, ``cpu`` or ``cuda``.
        dtype: for a model on disk, what to compute in: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        memory_budget: for a model on disk, the most memory to use: ``"12GB"``, or ``"12GB,48GB"`` of a GPU and of the
            host; None: what is free, less a margin. No number depends on it.
        trust_remote_code: whether the checkpoint's own Python files may run.
        check: whether to see first that a checkpoint of llmprune is as it was written, by the digests in its record.
        progress: who hears remarks; None: the logger ``llmprune``.

    Raises:
        TargetError: an argument out of range.
        ModelError: no such model, or not a causal LM.
        CheckpointError: its weights are not whole.
        ArtifactError: the run belongs to another model, or holds another search.

    Example:
        >>> ranking = rank_blocks(model, windows)
        >>> for decided in ranking:
        ...     print(decided)
        ...     if decided.loss > 1.1 * ranking.dense_loss:
        ...         break
    """
    asked = RedundancySettings(
        "1",
        choice(Metric, metric=metric),
        choice(Search, search=search),
        protect_first,
        protect_last,
        error_rate,
        heal=heal,
    )
    place = OnDisk(run, device, dtype, trust_remote_code, progress or Logged(), check, memory_budget)
    if isinstance(model, str | Path):
        return _ranked_on_disk(model, windows, asked, target, seed, place)
    place.refuse()
    text = as_windows(required(windows))
    require_positions(positions(model.config), seq_len=text.seq_len)
    require_vocabulary(vocabulary(model.config), text.tokens)
    decoder = model_decoder(model)
    settings = _up_to(target, asked, len(decoder.blocks))
    removability = partial(check_of, decoder.model)
    steps = _steps(decoder, removability, text, settings, seed, None, Compute(decoder.device), place.progress)
    return Ranking(settings, steps, num_blocks=len(decoder.blocks))


def ranking_of(path: Path) -> Ranking:
    """A ranking that was made before; nothing can be decided further.

    Raises:
        ArtifactError: the importance file cannot be read.
    """
    importance = Importance.read(path)
    known = importance.settings
    settings = RedundancySettings(
        target=str(len(importance.order)),
        metric=known.metric,
        protect_first=known.protect_first,
        protect_last=known.protect_last,
        heal=known.heal is not None,
    )
    steps = [(_ground(importance, path), decided) for decided in _recorded_rounds(importance)]
    ranking = Ranking(settings, iter(steps), num_blocks=importance.model.num_blocks)
    ranking.first(settings.target)
    return ranking


def _ranked_on_disk(
    model: str | Path,
    windows: Windows | None,
    asked: RedundancySettings,
    target: Target | None,
    seed: int | None,
    place: OnDisk,
) -> Ranking:
    with ExitStack() as opened:
        workspace = opened.enter_context(place.workspace(model))
        settings = _up_to(target, asked, workspace.model.num_blocks)
        text = None if windows is None and place.run is not None else as_windows(required(windows))
        if text is not None:
            require_positions(workspace.positions, seq_len=text.seq_len)
            require_vocabulary(workspace.vocabulary, text.tokens)
        if place.run is not None:
            if seed is not None:
                raise TargetError("The order of a search in a run is that of its calibration; leave out `seed`.")
            steps = _kept_steps(workspace, text, settings)
        else:
            assert text is not None
            decoder, check = workspace.open_decoder(), partial(open_check, workspace)
            masked = zeroed_tensors(workspace.directory)
            steps = _steps(decoder, check, text, settings, seed, masked, workspace.compute, place.progress)
        return Ranking(
            settings,
            steps,
            num_blocks=workspace.model.num_blocks,
            resources=opened.pop_all(),
        )


def _up_to(target: Target | None, asked: RedundancySettings, num_blocks: int) -> RedundancySettings:
    """The settings with the target as a number of blocks, of a model of so many."""
    if target is None and asked.metric == Metric.ANGULAR:
        raise TargetError("The angular distance ranks a run of blocks, whose length must be given: `target=6`.")
    most = max(1, num_blocks - asked.protect_first - asked.protect_last - 1)
    return replace(asked, target=str(count_blocks(most if target is None else target, asked, num_blocks)))


def _steps(
    decoder: Decoder,
    check: Callable[[], RemovalCheck],
    windows: TokenWindows,
    settings: RedundancySettings,
    seed: int | None,
    masked: frozenset[str] | None,
    compute: Compute,
    progress: Progress,
) -> Iterator[tuple[Ground, Round]]:
    """A round for every step, and what the ranking stands on; nothing is kept."""
    count = int(settings.target)
    removable = Removable(check, settings, num_blocks=len(decoder.blocks), count=count)
    removable.require_some()
    if settings.metric != Metric.SLEB:
        with TemporaryDirectory(prefix="llmprune-") as scratch:
            measured = measure_dense(decoder, windows.tokens, Path(scratch) / "pass", compute, progress)
        ground = Ground(_described(windows, settings), windows.identity(), measured.dense_loss)
        scores = score_blocks(measured, settings)
        for block in order_blocks(measured, settings, count=count, removable=removable):
            yield ground, Round(block, score=scores[block])
        return
    order = seed if seed is not None else windows.seed or 0
    evaluator = window_evaluator(
        decoder, windows.tokens, settings, seed=order, masked=masked, compute=compute, progress=progress
    )
    ground = Ground(_described(windows, settings), windows.identity(), dense_loss(evaluator))
    for decided in search_rounds(evaluator, settings, count=count, removable=removable, progress=progress):
        yield ground, _round(decided)


def _kept_steps(
    workspace: Workspace, windows: TokenWindows | None, settings: RedundancySettings
) -> Iterator[tuple[Ground, Round]]:
    """The same in a run directory, which is held for writing only while a round is decided."""
    count = int(settings.target)
    if windows is not None:
        calibrate_on(workspace, windows)
    if settings.metric != Metric.SLEB:
        importance = verify_redundancy(workspace, settings)
        ground = _ground(importance, workspace.run.importance)
        yield from ((ground, decided) for decided in _recorded_rounds(importance)[:count])
        return
    steps, given = search_steps(workspace, settings), 0
    while given < count:
        with workspace.writing():
            importance = next(steps)
        for decided in importance.rounds[given:count]:
            given += 1
            yield _ground(importance, workspace.run.importance), _round(decided)


def _described(windows: TokenWindows, settings: RedundancySettings) -> str:
    """The windows that blocks are measured on, for people."""
    return measured_on(
        windows.num_windows, solving_windows(windows.num_windows, settings), windows.seq_len, windows.identity()
    )


def _recorded_rounds(importance: Importance) -> list[Round]:
    if importance.scores is not None:
        return [Round(block, score=importance.scores[block]) for block in importance.order]
    return [_round(decided) for decided in importance.rounds]


def _round(decided: RoundRecord) -> Round:
    candidates = tuple(Candidate(**candidate.model_dump()) for candidate in decided.candidates)
    return Round(decided.removed, decided.loss, candidates=candidates, seconds=decided.seconds)


def _ground(importance: Importance, path: Path) -> Ground:
    ground = Ground(importance.measured_on, importance.corpus, importance.dense_loss, path)
    swapped = importance.refinement
    return ground if swapped is None else replace(ground, refined=swapped.removed, refined_loss=swapped.loss)

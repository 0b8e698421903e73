"""What a calibration takes: what is announced before it, and what ``--plan`` says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmprune.artifacts.activations import CalibrationManifest, open_calibration
from llmprune.choices import SEQ_LEN, Cache
from llmprune.stages.calibration.dense_pass import disk_of_states
from llmprune.stages.calibration.stage import CalibrationSettings
from llmprune.stages.calibration.text import CalibrationChoice, require_enough
from llmprune.stages.common.checks import require_positions
from llmprune.stages.common.model_cost import ModelCost, model_cost
from llmprune.stages.common.plans import Estimate, Plan, plan_of
from llmprune.stages.common.workspace import Workspace
from llmprune.text.mixtures import SELF

_MANIFEST_BYTES = 400  # of the manifest, for each block and its row of distances: about so many


@dataclass(frozen=True)
class Windows:
    """Calibration windows, which may still have to be drawn.

    Attributes:
        count: how many.
        seq_len: tokens in each.
        ready: whether the run has run the model on them.
        written: whether the model writes them itself.
        cache: which hidden states are kept.
        folder: where the calibration goes.
    """

    count: int
    seq_len: int
    ready: bool = False
    written: bool = False
    cache: Cache = Cache.NONE
    folder: Path = Path()

    @property
    def tokens(self) -> int:
        """Of all windows."""
        return self.count * self.seq_len


def expected_windows(
    workspace: Workspace, asked: CalibrationSettings | None = None, *, force: bool = False
) -> tuple[Workspace, Windows]:
    """The windows of the run's calibration, or those that it would draw; no text is read.

    Returns:
        The workspace with which a stage goes on from there, and the windows.

    Raises:
        TargetError: a length that the model was not made for.
        ArtifactError: a calibration that cannot be read.
    """
    place = workspace.run.calibration
    if place.exists() and not force:
        manifest = open_calibration(place).manifest
        return workspace.going_on(place, manifest.dtype), _of(manifest, place)
    asked = asked or CalibrationSettings()
    seq_len = asked.seq_len or min(SEQ_LEN, workspace.positions)
    require_positions(workspace.positions, seq_len=seq_len)
    written = asked.source == SELF
    return workspace, Windows(asked.num_windows, seq_len, written=written, cache=asked.cache, folder=place)


def chosen_windows(workspace: Workspace, choice: CalibrationChoice) -> tuple[Workspace, Windows]:
    """The windows that a stage takes by ``choice``, see ``chosen_calibration``; what is missing is not made.

    Raises:
        ArtifactError: a calibration that cannot be read, or of another sequence length.
        TargetError: more windows than it has, or a length that the model was not made for.
    """
    usual = choice.usual or CalibrationSettings()
    samples, seq_len = choice.samples or usual.samples, choice.seq_len or usual.seq_len
    place = choice.place or workspace.run.calibration
    if not place.exists():
        return expected_windows(workspace, replace(usual, samples=samples, seq_len=seq_len))
    known = open_calibration(place)
    require_enough(known, choice)
    return workspace.going_on(place, known.manifest.dtype), _of(known.manifest, place)


def _of(manifest: CalibrationManifest, place: Path) -> Windows:
    return Windows(manifest.num_windows, manifest.seq_len, ready=manifest.measured, cache=manifest.cache, folder=place)


def plan_calibration(workspace: Workspace, settings: CalibrationSettings, *, force: bool = False) -> Plan:
    """What ``calibrate`` is expected to take. Nothing is written, and no text is read.

    Raises:
        As ``calibrate`` does, as far as the settings alone tell.
    """
    workspace, windows = expected_windows(workspace, settings, force=force)
    cost = model_cost(workspace, windows.seq_len, windows.count)
    ready = [f"{workspace.run.calibration} is there already: nothing would be done"] if windows.ready else []
    remarks = [*ready, *calibration_remarks(windows)]
    return plan_of("calibrate", cost, calibration_steps(cost, windows), remarks)


def calibration_remarks(windows: Windows) -> Sequence[str]:
    """What the estimate of a calibration does not know."""
    if windows.ready:
        return []
    if windows.written:
        return ["How long the model writes its own text is not estimated"]
    return ["Reading and tokenizing the text is left out; all of WikiText-2 takes 2 GB of memory for a moment"]


def calibration_steps(cost: ModelCost, windows: Windows) -> list[Estimate]:
    """The steps of a calibration with its pass over the dense model; none where the run has it."""
    return [] if windows.ready else [*drawing_steps(cost, windows), _passing(cost, windows)]


def drawing_steps(cost: ModelCost, windows: Windows) -> list[Estimate]:
    """The steps of having windows alone."""
    return [_writing_text(cost)] if windows.written else []


def hidden_bytes(cost: ModelCost, windows: Windows) -> int:
    """Bytes of the hidden states of all windows at one block."""
    return windows.count * cost.window_bytes


def _writing_text(cost: ModelCost) -> Estimate:
    memory = cost.memory(cost.sizes.whole)
    return Estimate("text", memory.host, memory.device, read=2 * cost.sizes.stored, seconds=None)


def _passing(cost: ModelCost, windows: Windows) -> Estimate:
    sizes, each, own = cost.sizes, hidden_bytes(cost, windows), cost.own(windows.count)
    batch = min(cost.batch, own) * cost.window_bytes
    floats = 3 * windows.seq_len * min(cost.batch, own) * cost.width * 4  # what a block did is measured
    memory = cost.memory(cost.open_block + batch + max(cost.block_bytes, batch + floats, cost.head_bytes))
    disk, kept = disk_of_states(each, sizes.depth, windows.cache, folder=windows.folder)
    tokens = 4 * windows.tokens
    last = 4 * windows.count * cost.width  # of each window's last token, at each block
    manifest = _MANIFEST_BYTES * sizes.depth + 20 * sizes.depth**2
    return Estimate(
        "dense pass",
        memory.host,
        memory.device,
        disk=disk + tokens + last * (sizes.depth + 1),
        kept=kept + tokens + manifest,
        read=sizes.stored + own * cost.window_bytes * (sizes.depth + 1),
        written=(each + last) * (sizes.depth + 1) + tokens + manifest,
        seconds=own * cost.times.through(sizes.depth) + sizes.stored * cost.opening,
    )

"""Healing as a part of a removal: one pass over the dense model, whose removed blocks are passed by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llmprune.artifacts.records.healing import BlockHealing
from llmprune.artifacts.records.pruning import zeroed_tensors
from llmprune.choices import Heal, Scope
from llmprune.models.decoder import Decoder
from llmprune.stages.calibration import CalibrationChoice
from llmprune.stages.common.elsewhere import opening_elsewhere
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.healing import (
    HealedWeights,
    HealingPassState,
    HealingPlan,
    Student,
    heal_student,
    healing_folder,
    plan_healing,
    remove_finished,
    without_blocks,
)
from llmprune.stages.passes import PassFolder
from llmprune.text.windows import TokenWindows


@dataclass(frozen=True)
class RemovalHealing:
    """A healing that belongs to a removal.

    Attributes:
        plan: windows and settings.
        folder: where the pass keeps its files.
    """

    plan: HealingPlan
    folder: PassFolder[HealingPassState]

    def run(self, workspace: Workspace, on_block: Callable[[BlockHealing], None]) -> HealedWeights:
        """Heal the blocks that stay; zeros that the source was given stay zeros.

        Raises:
            TargetError: nothing to heal.
            NumericalError: activations or Gram matrices that cannot be solved with.
            LlmpruneError: the disk is full.
        """
        workspace.remark_slow_dtype()
        known = (self.plan.settings.origins, zeroed_tensors(workspace.directory))
        student, dense = _opened(workspace.open_decoder, *known)
        return heal_student(
            student,
            dense,
            self.plan,
            model=workspace.model.fingerprint,
            folder=self.folder,
            compute=workspace.compute,
            progress=workspace.progress,
            on_block=on_block,
            elsewhere=partial(_opened, opening_elsewhere(workspace), *known),
        )

    def remove_finished(self) -> None:
        """Remove what the pass left, once the checkpoint is complete."""
        remove_finished(self.plan, self.folder)


def _opened(dense: Callable[[], Decoder], origins: tuple[int, ...], masked: frozenset[str]) -> tuple[Student, Decoder]:
    """The dense model, by what opens it, and what is left of it."""
    teacher = dense()
    return without_blocks(teacher, origins, masked=masked), teacher


def planned_healing(
    workspace: Workspace, heal: Heal, kept: Sequence[int], out: Path, windows: TokenWindows | None, *, replace: bool
) -> tuple[Workspace, RemovalHealing]:
    """The healing of a removal that leaves the blocks ``kept``, and the workspace with which both go on.

    Raises:
        ArtifactError: a calibration of another model or tokenizer.
        TargetError: fewer than two windows.
        OutputExistsError: the folder of the work holds something else.
    """
    folder = healing_folder(out, replace=replace)
    workspace, plan = plan_healing(workspace, Scope(heal.value), kept, CalibrationChoice(), windows)
    return workspace, RemovalHealing(plan, folder)

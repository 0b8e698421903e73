"""What healing needs to know before it begins, and the pass itself, for a checkpoint and for a removal of blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from llmprune.artifacts.activations import Calibration
from llmprune.artifacts.records.healing import BlockHealing, Healing, HealingSettings
from llmprune.artifacts.records.provenance import ModelIdentity
from llmprune.choices import Scope
from llmprune.errors import NumericalError, TargetError
from llmprune.models.compute import Compute, dtype_name
from llmprune.models.decoder import Decoder
from llmprune.ranks.shared import require_divisible, require_shared
from llmprune.stages.calibration import (
    CalibrationChoice,
    CalibrationText,
    chosen_calibration,
    text_of_artifact,
    text_of_windows,
)
from llmprune.stages.common.progress import Progress
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.healing.block import Windows
from llmprune.stages.healing.healing_pass import HealingPass
from llmprune.stages.healing.overlap import seen_share
from llmprune.stages.healing.settings import RIDGES, held_back
from llmprune.stages.healing.share import HealingShare
from llmprune.stages.healing.state import HealingPassState
from llmprune.stages.healing.student import Student, same_blocks
from llmprune.stages.passes import PassFolder, Stream, cached_states, working_folder
from llmprune.text.windows import TokenWindows

_MUCH = 0.1  # of the held-back windows seen before: worth a remark


@dataclass(frozen=True)
class HealingPlan:
    """A healing that was not begun yet.

    Attributes:
        text: calibration windows.
        settings: how, as it is recorded.
    """

    text: CalibrationText
    settings: HealingSettings


@dataclass(frozen=True)
class HealedWeights:
    """What a pass left.

    Attributes:
        record: what was solved, and what came of it.
        files: the changed tensors.
    """

    record: Healing
    files: tuple[Path, ...]


def plan_healing(
    workspace: Workspace,
    scope: Scope,
    origins: Sequence[int],
    choice: CalibrationChoice,
    windows: TokenWindows | None = None,
) -> tuple[Workspace, HealingPlan]:
    """Find the calibration windows, made now where the run has none, and note all that decides what comes out.

    Args:
        workspace: of the dense model.
        scope: which blocks.
        origins: for each block of the pruned model, its index in the dense one.
        choice: which calibration.
        windows: to heal on instead.

    Returns:
        The workspace with which healing continues, and the plan.

    Raises:
        ArtifactError: a calibration of another model, tokenizer or sequence length.
        TargetError: fewer than two windows.
    """
    if windows is None:
        known = chosen_calibration(workspace, choice)
        workspace = workspace.going_on(known.directory, known.manifest.dtype)
        text = text_of_artifact(known)
    else:
        text = text_of_windows(windows)
    return workspace, made_plan(
        text, scope, origins, teacher=workspace.model, dtype=dtype_name(workspace.dtype), samples=choice.samples
    )


def made_plan(
    text: CalibrationText,
    scope: Scope,
    origins: Sequence[int],
    *,
    teacher: ModelIdentity,
    dtype: str,
    samples: int | None = None,
) -> HealingPlan:
    """The plan of a healing on the first ``samples`` windows of a text.

    Raises:
        TargetError: fewer than two windows.
    """
    count = samples or text.num_windows
    settings = HealingSettings(
        teacher=teacher,
        scope=scope.value,
        origins=tuple(origins),
        ridges=RIDGES,
        dtype=dtype,
        windows=count,
        held_back=held_back(count),
        seq_len=text.seq_len,
        corpus=text.corpus.name,
        windows_fingerprint=text.fingerprint,
        corpus_kind=text.corpus.kind,
        sources=text.corpus.sources,
    )
    return HealingPlan(text, settings)


def heal_student(
    student: Student,
    dense: Decoder,
    plan: HealingPlan,
    *,
    model: str,
    folder: PassFolder[HealingPassState],
    compute: Compute,
    progress: Progress,
    on_block: Callable[[BlockHealing], None],
    elsewhere: Callable[[], tuple[Student, Decoder]] | None = None,
) -> HealedWeights:
    """Heal block after block, going on where an earlier pass in the same folder stopped.

    The healed weights are in the folder's files, or in the pruned model if that keeps changes.

    Args:
        student: the pruned model.
        dense: the model that it was made from.
        plan: windows and settings.
        model: fingerprint of the pruned model.
        folder: where the pass keeps its files.
        compute: how much goes through a block at once.
        progress: who listens.
        on_block: called for every block as it finishes.
        elsewhere: opens both models on another rank; None: there is none.

    Raises:
        TargetError: the pruned model has neither a hole nor other weights; or more ranks than windows.
        SharedFolderError: a rank does not see the folder.
        NumericalError: activations or Gram matrices that cannot be solved with.
        LlmpruneError: the disk is full.
    """
    same = same_blocks(student, dense)
    places = student.healed_places(Scope(plan.settings.scope), same=same)
    if not places:
        raise TargetError(
            f"No block is missing and no weight differs from {plan.settings.teacher.name}'s: there is nothing to heal."
        )
    tokens = plan.text.load()[: plan.settings.windows]
    cut = plan.settings.windows - plan.settings.held_back
    require_divisible(compute.ranks, cut)
    require_shared(compute.ranks, folder.path)
    given = (elsewhere, tokens, plan.settings, plan.text.artifact, folder, same, compute)
    begin = HealingPassState(model=model, settings=plan.settings)
    try:
        with compute.ranks.place(_open_share, *given, own={"models": (student, dense)}) as shares:
            disk = sum(2 * side.nbytes for windows in shares.local.windows for side in (windows.dense, windows.pruned))
            state = HealingPass(shares, places, folder, begin, disk, progress).heal_blocks(on_block)
    except NumericalError:  # the same settings would fail here again: nothing is worth keeping
        folder.remove()
        raise
    remarks = (*_unmended(student), *_not_held_back(tokens[cut:], tokens[:cut]), *state.remarks)
    seconds = sum(block.seconds for block in state.blocks)
    record = Healing(settings=plan.settings, blocks=state.blocks, remarks=remarks, seconds=seconds)
    return HealedWeights(record, tuple(folder.path / name for name in state.weights))


def _open_share(
    elsewhere: Callable[[], tuple[Student, Decoder]] | None,
    tokens: Tensor,
    settings: HealingSettings,
    artifact: Calibration | None,
    folder: PassFolder[HealingPassState],
    same: int,
    compute: Compute,
    models: tuple[Student, Decoder] | None = None,
) -> HealingShare:
    if models is None:
        assert elsewhere is not None, "another rank opens the models itself"
        models = elsewhere()
    (student, dense), here, ranks = models, compute.here(), compute.ranks
    # Every layer's loss runs the blocks behind it: half of the memory keeps as many as it can.
    student.decoder.keep(device=here.free_bytes() // 2, host=here.free_host_bytes() // 2)
    student.decoder.expect(student.blocks)
    batch = compute.batch_windows(tokens.shape[1])

    teacher = settings.teacher.fingerprint

    def passing(first: int, stop: int, called: str) -> Windows:
        part, cache = tokens[first:stop], cached_states(artifact, model=teacher, dtype=settings.dtype, first=first)
        return Windows(
            Stream(f"pruned{called}", student.decoder, part, folder.path, batch, ranks=ranks),
            Stream(f"dense{called}", dense, part, folder.path, batch, cache, ranks=ranks),
        )

    cut = settings.windows - settings.held_back
    solved_on, held = passing(0, cut, ""), passing(cut, len(tokens), "-held-back")
    return HealingShare(student, dense, solved_on, held, settings, folder, same, ranks)


def remove_finished(plan: HealingPlan, folder: PassFolder[HealingPassState]) -> None:
    """Remove the pass that made a complete checkpoint."""
    folder.remove_finished(HealingPassState(model="", settings=plan.settings))


def healing_folder(out: Path, *, replace: bool) -> PassFolder[HealingPassState]:
    """The folder of a healing whose result goes to ``out``.

    Args:
        out: the new checkpoint.
        replace: whether a stopped pass on something else is given up.

    Raises:
        OutputExistsError: it holds something else.
    """
    return PassFolder(working_folder(out), HealingPassState, replace)


def _not_held_back(held: Tensor, solved_on: Tensor) -> list[str]:
    """What the choice of ridges and layers saw already."""
    share = seen_share(held, solved_on)
    if share < _MUCH:
        return []
    return [
        f"{share:.0%} of the windows that are held back overlaps with those that weights are solved on: the text is "
        "short, and the choice is less sure; a longer text or fewer `samples` would be better"
    ]


def _unmended(student: Student) -> list[str]:
    """What no block can make good."""
    if not student.origins[0]:
        return []
    return ["No block stands before the hole at the beginning; the blocks behind it are healed as far as they can be"]

"""Healing a model in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from llmprune.artifacts.records.healing import BlockHealing, Healing
from llmprune.artifacts.records.provenance import ModelIdentity
from llmprune.choices import Scope
from llmprune.models.compute import Compute, dtype_name
from llmprune.models.decoder import Decoder
from llmprune.stages.calibration import text_of_windows
from llmprune.stages.common.progress import Progress
from llmprune.stages.healing.plan import heal_student, made_plan
from llmprune.stages.healing.state import HealingPassState
from llmprune.stages.healing.student import of_its_own
from llmprune.stages.passes import PassFolder
from llmprune.text.windows import TokenWindows


def heal_in_memory(
    pruned: Decoder,
    dense: Decoder,
    origins: Sequence[int],
    windows: TokenWindows,
    scope: Scope,
    *,
    progress: Progress,
    on_block: Callable[[BlockHealing], None],
) -> Healing:
    """Heal a decoder that keeps changes: its model has the healed weights afterwards, and nothing is written.

    Zeros stay zeros in every matrix. Hidden states pass through files of a temporary folder.

    Args:
        pruned: the pruned model, its weights its own to replace.
        dense: the model that it was made from.
        origins: for each block of the pruned model, its index in the dense one.
        windows: to heal on.
        scope: which blocks.
        progress: who listens.
        on_block: called for every block as it finishes.

    Returns:
        What was solved, and what came of it.

    Raises:
        TargetError: nothing to heal, or fewer than two windows.
        NumericalError: activations or Gram matrices that cannot be solved with.
        LlmpruneError: the disk is full.
    """
    depth = len(dense.blocks)
    name = dense.model.name_or_path or type(dense.model).__name__
    teacher = ModelIdentity(
        name=name.rstrip("/").rsplit("/", 1)[-1],
        fingerprint="",
        model_type=dense.model.config.model_type,
        num_blocks=depth,
        num_parameters=dense.model.num_parameters(),
    )
    plan = made_plan(text_of_windows(windows), scope, origins, teacher=teacher, dtype=dtype_name(dense.dtype))
    with TemporaryDirectory(prefix="llmprune-") as scratch:
        healed = heal_student(
            of_its_own(pruned, origins, depth=depth, masked=None),
            dense,
            plan,
            model="",
            folder=PassFolder(Path(scratch) / "pass", HealingPassState),
            compute=Compute(pruned.device),
            progress=progress,
            on_block=on_block,
        )
    return healed.record

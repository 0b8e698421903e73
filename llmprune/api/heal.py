"""Healing: blocks of a pruned model solved anew, towards the dense model's hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack, overload

from llmprune.api.checkpoints import PrunedCheckpoint
from llmprune.api.choice import choice
from llmprune.api.models import Model, OnDisk
from llmprune.api.progress import Logged
from llmprune.api.windows import Windows, as_windows, given_or_kept, required
from llmprune.artifacts.checkpoints.block_numbers import kept_blocks
from llmprune.artifacts.files.sizes import parse_size
from llmprune.artifacts.records.healing import BlockHealing
from llmprune.artifacts.records.importance import check_blocks
from llmprune.choices import DEVICE, SHARD_SIZE, Dtype, Scope
from llmprune.errors import TargetError
from llmprune.models.resident import model_decoder
from llmprune.models.source import positions, vocabulary
from llmprune.stages.common.checks import require_positions, require_vocabulary
from llmprune.stages.common.progress import Progress
from llmprune.stages.healing import HealSettings, heal_in_memory
from llmprune.stages.healing import heal as write_healed
from llmprune.text.windows import TokenWindows

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class HealingOptions(TypedDict, total=False):
    """The keyword arguments of ``heal`` but ``out``, for type checkers."""

    removed: Sequence[int]
    scope: str
    on_block: Callable[[BlockHealing], None]
    verify: bool
    force: bool
    max_shard_size: str | int
    run: Path | str | None
    device: str
    dtype: str
    memory_budget: str | None
    trust_remote_code: bool
    check: bool
    progress: Progress | None


@overload
def heal(
    model: Model, teacher: Model, windows: Windows | None = None, *, out: None = None, **options: Unpack[HealingOptions]
) -> PreTrainedModel: ...
@overload
def heal(
    model: Model, teacher: Model, windows: Windows | None = None, *, out: Path | str, **options: Unpack[HealingOptions]
) -> PrunedCheckpoint: ...
def heal(
    model: Model,
    teacher: Model,
    windows: Windows | None = None,
    *,
    removed: Sequence[int] = (),
    scope: str = Scope.ALL,
    out: Path | str | None = None,
    on_block: Callable[[BlockHealing], None] = lambda _: None,
    verify: bool = True,
    force: bool = False,
    max_shard_size: str | int = SHARD_SIZE,
    run: Path | str | None = None,
    device: str = DEVICE,
    dtype: str = Dtype.AUTO,
    memory_budget: str | None = None,
    trust_remote_code: bool = False,
    check: bool = True,
    progress: Progress | None = None,
) -> PreTrainedModel | PrunedCheckpoint:
    """Let the blocks of a pruned model make good what removed blocks or zeros have taken away.

    Each block is asked, on the pruned model's own activations, for the dense model's hidden states behind it: ridge
    regression of its last layers from Gram matrices, forward passes alone. Zeros stay zeros. A new weight is kept only
    where the model's loss falls on windows that were held back.

    With two models in memory the result is a new model. Its healed matrices are its own; it uses the same memory for
    all other weights as ``model``, which is left as it is. The hidden states of the windows pass through files of a
    temporary folder (``TMPDIR``).

    With two models on disk the result is a checkpoint directory, written block by block: what ``llmprune heal`` writes.
    It is gone on with where it was interrupted, and kept if it is there already.

    Args:
        model: the pruned model: in memory, or a checkpoint that llmprune wrote.
        teacher: the dense model that it was made from, likewise in memory or on disk.
        windows: from ``calibration_windows``, or tokens (windows, seq_len); None: those of ``run``.
        removed: for models in memory, the blocks that ``model`` lacks, by their index in ``teacher``.
        scope: ``cut``: the block before each hole; ``all``: every one from the first hole on.
        out: the new checkpoint's directory; for models on disk.
        on_block: called for every block as it finishes.
        verify: for ``out``, load the result and compare it with the source's blocks run on the healed weights.
        force: replace a checkpoint that ``out`` holds.
        max_shard_size: largest weight file of ``out``.
        run: for models on disk, a run directory of ``teacher`` whose calibration is used.
        device: for models on disk, ``auto``, ``cpu`` or ``cuda``.
        dtype: for models on disk, what to compute in: ``auto`` (as stored), ``float32``, ``bfloat16``, ``float16``.
        memory_budget: for a model on disk, the most memory to use: ``"12GB"``, or ``"12GB,48GB"`` of a GPU and of the
            host; None: what is free, less a margin. No number depends on it.
        trust_remote_code: whether a checkpoint's own Python files may run.
        check: whether to see first that a checkpoint of llmprune is as it was written, by the digests in its record.
        progress: who hears remarks; None: the logger ``llmprune``.

    Raises:
        TargetError: an argument out of range, or nothing to heal.
        ModelError: no such model, or not a causal LM.
        ArtifactError: ``model`` was not made from ``teacher``.
        NumericalError: activations or Gram matrices that cannot be solved with; names the layer.
        OutputExistsError: ``out`` holds something else.
        VerificationError: the written checkpoint does not compute what it should.

    Example:
        >>> smaller = remove_blocks(model, [3, 7])
        >>> healed = heal(smaller, model, windows, removed=[3, 7])
    """
    place = OnDisk(run, device, dtype, trust_remote_code, progress or Logged(), check, memory_budget)
    chosen = choice(Scope, scope=scope)
    if not isinstance(model, str | Path) and not isinstance(teacher, str | Path):
        place.refuse(out=out)
        return healed_copy(model, teacher, removed, as_windows(required(windows)), chosen, place.progress, on_block)
    if not (isinstance(model, str | Path) and isinstance(teacher, str | Path)) or out is None or removed:
        raise TargetError(
            "Give `model` and `teacher` both in memory, with the blocks that are missing as `removed`; or both as "
            "paths with `out`, where the record of the pruned checkpoint names them."
        )
    settings = HealSettings(
        scope=chosen, out=Path(out), max_shard_bytes=parse_size(max_shard_size), verify=verify, force=force
    )
    with place.workspace(teacher) as workspace:
        text = given_or_kept(windows, workspace, place)
        report = write_healed(workspace, str(model), settings, windows=text, on_block=on_block)
    return PrunedCheckpoint(report.directory, report.record)


def healed_copy(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    removed: Sequence[int],
    windows: TokenWindows,
    scope: Scope,
    progress: Progress,
    on_block: Callable[[BlockHealing], None],
) -> PreTrainedModel:
    """A model in memory with its own healed matrices.

    Raises:
        TargetError: the two models do not differ by the blocks ``removed``, or windows that do not fit the model.
        NumericalError: activations or Gram matrices that cannot be solved with.
    """
    require_positions(positions(model.config), seq_len=windows.seq_len)
    require_vocabulary(vocabulary(model.config), windows.tokens)
    pruned, dense = model_decoder(model), model_decoder(teacher)
    depth, left = len(dense.blocks), len(pruned.blocks)
    if removed:
        check_blocks(tuple(removed), num_blocks=depth, source="`removed`")
    origins = kept_blocks(depth, removed)
    if len(origins) != left:
        raise TargetError(
            f"The pruned model has {left} blocks and its teacher {depth}, so `removed` must name the {depth - left} "
            f"that are missing; it names {len(set(removed))}."
        )
    heal_in_memory(pruned, dense, origins, windows, scope, progress=progress, on_block=on_block)
    pruned.model.train(model.training)
    return pruned.model

"""Removing blocks: a model in memory that shares the kept ones, or a checkpoint streamed from file to file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack, overload

from llmprune.api.checkpoints import PrunedCheckpoint
from llmprune.api.choice import choice
from llmprune.api.heal import healed_copy
from llmprune.api.models import Model, OnDisk
from llmprune.api.progress import Logged
from llmprune.api.rank_blocks import rank_blocks
from llmprune.api.ranking import Ranking, Target
from llmprune.api.windows import Windows, as_windows, given_or_kept, required
from llmprune.artifacts.checkpoints.block_numbers import kept_blocks
from llmprune.artifacts.files.sizes import parse_size
from llmprune.artifacts.records.importance import check_blocks
from llmprune.artifacts.records.pruning import BlockRemoval
from llmprune.choices import DEVICE, SHARD_SIZE, Dtype, Heal, Scope
from llmprune.errors import TargetError
from llmprune.models.removability import check_of
from llmprune.models.resident import model_decoder
from llmprune.models.surgery import cut_model
from llmprune.stages.block_removal import RemovalSettings
from llmprune.stages.block_removal import remove_blocks as write_without_blocks
from llmprune.stages.common.progress import Progress
from llmprune.stages.output.verification import verify_model
from llmprune.text.windows import TokenWindows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Blocks = Ranking | Sequence[int]


class RemovalOptions(TypedDict, total=False):
    """The keyword arguments of ``remove_blocks`` but ``out``, for type checkers."""

    target: Target | None
    windows: Windows | None
    heal: str | None
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
def remove_blocks(
    model: Model, blocks: Blocks | None = None, *, out: None = None, **options: Unpack[RemovalOptions]
) -> PreTrainedModel: ...
@overload
def remove_blocks(
    model: Model, blocks: Blocks | None = None, *, out: Path | str, **options: Unpack[RemovalOptions]
) -> PrunedCheckpoint: ...
def remove_blocks(
    model: Model,
    blocks: Blocks | None = None,
    *,
    target: Target | None = None,
    windows: Windows | None = None,
    heal: str | None = None,
    out: Path | str | None = None,
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
    """Remove blocks from a model, whose every kept weight stays the same bit for bit, unless it is healed.

    Without ``out`` the result is a new model in memory: an ordinary transformers model with the config of its new
    depth. It uses the same memory for the kept weights as ``model``, which is left as it is and can still be used. To
    train one of the two and keep the other, copy first: ``copy.deepcopy(model)``.

    With ``out`` the result is a checkpoint directory, streamed from the files of a model on disk: what
    ``llmprune remove-blocks`` writes. A checkpoint that was made like this before is kept.

    Args:
        model: in memory, or its path or Hub id.
        blocks: a ``Ranking``, or the indices of the blocks that go; None: they are ranked first.
        target: how many blocks of the ranking go, such as ``"20%"`` or ``6``, decided now if need be; None: all that
            it has decided so far.
        windows: to rank on, where no ranking is given, and to heal on; None: those of ``run``.
        heal: ``cut``: the block before each hole makes good what the removed ones did, by least squares; ``all``: every
            block from the first hole on; ``none``. None: all, where a search with healing ranked the blocks, else none.
        out: the new checkpoint's directory.
        verify: see that the result computes what the model with those blocks skipped does.
        force: replace a checkpoint that ``out`` holds.
        max_shard_size: largest weight file of ``out``.
        run: for a model on disk, a run directory in which a ranking is kept and the checkpoint is remembered.
        device: for a model on disk, ``auto``, ``cpu`` or ``cuda``.
        dtype: for a model on disk, what to compute in, and the dtype of a model in memory that is made of it: ``auto``
            (as stored), ``float32``, ``bfloat16`` or ``float16``.
        memory_budget: for a model on disk, the most memory to use: ``"12GB"``, or ``"12GB,48GB"`` of a GPU and of the
            host; None: what is free, less a margin. No number depends on it.
        trust_remote_code: whether the checkpoint's own Python files may run.
        check: whether to see first that a checkpoint of llmprune is as it was written, by the digests in its record.
        progress: who hears remarks; None: the logger ``llmprune``.

    Raises:
        TargetError: a target or block list out of range, or arguments that do not go together.
        NumericalError: activations or Gram matrices that healing cannot solve with.
        ModelError: no such model, not a causal LM, or one whose blocks depend on their place.
        OutputExistsError: ``out`` holds something else.
        VerificationError: the result does not compute what it should; ``out`` is not made.

    Example:
        >>> smaller = remove_blocks(model, ranking, target="20%")
        >>> smaller.save_pretrained("smaller")
    """
    place = OnDisk(run, device, dtype, trust_remote_code, progress or Logged(), check, memory_budget)
    asked = None if heal is None else choice(Heal, heal=heal)
    if not isinstance(model, str | Path):
        place.refuse(out=out)
        removal = _chosen(model, blocks, target, windows, place)
        wanted = asked or _usual_healing(removal)
        cut = _cut(model, blocks, removal, verify=verify)
        return _healed(cut, model, removal, None if windows is None else as_windows(windows), wanted, place)
    removal = _chosen(model, blocks, target, windows, place)
    wanted = asked or _usual_healing(removal)
    with place.workspace(model, without=removal.removed if wanted is Heal.NONE else ()) as workspace:
        text = given_or_kept(windows, workspace, place) if wanted is not Heal.NONE else None
        if out is None:
            whole = place.load(workspace)
            return _healed(_cut(whole, blocks, removal, verify=verify), whole, removal, text, wanted, place)
        _require_depth(blocks, workspace.model.num_blocks)
        settings = RemovalSettings(
            blocks=removal.removed,
            heal=wanted,
            out=Path(out),
            max_shard_bytes=parse_size(max_shard_size),
            verify=verify,
            force=force,
        )
        report = write_without_blocks(workspace, settings, removal=removal, windows=text)
    return PrunedCheckpoint(report.directory, report.record)


def _chosen(
    model: Model, blocks: Blocks | None, target: Target | None, windows: Windows | None, place: OnDisk
) -> BlockRemoval:
    """The blocks that go, and why."""
    if blocks is None and target is None:
        raise TargetError("Which blocks are to go? Give `blocks`, or a `target` such as 20%.")
    if blocks is not None and not isinstance(blocks, Ranking):
        if target is not None:
            raise TargetError("`target` takes the first blocks of a ranking, and `blocks` names them; give one.")
        return BlockRemoval(removed=tuple(blocks))
    if blocks is None:
        options = vars(place) if isinstance(model, str | Path) else {"progress": place.progress}
        blocks = rank_blocks(model, windows, target=target, **options)
    if target is not None:
        return blocks.removal(blocks.first(target))
    if not blocks.order:
        raise TargetError("This ranking has decided no round yet; iterate over it, or give a `target` such as 20%.")
    return blocks.removal(blocks.order)


def _usual_healing(removal: BlockRemoval) -> Heal:
    """What is healed where nothing was said: blocks that a search with healing chose are not left unhealed."""
    return Heal.ALL if removal.search_heals else Heal.NONE


def _cut(model: PreTrainedModel, blocks: Blocks | None, removal: BlockRemoval, *, verify: bool) -> PreTrainedModel:
    """The model without blocks, in memory."""
    RemovalSettings(blocks=removal.removed)  # its own checks
    decoder = model_decoder(model)
    depth = len(decoder.blocks)
    _require_depth(blocks, depth)
    check_blocks(removal.removed, num_blocks=depth, source="`blocks`")
    kept = kept_blocks(depth, removal.removed)
    check_of(decoder.model).require(kept)
    cut = cut_model(model, kept)
    if verify:
        verify_model(decoder, cut, removed=removal.removed)
    return cut


def _healed(
    cut: PreTrainedModel,
    model: PreTrainedModel,
    removal: BlockRemoval,
    windows: TokenWindows | None,
    heal: Heal,
    place: OnDisk,
) -> PreTrainedModel:
    """The model without blocks, healed if that is wanted."""
    if heal is Heal.NONE:
        return cut
    text = as_windows(required(windows))
    return healed_copy(cut, model, removal.removed, text, Scope(heal.value), place.progress, lambda _: None)


def _require_depth(blocks: Blocks | None, depth: int) -> None:
    """See that a ranking is of a model as deep as the one that is to be cut."""
    if isinstance(blocks, Ranking) and blocks.num_blocks != depth:
        raise TargetError(
            f"This ranking is of a model with {blocks.num_blocks} blocks, and this model has {depth}; rank its blocks."
        )

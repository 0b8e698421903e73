"""Zeros in a model's weights: in a model in memory, or in a checkpoint that is written block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack, overload

from llmprune.algorithms import Coefficients, Pattern, parse_pattern, parse_sparsity
from llmprune.api.checkpoints import PrunedCheckpoint
from llmprune.api.choice import choice
from llmprune.api.models import Model, OnDisk
from llmprune.api.progress import Logged
from llmprune.api.windows import Windows, as_windows, given_or_kept, required
from llmprune.artifacts.files.sizes import parse_size
from llmprune.artifacts.records.weight_sparsity import BlockRecord
from llmprune.choices import (
    ALPHA,
    BETA,
    BLOCK_SIZE,
    DAMPING,
    DEVICE,
    GAMMA,
    LAYERS,
    PARTS,
    REFIT_STEPS,
    ROUNDS,
    SHARD_SIZE,
    SPARSITY,
    Dtype,
    Method,
    Reference,
)
from llmprune.errors import TargetError
from llmprune.models.compute import Compute
from llmprune.models.resident import model_decoder
from llmprune.models.source import positions, vocabulary
from llmprune.stages.common.checks import require_positions, require_vocabulary
from llmprune.stages.common.progress import Progress
from llmprune.stages.weight_pruning import PruningSettings, Selection, global_prune, parse_parts, prune_in_memory
from llmprune.text.windows import TokenWindows

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PruningOptions(TypedDict, total=False):
    """The keyword arguments of ``prune_weights`` but ``out``, for type checkers."""

    sparsity: float | str | None
    pattern: str | None
    method: str
    layers: str
    parts: str | Iterable[str]
    exclude: Iterable[str]
    targets_from: str
    alpha: float
    beta: float
    gamma: float
    rounds: int
    damping: float
    block_size: int
    refit: bool
    on_block: Callable[[BlockRecord], None]
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
def prune_weights(
    model: Model, windows: Windows | None = None, *, out: None = None, **options: Unpack[PruningOptions]
) -> PreTrainedModel: ...
@overload
def prune_weights(
    model: Model, windows: Windows | None = None, *, out: Path | str, **options: Unpack[PruningOptions]
) -> PrunedCheckpoint: ...
def prune_weights(
    model: Model,
    windows: Windows | None = None,
    *,
    sparsity: float | str | None = None,
    pattern: str | None = None,
    method: str = Method.SPARSELLM,
    layers: str = LAYERS,
    parts: str | Iterable[str] = PARTS,
    exclude: Iterable[str] = (),
    targets_from: str = Reference.DENSE,
    alpha: float = ALPHA,
    beta: float = BETA,
    gamma: float = GAMMA,
    rounds: int = ROUNDS,
    damping: float = DAMPING,
    block_size: int = BLOCK_SIZE,
    refit: bool = True,
    out: Path | str | None = None,
    on_block: Callable[[BlockRecord], None] = lambda _: None,
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
    """Make weights zero block by block, each feed-forward network as one problem (SparseLLM, arXiv 2402.17946).

    Without ``out`` the result is a new model in memory. Its pruned matrices are its own; it uses the same memory for
    all other weights as ``model``, which is left as it is. The hidden states of the windows pass through files of a
    temporary folder (``TMPDIR``).

    With ``out`` the result is a checkpoint directory, written block by block from the files of a model on disk: what
    ``llmprune global-prune`` writes. It is gone on with where it was interrupted, and kept if it is there already.

    Args:
        model: in memory, or its path or Hub id.
        windows: from ``calibration_windows``, or tokens (windows, seq_len); None: those of ``run``.
        sparsity: share of zeros in every matrix: ``0.7`` or ``"70%"``; give it or ``pattern``.
        pattern: ``"2:4"``: 2 zeros in every 4 inputs.
        method: ``sparsellm``, ``sparsegpt``, ``wanda`` or ``magnitude``.
        layers: ``all``, ``first-half``, or blocks: ``0-15``, ``0,3,8-11``.
        parts: any of ``attention``, ``ffn`` and ``routers``, between commas.
        exclude: shell patterns; a matrix whose name (without ``.weight``) fits one stays dense.
        targets_from: whose activations are reproduced: the ``dense`` model's, or (the papers' protocol) the
            ``pruned`` model's.
        alpha: SparseLLM's coefficient of the pre-activations.
        beta: of the output.
        gamma: of the activation.
        rounds: most rounds of SparseLLM.
        damping: of Gram matrices, relative to their mean diagonal.
        block_size: columns that SparseGPT prunes at a time.
        refit: move the kept weights of a matrix once more, on its final mask.
        out: the new checkpoint's directory.
        on_block: called for every block as it finishes.
        verify: for ``out``, load the result and compare it with the source's blocks run on the pruned weights.
        force: replace a checkpoint that ``out`` holds.
        max_shard_size: largest weight file of ``out``.
        run: for a model on disk, a run directory whose calibration is used, and where the checkpoint is remembered.
        device: for a model on disk, ``auto``, ``cpu`` or ``cuda``.
        dtype: for a model on disk, what to compute in: ``auto`` (as stored), ``float32``, ``bfloat16``, ``float16``.
        memory_budget: for a model on disk, the most memory to use: ``"12GB"``, or ``"12GB,48GB"`` of a GPU and of the
            host; None: what is free, less a margin. No number depends on it.
        trust_remote_code: whether the checkpoint's own Python files may run.
        check: whether to see first that a checkpoint of llmprune is as it was written, by the digests in its record.
        progress: who hears remarks; None: the logger ``llmprune``.

    Raises:
        TargetError: an argument out of range, or a pattern that does not fit a matrix.
        ModelError: no such model, or not a causal LM.
        NumericalError: activations that are NaN, or a Gram matrix that cannot be factored; names the layers.
        OutputExistsError: ``out`` holds something else.
        VerificationError: the written checkpoint does not compute what it should.

    Example:
        >>> sparse = prune_weights(model, windows, pattern="2:4")
        >>> sparse.save_pretrained("sparse")
    """
    place = OnDisk(run, device, dtype, trust_remote_code, progress or Logged(), check, memory_budget)
    settings = PruningSettings(
        pattern=_pattern(sparsity, pattern),
        method=choice(Method, method=method),
        selection=Selection(layers, parse_parts(parts if isinstance(parts, str) else ",".join(parts)), tuple(exclude)),
        reference=choice(Reference, targets_from=targets_from),
        coefficients=Coefficients(alpha=alpha, beta=beta, gamma=gamma),
        rounds=rounds,
        damping=damping,
        block_size=block_size,
        refit_steps=REFIT_STEPS if refit else 0,
        out=None if out is None else Path(out),
        max_shard_bytes=parse_size(max_shard_size),
        verify=verify,
        force=force,
    )
    if not isinstance(model, str | Path):
        place.refuse(out=out)
        return _pruned(model, as_windows(required(windows)), settings, place.progress, on_block)
    with place.workspace(model) as workspace:
        text = given_or_kept(windows, workspace, place)
        if out is None:
            return _pruned(place.load(workspace), text, settings, place.progress, on_block)
        report = global_prune(workspace, settings, windows=text, on_block=on_block)
    return PrunedCheckpoint(report.directory, report.record)


def _pruned(
    model: PreTrainedModel,
    windows: TokenWindows,
    settings: PruningSettings,
    progress: Progress,
    on_block: Callable[[BlockRecord], None],
) -> PreTrainedModel:
    """A model in memory with its own pruned matrices."""
    require_positions(positions(model.config), seq_len=windows.seq_len)
    require_vocabulary(vocabulary(model.config), windows.tokens)
    decoder = model_decoder(model)
    prune_in_memory(decoder, windows, settings, compute=Compute(decoder.device), progress=progress, on_block=on_block)
    decoder.model.train(model.training)
    return decoder.model


def _pattern(sparsity: float | str | None, pattern: str | None) -> Pattern:
    """What is zero: a share of every matrix, or N of every M inputs.

    Raises:
        TargetError: both were given, or one that is no such thing.
    """
    if sparsity is not None and pattern is not None:
        raise TargetError(f"`sparsity={sparsity}` and `pattern={pattern}` exclude each other; give one of them.")
    return (
        parse_pattern(pattern)
        if pattern is not None
        else parse_sparsity(str(SPARSITY if sparsity is None else sparsity))
    )

"""Pruning a decoder's weights, from files or in memory: what both have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from llmprune.algorithms.feed_forward.sparsellm import FfnSettings
from llmprune.artifacts.files.sizes import format_size
from llmprune.artifacts.records.environment import Environment, compared
from llmprune.artifacts.records.weight_sparsity import BlockRecord, SparsitySettings
from llmprune.choices import Method, Reference
from llmprune.errors import NumericalError
from llmprune.models.compute import Compute, dtype_name
from llmprune.models.decoder import Decoder
from llmprune.models.devices import half_products, rounds_to_tf32
from llmprune.models.open_block import block_matrices
from llmprune.ranks.group import Ranks
from llmprune.ranks.shared import require_divisible, require_shared
from llmprune.stages.calibration import CalibrationText, text_of_windows
from llmprune.stages.common.progress import Progress
from llmprune.stages.passes import CachedStates, PassFolder, cached_states
from llmprune.stages.weight_pruning.block_pass import PruningPass
from llmprune.stages.weight_pruning.estimate import needs_of
from llmprune.stages.weight_pruning.selection import check_shapes, parse_layers
from llmprune.stages.weight_pruning.settings import PruningSettings
from llmprune.stages.weight_pruning.share import PassSettings, PassShare
from llmprune.stages.weight_pruning.state import PruningPassState
from llmprune.text.windows import TokenWindows


def prune_decoder(
    decoder: Decoder,
    text: CalibrationText,
    settings: PruningSettings,
    recorded: SparsitySettings,
    *,
    model: str,
    folder: PassFolder[PruningPassState],
    compute: Compute,
    progress: Progress,
    on_block: Callable[[BlockRecord], None],
    elsewhere: Callable[[], Decoder] | None = None,
) -> PruningPassState:
    """Prune block after block, going on where an earlier pass in the same folder stopped.

    The pruned weights are in the folder's files, or in the decoder's model if it keeps changes.

    Args:
        decoder: the dense model.
        text: calibration windows, of which as many are taken as ``settings.samples`` says.
        settings: how to prune.
        recorded: the same as it is kept.
        model: fingerprint of the model.
        folder: where the pass keeps its files.
        compute: how much goes through a block at once.
        progress: who listens.
        on_block: called for every block as it finishes.
        elsewhere: opens the dense model on another rank; None: there is none.

    Raises:
        TargetError: more ranks than windows.
        SharedFolderError: a rank does not see the folder.
        NumericalError: activations that are NaN, or a Gram matrix that cannot be factored; names the layers.
        LlmpruneError: the disk is full.
    """
    tokens = text.load()[: settings.samples]
    needs = needs_of(decoder, settings, recorded.layers, windows=len(tokens), seq_len=tokens.shape[1], compute=compute)
    if needs.lacking:
        progress.say(
            f"Pruning a block takes {format_size(needs.lacking)} more memory than is free or the memory budget allows."
        )
    chosen = _pass_settings(settings, recorded.layers, decoder, compute.ranks)
    require_divisible(compute.ranks, len(tokens))
    require_shared(compute.ranks, folder.path)
    batch = compute.batch_windows(tokens.shape[1])
    cache = _dense_states(text, decoder, model=model, windows=len(tokens), batch=batch, progress=progress)
    given = (elsewhere, tokens, chosen, folder, batch, needs.kept, cache)
    environment = Environment.now(tf32=rounds_to_tf32(decoder.device, decoder.dtype))
    begin = PruningPassState(model=model, settings=recorded, environment=environment)
    try:
        with compute.ranks.place(_open_share, *given, own={"decoder": decoder}) as shares:
            work = PruningPass(shares, recorded.layers, folder, begin, needs.disk, progress)
            state = work.prune_blocks(on_block)
        odd = _rounded_products(decoder)
        return state.model_copy(update={"remarks": tuple(dict.fromkeys((*state.remarks, *odd)))})
    except NumericalError:  # the same settings would fail here again: nothing is worth keeping
        folder.remove()
        raise


def _open_share(
    elsewhere: Callable[[], Decoder] | None,
    tokens: Tensor,
    settings: PassSettings,
    folder: PassFolder[PruningPassState],
    batch: int,
    memory: int,
    cache: CachedStates | None,
    decoder: Decoder | None = None,
) -> PassShare:
    if decoder is None:
        assert elsewhere is not None, "another rank opens the model itself"
        decoder = elsewhere()
    return PassShare(decoder, tokens, settings, folder=folder, batch=batch, memory=memory, cache=cache)


def _dense_states(
    text: CalibrationText, decoder: Decoder, *, model: str, windows: int, batch: int, progress: Progress
) -> CachedStates | None:
    """What the calibration keeps of the dense model's hidden states, if it is to the last bit what is computed here."""
    found = cached_states(text.artifact, model=model, dtype=dtype_name(decoder.dtype))
    if found is None or not found.calibration.keeps(0):
        return None
    manifest = found.calibration.manifest
    if windows != manifest.num_windows and windows % batch:  # the last of them would not run with the same others
        return None
    changed = None if manifest.environment is None else compared(manifest.environment, Environment.now())
    if changed is not None:
        progress.say(f"The hidden states in {found.calibration.directory} are not used: {changed}")
        return None
    return found


def prune_in_memory(
    decoder: Decoder,
    windows: TokenWindows,
    settings: PruningSettings,
    *,
    compute: Compute,
    progress: Progress,
    on_block: Callable[[BlockRecord], None],
) -> None:
    """Prune a decoder that keeps changes: its model has the zeros afterwards, and nothing is written.

    Hidden states pass through files of a temporary folder.

    Args:
        decoder: the dense model, its weights its own to replace.
        windows: to prune on.
        settings: how to prune; what is said there about files does not count.
        compute: how much goes through a block at once.
        progress: who listens.
        on_block: called for every block as it finishes.

    Raises:
        TargetError: a pattern, a layer or an option that does not fit the model.
        NumericalError: activations that are NaN, or a Gram matrix that cannot be factored; names the layers.
        LlmpruneError: the disk is full.
    """
    blocks = parse_layers(settings.selection.layers, depth=len(decoder.blocks))
    widest = check_shapes(decoder, blocks, settings.selection, settings.pattern)
    text = text_of_windows(windows)
    recorded = recorded_settings(settings, blocks, text, dtype=dtype_name(decoder.dtype))
    remark_few_tokens(recorded, widest, progress)
    count_zeros_before(decoder, recorded, settings, progress)
    with TemporaryDirectory(prefix="llmprune-") as scratch:
        prune_decoder(
            decoder,
            text,
            settings,
            recorded,
            model="",
            folder=PassFolder(Path(scratch) / "pass", PruningPassState),
            compute=compute,
            progress=progress,
            on_block=on_block,
        )


def recorded_settings(
    settings: PruningSettings, blocks: Sequence[int], text: CalibrationText, *, dtype: str
) -> SparsitySettings:
    """The settings as ``llmprune.json`` keeps them: all that decides what comes out.

    Args:
        settings: how to prune.
        blocks: to prune, by index.
        text: calibration windows.
        dtype: that the model is run in.
    """
    return SparsitySettings(
        method=settings.method.value,
        pattern=str(settings.pattern),
        targets_from=settings.reference.value,
        layers=tuple(blocks),
        parts=tuple(sorted(settings.selection.parts)),
        exclude=settings.selection.exclude,
        alpha=settings.coefficients.alpha,
        beta=settings.coefficients.beta,
        gamma=settings.coefficients.gamma,
        rounds=settings.rounds,
        damping=settings.damping,
        block_size=settings.block_size,
        refit_steps=settings.refit_steps,
        dtype=dtype,
        windows=settings.samples or text.num_windows,
        seq_len=text.seq_len,
        corpus=text.corpus.name,
        windows_fingerprint=text.fingerprint,
        corpus_kind=text.corpus.kind,
        sources=text.corpus.sources,
    )


def remark_few_tokens(recorded: SparsitySettings, widest: int, progress: Progress) -> None:
    """Say so where the calibration tokens do not determine the Gram matrices."""
    tokens = recorded.windows * recorded.seq_len
    if tokens < widest:
        progress.say(
            f"{tokens} calibration tokens are fewer than the {widest} inputs of the widest matrix: its Gram matrix is "
            f"singular, and the damping ({recorded.damping:g} of its mean diagonal) decides what the tokens do not. "
            "More `samples` would be better."
        )


def count_zeros_before(
    decoder: Decoder, recorded: SparsitySettings, settings: PruningSettings, progress: Progress
) -> int:
    """Zeros that the dense model has in the selected matrices; says so where there are many."""
    slots = [
        slot for block in recorded.layers for slot in block_matrices(decoder, block) if settings.selection.takes(slot)
    ]
    stored = (decoder.stored([name])[name] for name in dict.fromkeys(slot.tensor for slot in slots))
    zeros = sum(tensor.numel() - int(tensor.count_nonzero()) for tensor in stored)
    ratio = zeros / sum(slot.numel for slot in slots)
    if ratio > 0.01:
        progress.say(f"The model is sparse already: {ratio:.1%} of the weights to prune are zero.")
    return zeros


def _rounded_products(decoder: Decoder) -> tuple[str, ...]:
    """What is recorded of products that are not in float32 throughout."""
    if not rounds_to_tf32(decoder.device, decoder.dtype):
        return ()
    return (
        f"Gram matrices and passes over tokens in TF32, which is exact for {dtype_name(decoder.dtype)} activations",
    )


def _pass_settings(settings: PruningSettings, blocks: Sequence[int], decoder: Decoder, ranks: Ranks) -> PassSettings:
    some = settings.pattern.ratio > 0  # where no zeros are asked for, no weight changes
    reference = settings.reference if some else Reference.PRUNED
    ffn = FfnSettings(
        settings.layer, settings.coefficients, reference=reference, rounds=settings.rounds, processes=ranks
    )
    if decoder.dtype in (torch.bfloat16, torch.float16):  # the activations are rounded to it already
        ffn = replace(ffn, products=partial(half_products, decoder.dtype))
    return PassSettings(ffn, ranks, some and settings.method is Method.SPARSELLM, settings.selection, tuple(blocks))

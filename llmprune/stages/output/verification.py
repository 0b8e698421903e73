"""Seeing that a written checkpoint computes what its source does without what was removed, with what was replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmprune.artifacts.checkpoints.block_numbers import kept_blocks
from llmprune.artifacts.checkpoints.checkpoint import Checkpoint
from llmprune.artifacts.records.pruning import Verification
from llmprune.errors import CheckpointError, ModelError, NumericalError, VerificationError
from llmprune.models.compute import Compute, dtype_name
from llmprune.models.decoder import Decoder
from llmprune.models.loading import LOADING_ROOM, load_tokenizer, load_whole, open_decoder
from llmprune.models.source import positions
from llmprune.models.unchosen import unchosen
from llmprune.quiet import system_errno
from llmprune.stages.common.block_times import random_tokens
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.output.generation_check import Generated, allowed_difference, compare_generation, same_in_source

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WINDOWS, _SEQ_LEN = 2, 64  # of random tokens: any text would do, and none need be at hand


def verify_checkpoint(
    workspace: Workspace,
    pruned: Path,
    *,
    removed: Sequence[int] = (),
    weights: Sequence[Path] = (),
    experts: Mapping[int, Sequence[int]] | None = None,
) -> Verification:
    """Compare the files of ``pruned`` with the source, block by block, then load it as any user would and generate.

    One block of either model is in memory at a time, beside both embeddings and heads. The loading by plain
    transformers is left out where the whole model does not fit in memory, and the result says so.

    Args:
        workspace: the source model.
        pruned: the new checkpoint's directory.
        removed: the blocks that it lacks, by their index in the source.
        weights: files of the tensors in which it differs from the source.
        experts: for each block, the experts that it lacks, by their index in the source: there the source's router is
            kept from choosing them.

    Raises:
        VerificationError: it cannot be loaded, its logits differ, or generation with and without the KV cache does
            where the source's does not.
        ModelError: the source would have to be loaded whole for that, and cannot be.
    """
    workspace.progress.say("Comparing the written checkpoint with the source model, block by block.")
    source = workspace.open_decoder()
    source.read_from(source.checkpoint.overlaid(weights))
    tokens = random_tokens(source, _WINDOWS, min(_SEQ_LEN, workspace.positions))
    with _loading_is_required():
        written = open_decoder(
            pruned,
            device=workspace.compute.device,
            dtype=source.dtype,
            trust_remote_code=workspace.trust_remote_code,
        )
        expected, difference = _compare_blocks(source, written, tokens, removed, experts or {})
    seen = Verification(dtype=dtype_name(source.dtype), tokens=tokens.numel(), largest_difference=difference)
    checkpoint, dtype, remark = written.checkpoint, source.dtype, None
    del source, written
    if (lack := _lack_of_memory(workspace, checkpoint, dtype)) is not None:
        remark = f"It was compared block by block alone, and did not generate: {lack}."
        workspace.progress.say(remark)
        return seen.model_copy(update={"remark": remark})
    with _loading_is_required():
        workspace.progress.say("Loading the written checkpoint again, to generate with it.")
        model = _load(workspace, pruned, dtype)
    difference = max(difference, _require_same_logits(model, tokens, expected, called="written checkpoint"))
    check = compare_generation(model, tokens[:1, :8])
    del model
    if check.fault is not None:
        remark = _source_does_so_too(workspace, tokens[:1, :8], check, dtype)
    found = {"largest_difference": difference, "generated_tokens": check.same, "remark": remark}
    return seen.model_copy(update=found)


def _source_does_so_too(workspace: Workspace, prompt: Tensor, check: Generated, dtype: torch.dtype) -> str:
    """Load the source whole, and see that it generates with its cache as the written checkpoint does; a remark.

    Raises:
        VerificationError: it does not, or it does not fit in memory.
    """
    if (lack := _lack_of_memory(workspace, workspace.open_checkpoint(), dtype)) is not None:
        raise VerificationError(
            f"The written checkpoint {check.fault}. Whether the source does so too cannot be seen: {lack}."
        )
    workspace.progress.say("Loading the source model whole to see whether it generates like that too.")
    remark = same_in_source(_load(workspace, workspace.directory, dtype), prompt, check)
    workspace.progress.say(remark)
    return remark


@contextmanager
def _loading_is_required() -> Iterator[None]:
    """A written checkpoint that cannot be loaded is a failed verification, and not the user's mistake.

    Where the operating system refuses a file, that says nothing of what was written.
    """
    try:
        yield
    except (ModelError, CheckpointError) as error:
        if (cause := error.__cause__) is not None and system_errno(cause) is not None:
            raise cause from None
        raise VerificationError(f"The written checkpoint cannot be loaded again: {error}") from error


def _compare_blocks(
    source: Decoder, written: Decoder, tokens: Tensor, removed: Sequence[int], experts: Mapping[int, Sequence[int]]
) -> tuple[Tensor, float]:
    """The logits that the source's blocks give, run one by one, and how far the written ones' are from them."""
    kept = kept_blocks(len(source.blocks), removed)
    theirs, ours = source.runner.embed(tokens), written.runner.embed(tokens)
    their_calls, our_calls = source.runner.calls(tokens), written.runner.calls(tokens)
    first = None
    source.expect(kept)
    for new, old in enumerate(kept):
        with source.block(old), unchosen(source.blocks[old], experts.get(old, ())):
            theirs = source.runner.forward_block(old, theirs, their_calls[old])
        with written.block(new):
            ours = written.runner.forward_block(new, ours, our_calls[new])
        if first is None and not torch.equal(theirs, ours):
            first = new
    expected = source.runner.logits(theirs)
    where = f", block {first} first of all" if first is not None else ""
    return expected, _require_close(
        written.runner.logits(ours),
        expected,
        source.dtype,
        called="written checkpoint",
        where=where,
        model=written.model,
    )


def _lack_of_memory(workspace: Workspace, checkpoint: Checkpoint, dtype: torch.dtype) -> str | None:
    """Why plain transformers does not load a checkpoint here; None: it fits."""
    needed = int(LOADING_ROOM * dtype.itemsize * sum(tensor.numel for tensor in checkpoint.tensors.values()))
    free = workspace.compute.free_bytes()
    if needed <= free:
        return None
    return f"to load it whole takes about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"


def verify_model(
    decoder: Decoder,
    model: PreTrainedModel,
    *,
    removed: Sequence[int] = (),
    experts: Mapping[int, Sequence[int]] | None = None,
) -> None:
    """Compare the logits of a model in memory with those of the one that it was made from.

    Args:
        decoder: the source.
        model: the new model, in the source's dtype.
        removed: the blocks that it lacks, by their index in the source.
        experts: for each block, the experts that it lacks.

    Raises:
        VerificationError: they differ.
    """
    tokens = random_tokens(decoder, _WINDOWS, min(_SEQ_LEN, positions(decoder.model.config)))
    training = model.training
    expected = _bypassed_logits(decoder, tokens, removed, experts or {})
    _require_same_logits(model.eval(), tokens, expected, called="new model")
    model.train(training)


def _require_same_logits(model: PreTrainedModel, tokens: Tensor, expected: Tensor, *, called: str) -> float:
    """See that a model gives just these logits; returns the largest difference."""
    with torch.inference_mode():
        found = model(input_ids=tokens, use_cache=False).logits
    return _require_close(found, expected, model.dtype, called=called, model=model)


def _require_close(
    found: Tensor, expected: Tensor, dtype: torch.dtype, *, called: str, model: PreTrainedModel, where: str = ""
) -> float:
    """See that logits are the expected ones; returns the largest difference.

    Raises:
        VerificationError: they are not.
        NumericalError: those that are expected are NaN or infinite.
    """
    if not bool(expected.isfinite().all()):
        raise NumericalError(
            f"The source computes NaN or infinity in {dtype_name(dtype)}, with which nothing can be compared; look for "
            "weights that are far larger than others, or type `verify=False`."
        )
    difference = float((found.float() - expected.float()).abs().max())
    allowed = allowed_difference(dtype, expected.float())
    if not difference <= allowed:
        raise VerificationError(
            f"The {called}'s logits differ from the source's by {difference:.3g} (allowed: {allowed:.3g}){where}. "
            f"Please report this model type: {model.config.model_type}."
        )
    return difference


def check_loads(directory: Path, *, compute: Compute, trust_remote_code: bool = False) -> None:
    """Load a checkpoint block by block, run a few tokens through it, and load its tokenizer if it has one.

    Raises:
        ModelError: config, weights and tokenizer do not belong together.
        CheckpointError: weights are missing or malformed.
        NumericalError: it computes NaN or infinity.
    """
    decoder = open_decoder(directory, device=compute.device, dtype=compute.dtype, trust_remote_code=trust_remote_code)
    with torch.inference_mode():
        logits = _bypassed_logits(decoder, random_tokens(decoder, _WINDOWS, 8), (), {})
    if not torch.isfinite(logits).all():
        raise NumericalError(f"{directory} computes NaN or infinity in {dtype_name(decoder.dtype)}.")
    if (directory / "tokenizer_config.json").exists():
        load_tokenizer(directory, trust_remote_code=trust_remote_code)


def _bypassed_logits(
    decoder: Decoder, tokens: Tensor, removed: Sequence[int], experts: Mapping[int, Sequence[int]]
) -> Tensor:
    hidden = decoder.runner.embed(tokens)
    calls = decoder.runner.calls(tokens)
    for block in kept_blocks(len(decoder.blocks), removed):
        with decoder.block(block), unchosen(decoder.blocks[block], experts.get(block, ())):
            hidden = decoder.runner.forward_block(block, hidden, calls[block])
    return decoder.runner.logits(hidden)


def _load(workspace: Workspace, directory: Path, dtype: torch.dtype) -> PreTrainedModel:
    return load_whole(
        directory, device=workspace.compute.device, dtype=dtype, trust_remote_code=workspace.trust_remote_code
    )

"""Seeing that a written checkpoint computes what its source does, blocks bypassed or weights replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmprune.artifacts.checkpoints.block_numbers import kept_blocks
from llmprune.artifacts.records.pruning import Verification
from llmprune.errors import ModelError, NumericalError, VerificationError
from llmprune.evaluation.generation import generate, plain_greedy_config
from llmprune.models.compute import Compute, dtype_name
from llmprune.models.decoder import Decoder
from llmprune.models.loading import load_tokenizer, load_whole, open_decoder
from llmprune.models.source import positions
from llmprune.quiet import first_sentence
from llmprune.stages.common.workspace import Workspace

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WINDOWS, _SEQ_LEN, _NEW_TOKENS = 2, 64, 16
# The same operations run on the same weights, so the logits should be equal; what is
# allowed is what another order of summation may change, relative to the largest logit.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def verify_checkpoint(
    workspace: Workspace, pruned: Path, *, removed: Sequence[int] = (), weights: Sequence[Path] = ()
) -> Verification:
    """Load ``pruned`` as any user would and compare it with the source, whose blocks are run one by one.

    Args:
        workspace: the source model.
        pruned: the new checkpoint's directory.
        removed: the blocks that it lacks, by their index in the source.
        weights: files of the tensors in which it differs from the source.

    Raises:
        VerificationError: it cannot be loaded, its logits differ, or generation with and without the KV cache does
            where the source's does not.
        ModelError: the source would have to be loaded whole for that, and cannot be.
    """
    tokens, expected = _expected_logits(workspace, removed, weights)
    workspace.progress.say("Loading the written checkpoint again to compare it with the source model.")
    dtype = workspace.compute.dtype or expected.dtype
    try:
        model = _load(workspace, pruned, dtype)
    except ModelError as error:
        raise VerificationError(
            f"The written checkpoint cannot be loaded again, so it was not kept: {error}"
        ) from error
    difference = _require_same_logits(model, tokens, expected, called="written checkpoint")
    prompt = tokens[:1, :8]
    check = _compare_generation(model, prompt)
    remark = None
    if check.fault is not None:
        del model
        workspace.progress.say("Loading the source model whole to see whether it generates like that too.")
        remark = _same_in_source(_load(workspace, workspace.directory, dtype), prompt, check)
        workspace.progress.say(remark)
    return Verification(
        dtype=dtype_name(dtype),
        tokens=tokens.numel(),
        largest_difference=difference,
        generated_tokens=check.same,
        remark=remark,
    )


def verify_model(decoder: Decoder, model: PreTrainedModel, *, removed: Sequence[int] = ()) -> None:
    """Compare the logits of a model in memory with those of the one that it was made from.

    Args:
        decoder: the source.
        model: the new model, in the source's dtype.
        removed: the blocks that it lacks, by their index in the source.

    Raises:
        VerificationError: they differ.
    """
    tokens = _random_tokens(decoder, min(_SEQ_LEN, positions(decoder.model.config)))
    training = model.training
    _require_same_logits(model.eval(), tokens, _bypassed_logits(decoder, tokens, removed), called="new model")
    model.train(training)


def _require_same_logits(model: PreTrainedModel, tokens: Tensor, expected: Tensor, *, called: str) -> float:
    """See that a model gives just these logits; returns the largest difference."""
    with torch.inference_mode():
        found = model(input_ids=tokens, use_cache=False).logits.float()
    difference = float((found - expected.float()).abs().max())
    allowed = _allowed(model.dtype, expected.float())
    if not difference <= allowed:
        raise VerificationError(
            f"The {called}'s logits differ from the source's by {difference:.3g} (allowed: {allowed:.3g}); it was not "
            f"kept. Please report this model type: {model.config.model_type}."
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
        logits = _bypassed_logits(decoder, _random_tokens(decoder, seq_len=8), ())
    if not torch.isfinite(logits).all():
        raise NumericalError(f"{directory} computes NaN or infinity in {dtype_name(decoder.dtype)}.")
    if (directory / "tokenizer_config.json").exists():
        load_tokenizer(directory, trust_remote_code=trust_remote_code)


def _random_tokens(decoder: Decoder, seq_len: int) -> Tensor:
    """A few windows of random tokens: any text would do, and none need be at hand."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(decoder.model.config.get_text_config(decoder=True).vocab_size)
    return torch.randint(vocabulary, (_WINDOWS, seq_len), generator=generator).to(decoder.device)


def _bypassed_logits(decoder: Decoder, tokens: Tensor, removed: Sequence[int]) -> Tensor:
    hidden = decoder.runner.embed(tokens)
    calls = decoder.runner.calls(tokens)
    for block in kept_blocks(len(decoder.blocks), removed):
        with decoder.block(block):
            hidden = decoder.runner.forward_block(block, hidden, calls[block])
    return decoder.runner.logits(hidden)


def _expected_logits(workspace: Workspace, removed: Sequence[int], weights: Sequence[Path]) -> tuple[Tensor, Tensor]:
    """Tokens, and the logits that the source's blocks give on them, run one by one."""
    decoder = workspace.open_decoder()
    decoder.checkpoint = decoder.checkpoint.overlaid(weights)
    tokens = _random_tokens(decoder, min(_SEQ_LEN, workspace.positions))
    return tokens, _bypassed_logits(decoder, tokens, removed)


def _load(workspace: Workspace, directory: Path, dtype: torch.dtype) -> PreTrainedModel:
    return load_whole(
        directory, device=workspace.compute.device, dtype=dtype, trust_remote_code=workspace.trust_remote_code
    )


@dataclass(frozen=True)
class _Generation:
    """What a model generates with and without its KV cache.

    Attributes:
        same: how many tokens were alike.
        difference: the largest one of the logits before each of them, and before the first that was not alike.
        fault: why both do not count as the same, in words that go on after the model's name; None: they do.
    """

    same: int
    difference: float
    fault: str | None = None


def _compare_generation(model: PreTrainedModel, prompt: Tensor) -> _Generation:
    """Generate greedily with and without the KV cache.

    Where the two differ, the first different token decides: if the model all but ties
    between both, rounding may choose either, and nothing is wrong.
    """
    runs = []
    for use_cache in (True, False):
        try:
            runs.append(_generate(model, prompt, use_cache=use_cache))
        except Exception as error:  # whatever a model's own code makes of a cache, or of none
            how = "with" if use_cache else "without"
            fault = f"cannot generate {how} the KV cache (transformers: {first_sentence(error)})"
            return _Generation(0, float("inf"), fault)
    (cached, cached_logits), (plain, plain_logits) = runs
    same = int((cached == plain).int().cumprod(0).sum())
    compared = slice(same + 1)
    difference = float((cached_logits[compared] - plain_logits[compared]).abs().max())
    if same == len(plain):
        return _Generation(same, difference)
    logits = plain_logits[same]
    gap = float((logits[cached[same]] - logits[plain[same]]).abs())
    if gap <= _allowed(model.dtype, logits):
        return _Generation(same, difference)
    fault = f"generates other text with the KV cache than without (from token {same}, gap {gap:.3g})"
    return _Generation(same, difference, fault)


def _generate(model: PreTrainedModel, prompt: Tensor, *, use_cache: bool) -> tuple[Tensor, Tensor]:
    """Greedily generated tokens (new), and the logits (new, vocab_size) in float32 that chose them."""
    logits: list[Tensor] = []
    hook = model.register_forward_hook(lambda _model, _inputs, output: logits.append(output.logits[0, -1].float()))
    try:
        tokens = generate(model, prompt, plain_greedy_config(_NEW_TOKENS, use_cache=use_cache))
    finally:
        hook.remove()
    return tokens[0], torch.stack(logits)


def _same_in_source(source: PreTrainedModel, prompt: Tensor, check: _Generation) -> str:
    """A remark where the source's logits, too, depend on the cache by more than rounding.

    Raises:
        VerificationError: the written checkpoint's alone do.
    """
    theirs = _compare_generation(source, prompt)
    with torch.inference_mode():
        rounding = _allowed(source.dtype, source(input_ids=prompt, use_cache=False).logits.float())
    if theirs.difference <= rounding:
        raise VerificationError(f"The written checkpoint {check.fault}, and the source does not; it was not kept.")
    own = theirs.fault or f"gives other logits with the KV cache than without (by {theirs.difference:.3g})"
    return f"The source itself {own}; the written checkpoint {check.fault}."


def _allowed(dtype: torch.dtype, logits: Tensor) -> float:
    """How far logits may be apart for another order of summation."""
    return _TOLERANCE[dtype] * max(1.0, float(logits.abs().max()))

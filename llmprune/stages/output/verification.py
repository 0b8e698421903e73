"""Seeing that a written checkpoint computes what its source does, blocks bypassed or weights replaced."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmprune.artifacts.checkpoints.block_numbers import kept_blocks
from llmprune.artifacts.records.pruning import Verification
from llmprune.errors import ModelError, NumericalError, VerificationError
from llmprune.models.compute import Compute, dtype_name
from llmprune.models.decoder import Decoder
from llmprune.models.loading import load_tokenizer, load_whole, open_decoder
from llmprune.models.source import positions
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
        VerificationError: it cannot be loaded, logits differ, or generation with and without the KV cache does.
    """
    decoder = workspace.open_decoder()
    decoder.checkpoint = decoder.checkpoint.overlaid(weights)
    tokens = _random_tokens(decoder, min(_SEQ_LEN, workspace.positions))
    expected = _bypassed_logits(decoder, tokens, removed)
    del decoder
    workspace.progress.say("Loading the written checkpoint again to compare it with the source model.")
    dtype = workspace.compute.dtype or expected.dtype
    try:
        model = load_whole(
            pruned, device=workspace.compute.device, dtype=dtype, trust_remote_code=workspace.trust_remote_code
        )
    except ModelError as error:
        raise VerificationError(
            f"The written checkpoint cannot be loaded again, so it was not kept; this model type "
            f"({workspace.model.model_type}) needs something that is gone."
        ) from error
    difference = _require_same_logits(model, tokens, expected, called="written checkpoint")
    generated = _compare_generation(model, tokens[:1, :8], workspace.model.model_type)
    return Verification(
        dtype=dtype_name(dtype),
        tokens=tokens.numel(),
        largest_difference=difference,
        generated_tokens=generated,
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
    allowed = _TOLERANCE[model.dtype] * max(1.0, float(expected.float().abs().max()))
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
            hidden = decoder.runner.run(block, hidden, calls[block])
    return decoder.runner.logits(hidden)


def _compare_generation(model: PreTrainedModel, prompt: Tensor, model_type: str) -> int:
    """Greedy generation must be the same with and without the KV cache.

    Where the two differ, the first different token decides: if the model all but ties
    between both, rounding may choose either, and nothing is wrong.
    """
    with_cache, without = (_generate(model, prompt, use_cache=use_cache) for use_cache in (True, False))
    same = int((with_cache == without).int().cumprod(0).sum())
    if same < len(with_cache):
        with torch.inference_mode():
            context = torch.cat([prompt[0], without[:same]])[None]
            logits = model(input_ids=context, use_cache=False).logits[0, -1].float()
        gap = float((logits[with_cache[same]] - logits[without[same]]).abs())
        if gap > _TOLERANCE[model.dtype] * max(1.0, float(logits.abs().max())):
            raise VerificationError(
                f"The written checkpoint generates other text with the KV cache than without (token {same}, gap "
                f"{gap:.3g}); it was not kept. Please report this model type: {model_type}."
            )
    return same


def _generate(model: PreTrainedModel, prompt: Tensor, *, use_cache: bool) -> Tensor:
    output = model.generate(  # type: ignore[operator]
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=_NEW_TOKENS,
        min_new_tokens=_NEW_TOKENS,
        use_cache=use_cache,
        pad_token_id=0,
    )
    assert isinstance(output, Tensor)
    return output[0, prompt.shape[1] :]

"""What a model must be like for its blocks to be run, removed or pruned one by one; found by trying, never by name."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llmprune.errors import LlmpruneError, ModelError
from llmprune.models.capture import BlockRunner
from llmprune.models.random_weights import RandomWeights
from llmprune.quiet import first_sentence

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmprune.models.decoder import Decoder


def require_own_weights(model: PreTrainedModel, path: str) -> None:
    """See that no block has weights of another one, which could not come and go with it.

    Args:
        model: with or without weights.
        path: of the list of its blocks.

    Raises:
        ModelError: one has.
    """
    shared = [name for pair in model.all_tied_weights_keys.items() for name in pair if name.startswith(f"{path}.")]
    if shared:
        raise ModelError(
            f"Blocks of {type(model).__name__} share weights ({min(shared)}); llmprune removes and prunes blocks one "
            "by one, and needs blocks with weights of their own."
        )


def require_separable(decoder: Decoder) -> None:
    """See that a model is a chain of blocks which pass on hidden states alone (block 0 must have its weights).

    Raises:
        ModelError: it is not, or it cannot be run on tokens alone.
    """
    try:
        with torch.inference_mode():
            _require_one_stream(decoder)
            _require_plain_chain(decoder)
            _require_causal(decoder)
            _require_no_handing_on(decoder)
    except LlmpruneError:
        raise
    except Exception as error:  # a model's code may fail in any way when it is given nothing but tokens
        raise ModelError(
            f"{type(decoder.model).__name__} cannot be run on tokens alone: {first_sentence(error)}"
        ) from error


def _tokens(decoder: Decoder, *tokens: int) -> Tensor:
    return torch.tensor([tokens], device=decoder.device)


def _require_one_stream(decoder: Decoder) -> None:
    """See that what enters the first block is (batch, seq_len, hidden_size)."""
    tokens = _tokens(decoder, 0, 0, 0)
    hidden = decoder.runner.embed(tokens)
    kind = type(decoder.model).__name__
    if hidden.ndim > 3:
        raise ModelError(
            f"{kind} keeps several residual streams: its blocks are given {tuple(hidden.shape)} for 3 tokens, and "
            "(1, 3, hidden_size) was expected; llmprune needs a decoder with one stream of hidden states."
        )
    if hidden.ndim < 3 or hidden.shape[:2] != tokens.shape:
        raise ModelError(
            f"{kind} gives its blocks hidden states of shape {tuple(hidden.shape)} for 3 tokens; "
            "(1, 3, hidden_size) was expected."
        )


def _require_plain_chain(decoder: Decoder) -> None:
    """See that every block is run once, and that the next one is given what it returned."""
    tokens = _tokens(decoder, 0, 0)
    decoder.runner.learn_returned(tokens)
    kind = type(decoder.model).__name__
    first, call = decoder.runner.entries(tokens)[0]
    leaving = decoder.runner.forward_block(0, first, call)
    if leaving.shape != first.shape:
        raise ModelError(
            f"Block 0 of {kind} makes {tuple(leaving.shape)} of hidden states of {tuple(first.shape)}; the same shape "
            "was expected, or a block could not be left out."
        )
    for index, (hidden, _) in enumerate(decoder.runner.entries(tokens, to_the_end=True)):
        if not torch.equal(hidden, first):
            raise ModelError(
                f"{kind} changes the hidden states between its blocks {index - 1} and {index}; llmprune needs a "
                "decoder that hands them on as they are."
            )


def _require_causal(decoder: Decoder) -> None:
    """See that a token's hidden state does not depend on the tokens after it.

    Many encoders can be loaded as causal LMs, and nothing in a config tells for all of them.
    """
    one, other = (
        decoder.runner.forward_block(0, *decoder.runner.entries(_tokens(decoder, 0, *[token] * 7))[0])[0, 0]
        for token in (0, 1)
    )
    rounding = 4 * torch.finfo(one.dtype).eps * one.abs().max()
    if (one - other).abs().max() > rounding:
        raise ModelError(
            f"{type(decoder.model).__name__} lets tokens see the ones after them (an encoder, perhaps); "
            "a causal language model was expected."
        )


def _require_no_handing_on(decoder: Decoder) -> None:
    """See that no block needs what an earlier one may hand on to it beside the hidden states."""
    entries = decoder.runner.entries(_tokens(decoder, 0, 0))
    taking = [index for index, (_, call) in enumerate(entries) if index > 0 and call.handed_on]
    if not taking:
        return
    weights = RandomWeights(decoder.device)
    blocks = list(decoder.blocks)
    for index in taking:
        trial = deepcopy(blocks[index], {id(parameter): parameter for parameter in blocks[index].parameters()})
        weights.fill(trial)
        runner = BlockRunner(decoder.model, [*blocks[:index], trial, *blocks[index + 1 :]])
        runner.forward_block(index, *entries[index])

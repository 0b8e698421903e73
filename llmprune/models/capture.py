"""Running a decoder one block at a time, with the arguments that the model itself passes its blocks.

No family is known by name here. The model's own ``forward`` is run with its blocks
relayed: each stands in for a moment by a function that notes how it was called.
What the model computes around its blocks (embeddings, rotary tables, masks for
sliding and full attention, ALiBi, final norm, head, soft-capping) is thus always
the model's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class BlockCall:
    """How the model calls one block: every argument but the hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Stop(BaseException):
    """Ends a forward pass once everything wanted from it is known.

    A BaseException, so that no ``except Exception`` in a model's code can swallow it.
    """


@contextmanager
def relayed(blocks: Iterable[nn.Module], forwards: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Let each block's ``forward`` be another function for as long as the context lasts."""
    blocks = list(blocks)
    for block, forward in zip(blocks, forwards, strict=True):
        block.forward = forward  # an instance attribute, which shadows the class's method
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def hidden_of(output: Any) -> Tensor:
    """The hidden states in what a block returns: the tensor itself, or the first of a tuple."""
    hidden = output[0] if isinstance(output, tuple) else output
    assert isinstance(hidden, Tensor)
    return hidden


class BlockRunner:
    """A causal LM seen as: embedding, a list of blocks, head.

    The runner never loads weights. The caller sees to it that block ``k`` has its
    weights when ``run(k, ...)`` is called, and that the rest of the model has its own.

    Args:
        model: a causal LM in eval mode.
        blocks: its transformer blocks.
    """

    def __init__(self, model: nn.Module, blocks: Iterable[nn.Module]) -> None:
        self._model = model
        self._blocks = list(blocks)
        self._returns_tuple: bool | None = None

    def embed(self, tokens: Tensor) -> Tensor:
        """Hidden states entering the first block.

        Args:
            tokens: (batch, seq_len) int64.

        Returns:
            (batch, seq_len, hidden_size) in the model's dtype.
        """
        return self._first_call(tokens)[0]

    @torch.inference_mode()
    def calls(self, tokens: Tensor) -> list[BlockCall]:
        """How the model calls each of its blocks on ``tokens`` (batch, seq_len)."""
        calls: list[BlockCall] = []

        def note(*args: Any, **kwargs: Any) -> Any:
            hidden, call = _split_hidden(args, kwargs)
            calls.append(call)
            if len(calls) == len(self._blocks):
                raise _Stop
            return self._as_returned(hidden)

        with relayed(self._blocks, [note] * len(self._blocks)), suppress(_Stop):
            self._forward(tokens)
        return calls

    @torch.inference_mode()
    def run(self, index: int, hidden: Tensor, call: BlockCall) -> Tensor:
        """Output of block ``index`` on ``hidden`` (batch, seq_len, hidden_size): same shape and dtype."""
        output = self._blocks[index](hidden, *call.args, **call.kwargs)
        self._returns_tuple = isinstance(output, tuple)
        return hidden_of(output)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits that the model computes from hidden states leaving the last block.

        Everything behind the blocks works position by position, so any slice of
        positions may be given.

        Args:
            hidden: (batch, positions, hidden_size).

        Returns:
            (batch, positions, vocab_size) in the model's dtype.
        """

        def inject(*_: Any, **__: Any) -> Any:
            return self._as_returned(hidden)

        placeholder = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
        with relayed(self._blocks, [inject] * len(self._blocks)):
            output = self._forward(placeholder)
        logits = output.logits
        assert isinstance(logits, Tensor)
        return logits

    def learn_return_type(self, tokens: Tensor) -> None:
        """Run block 0 (whose weights must be there) once on ``tokens`` to see what blocks return."""
        self.run(0, *self._first_call(tokens))

    @torch.inference_mode()
    def _first_call(self, tokens: Tensor) -> tuple[Tensor, BlockCall]:
        caught: list[tuple[Tensor, BlockCall]] = []

        def stop(*args: Any, **kwargs: Any) -> None:
            caught.append(_split_hidden(args, kwargs))
            raise _Stop

        with relayed(self._blocks, [stop] * len(self._blocks)), suppress(_Stop):
            self._forward(tokens)
        return caught[0]

    def _as_returned(self, hidden: Tensor) -> Any:
        assert self._returns_tuple is not None, "learn_return_type() first"
        return (hidden,) if self._returns_tuple else hidden

    def _forward(self, tokens: Tensor) -> Any:
        return self._model(input_ids=tokens, use_cache=False)


def _split_hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, BlockCall]:
    """Take the hidden states out of a block's arguments, wherever the model put them."""
    if args:
        return args[0], BlockCall(args[1:], kwargs)
    return kwargs["hidden_states"], BlockCall((), {k: v for k, v in kwargs.items() if k != "hidden_states"})


@contextmanager
def bypassed(blocks: nn.ModuleList, indices: Sequence[int], *, returns_tuple: bool) -> Iterator[None]:
    """Let the blocks at ``indices`` return their input unchanged, as if they were removed."""

    def identity(*args: Any, **kwargs: Any) -> Any:
        hidden, _ = _split_hidden(args, kwargs)
        return (hidden,) if returns_tuple else hidden

    with relayed([blocks[index] for index in indices], [identity] * len(indices)):
        yield

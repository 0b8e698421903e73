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
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from llmprune.errors import ModelError
from llmprune.models.block_output import HandedOn, HandedOnUsedError, Returned
from llmprune.models.devices import exact_products
from llmprune.models.halving import Halving


@dataclass(frozen=True)
class BlockCall:
    """How the model calls one block: every argument but the hidden states.

    Attributes:
        args: the positional ones.
        kwargs: the others.
        tokens: (batch, seq_len) that they were made for; None: not known.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tokens: Tensor | None = None

    @property
    def handed_on(self) -> bool:
        """Whether the block is given what an earlier block may hand on to it beside the hidden states."""
        return any(isinstance(value, HandedOn) for value in (*self.args, *self.kwargs.values()))


def tensor_bytes(calls: Iterable[BlockCall]) -> int:
    """Bytes of all tensors among the arguments; what several blocks are given counts once."""
    found: dict[int, int] = {}
    waiting: list[Any] = [value for call in calls for value in (*call.args, *call.kwargs.values())]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            found[value.data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
    return sum(found.values())


class _Stop(BaseException):
    """Ends a forward pass once everything wanted from it is known.

    A BaseException, so that no ``except Exception`` in a model's code can swallow it.
    """


@contextmanager
def relayed(blocks: Iterable[nn.Module], forwards: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Let each block's ``forward`` be another function for as long as the context lasts.

    What a user or a library has put in its place before, such as accelerate, is there again afterwards.
    """
    blocks = list(blocks)
    before = [block.__dict__.get("forward") for block in blocks]
    for block, forward in zip(blocks, forwards, strict=True):
        block.forward = forward  # an instance attribute, which shadows the class's method
    try:
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            if own is None:
                del block.forward
            else:
                block.forward = own


class BlockRunner:
    """A causal LM seen as: embedding, a list of blocks, head.

    The runner never loads weights. The caller sees to it that block ``k`` has its
    weights when ``forward_block(k, ...)`` is called, and that the rest of the model has its own.

    Args:
        model: a causal LM in eval mode.
        blocks: its transformer blocks.

    Attributes:
        halving: runs a batch in halves where memory does not suffice, unless somebody watches the block's layers.
    """

    def __init__(self, model: nn.Module, blocks: Iterable[nn.Module]) -> None:
        self._model = model
        self._blocks = list(blocks)
        self._returned: Returned | None = None
        self.halving = Halving()

    @property
    def returned(self) -> Returned:
        """What a block of this model returns; ``learn_returned`` comes first."""
        assert self._returned is not None, "learn_returned() first"
        return self._returned

    @property
    def stream_dtype(self) -> torch.dtype:
        """What blocks hand on: the model's dtype, or float32 where that is summed up in it (Mamba)."""
        return self.returned.hidden.dtype

    def embed(self, tokens: Tensor) -> Tensor:
        """Hidden states entering the first block.

        Args:
            tokens: (batch, seq_len) int64.

        Returns:
            (batch, seq_len, hidden_size) in ``stream_dtype``, or before that is known in the model's dtype.
        """
        hidden = self._first_call(tokens)[0]
        return hidden if self._returned is None else hidden.to(self.stream_dtype)

    def calls(self, tokens: Tensor) -> list[BlockCall]:
        """How the model calls each of its blocks on ``tokens`` (batch, seq_len)."""
        return [call for _, call in self.entries(tokens)]

    @torch.inference_mode()
    def entries(self, tokens: Tensor, *, to_the_end: bool = False) -> list[tuple[Tensor, BlockCall]]:
        """What the model gives each of its blocks, when every block before it returns what it was given.

        Args:
            tokens: (batch, seq_len) int64.
            to_the_end: go on behind the last block, to see that none runs again; what else is there is computed too.

        Raises:
            ModelError: the model does not run each of its blocks once, in order.
        """
        entries: list[tuple[Tensor, BlockCall]] = []

        def noting(index: int) -> Callable[..., Any]:
            def note(*args: Any, **kwargs: Any) -> Any:
                if index != len(entries):
                    how = f"block {index} again" if index < len(entries) else f"block {index} before {len(entries)}"
                    raise self._runs_otherwise(how)
                hidden, call = _split_hidden(args, kwargs)
                entries.append((hidden, replace(call, tokens=tokens)))
                if len(entries) == len(self._blocks) and not to_the_end:
                    raise _Stop
                return self.returned.around(entries[-1][0])

            return note

        with relayed(self._blocks, [noting(index) for index in range(len(self._blocks))]), suppress(_Stop):
            self._forward(tokens)
        if len(entries) < len(self._blocks):
            raise self._runs_otherwise(f"only {len(entries)} of its {len(self._blocks)} blocks")
        return entries

    @torch.inference_mode()
    def pass_by(self, tokens: Tensor, *, use_cache: bool) -> None:
        """Run whatever the model computes around its blocks on ``tokens`` (batch, seq_len)."""
        returned = self.returned

        def give_back(*args: Any, **kwargs: Any) -> Any:
            return returned.around(_split_hidden(args, kwargs)[0])

        with relayed(self._blocks, [give_back] * len(self._blocks)):
            self._model(input_ids=tokens, use_cache=use_cache)

    @torch.inference_mode()
    def forward_block(self, index: int, hidden: Tensor, call: BlockCall) -> Tensor:
        """Output of block ``index`` on ``hidden`` (batch, seq_len, hidden_size): same shape and dtype.

        Raises:
            ModelError: the block computes with what an earlier block handed on beside the hidden states.
        """

        def part(rows: slice) -> Tensor:
            if rows.stop - rows.start >= len(hidden) or call.tokens is None:
                return self._run_block(index, hidden, call).hidden
            return self._run_block(index, hidden[rows], self.calls(call.tokens[rows])[index]).hidden

        watched = any(one._forward_hooks or one._forward_pre_hooks for one in self._blocks[index].modules())
        return self.halving.run(hidden, part, divisible=call.tokens is not None and not watched)

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
            return self.returned.around(hidden)

        placeholder = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
        held = relayed(self._blocks, [inject] * len(self._blocks))
        with held, self._handing_on_refused("The head"), exact_products():
            output = self._forward(placeholder)
        logits = output.logits
        assert isinstance(logits, Tensor)
        return logits

    @torch.inference_mode()
    def learn_returned(self, tokens: Tensor) -> None:
        """Run block 0 (whose weights must be there) once on ``tokens`` to see what blocks return.

        Raises:
            ModelError: the model does not run its first block, or that returns no hidden states.
        """
        self._returned = self._run_block(0, *self._first_call(tokens))

    def _run_block(self, index: int, hidden: Tensor, call: BlockCall) -> Returned:
        with self._handing_on_refused(f"Block {index}"), exact_products():
            return Returned(self._blocks[index](hidden, *call.args, **call.kwargs))

    @contextmanager
    def _handing_on_refused(self, who: str) -> Iterator[None]:
        """Say what is wrong where blocks hand more on to one another than hidden states."""
        try:
            yield
        except HandedOnUsedError:
            raise ModelError(
                f"{who} of {type(self._model).__name__} computes with more than the hidden states of the blocks before "
                "it: these hand on state of their own (keys and values, say, or a choice of tokens). Such blocks "
                "cannot be run, removed or pruned one by one."
            ) from None

    @torch.inference_mode()
    def _first_call(self, tokens: Tensor) -> tuple[Tensor, BlockCall]:
        caught: list[tuple[Tensor, BlockCall]] = []

        def stop(*args: Any, **kwargs: Any) -> None:
            caught.append(_split_hidden(args, kwargs))
            raise _Stop

        with relayed(self._blocks, [stop] * len(self._blocks)), suppress(_Stop):
            self._forward(tokens)
        if not caught:
            raise self._runs_otherwise("none of its blocks")
        return caught[0]

    def _forward(self, tokens: Tensor) -> Any:
        return self._model(input_ids=tokens, use_cache=False)

    def _runs_otherwise(self, found: str) -> ModelError:
        return ModelError(
            f"{type(self._model).__name__} runs {found}; llmprune needs a decoder that runs each of its blocks "
            "once, one after the other."
        )


def _split_hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, BlockCall]:
    """Take the hidden states out of a block's arguments, wherever the model put them."""
    others = tuple(HandedOn.instead_of_store(value) for value in args[1:])
    named = {name: HandedOn.instead_of_store(value) for name, value in kwargs.items()}
    if args:
        return args[0], BlockCall(others, named)
    return kwargs["hidden_states"], BlockCall((), {name: named[name] for name in named if name != "hidden_states"})


@contextmanager
def bypassed(blocks: nn.ModuleList, indices: Sequence[int], returned: Returned) -> Iterator[None]:
    """Let the blocks at ``indices`` return their input unchanged, as if they were removed.

    Args:
        blocks: of a model.
        indices: which of them.
        returned: what one of them returned, for the kind of it.
    """

    def identity(*args: Any, **kwargs: Any) -> Any:
        hidden, _ = _split_hidden(args, kwargs)
        return returned.around(hidden)

    with relayed([blocks[index] for index in indices], [identity] * len(indices)):
        yield

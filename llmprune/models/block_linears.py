"""The weight matrices of a block: where they are, how they are stored, and in what order they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from llmprune.choices import Part

_ATTENTION = ("attn", "attention")  # what families call the module that their attention's matrices are in


@dataclass(frozen=True)
class LinearSlot:
    """A weight matrix of a block.

    Attributes:
        path: its module's path in the block, e.g. ``self_attn.q_proj``.
        tensor: its name in the checkpoint.
        out_features: rows of the matrix as mathematics writes it, y = W x.
        in_features: columns of it.
        transposed: stored as (in, out), as GPT-2's Conv1D is.
    """

    path: str
    tensor: str
    out_features: int
    in_features: int
    transposed: bool = False

    @property
    def numel(self) -> int:
        """How many weights it has."""
        return self.out_features * self.in_features

    def turned(self, stored: Tensor) -> Tensor:
        """From (out, in) to how it is stored, or back."""
        return stored.T if self.transposed else stored

    def part(self) -> Part:
        """What it belongs to, by its name; what is no attention counts as FFN."""
        return Part.ATTENTION if any(word in self.path.lower() for word in _ATTENTION) else Part.FFN


def find_linears(block: nn.Module, *, tensor_prefix: str) -> dict[str, LinearSlot]:
    """Every linear layer of a block, by path.

    Args:
        block: a transformer block; its weights may be on the meta device.
        tensor_prefix: what the checkpoint puts before the path, e.g. ``model.layers.3.``.
    """
    return {
        path: _slot(path, module, tensor_prefix)
        for path, module in block.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }


def _slot(path: str, module: nn.Linear | Conv1D, tensor_prefix: str) -> LinearSlot:
    transposed = isinstance(module, Conv1D)
    rows, columns = module.weight.T.shape if transposed else module.weight.shape
    return LinearSlot(path, f"{tensor_prefix}{path}.weight", rows, columns, transposed)


class _Reached(BaseException):
    """Ends a block's forward pass where nothing more of it is wanted.

    A BaseException, so that no ``except Exception`` in a model's code can swallow it.
    """


@contextmanager
def inputs_noted(modules: Mapping[str, nn.Module], note: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call ``note(path, input)`` before each of the modules runs, for as long as the context lasts."""

    def hook(path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, args: note(path, args[0])

    with ExitStack() as hooks:
        for path, module in modules.items():
            handle = module.register_forward_pre_hook(hook(path))
            hooks.callback(handle.remove)
        yield


@contextmanager
def outputs_noted(modules: Mapping[str, nn.Module], note: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call ``note(path, output)`` after each of the modules has run, for as long as the context lasts."""

    def hook(path: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        return lambda _module, _inputs, output: note(path, output)

    with ExitStack() as hooks:
        for path, module in modules.items():
            handle = module.register_forward_hook(hook(path))
            hooks.callback(handle.remove)
        yield


def input_of(module: nn.Module, run: Callable[[], object]) -> Tensor:
    """What ``module`` is given when ``run`` is called; nothing behind it is computed."""
    caught: list[Tensor] = []

    def stop(_: str, value: Tensor) -> None:
        caught.append(value)
        raise _Reached

    with inputs_noted({"": module}, stop), suppress(_Reached):
        run()
    return caught[0]


def trace(modules: Mapping[str, nn.Module], run: Callable[[], object]) -> list[tuple[str, Tensor]]:
    """Path and input of every module, in the order in which ``run`` used them; one that it did not use is left out."""
    noted: list[tuple[str, Tensor]] = []
    with inputs_noted(modules, lambda path, value: noted.append((path, value))):
        run()
    return noted


def by_input(traced: Sequence[tuple[str, Tensor]]) -> list[tuple[str, ...]]:
    """Group paths whose modules were given the same tensor (query, key and value; gate and up), in order of use."""
    groups: dict[tuple[int, int], list[str]] = {}
    for path, value in traced:
        groups.setdefault((value.data_ptr(), value.numel()), []).append(path)
    return [tuple(dict.fromkeys(paths)) for paths in groups.values()]

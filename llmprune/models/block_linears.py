"""The weight matrices of a block: where they are, how they are stored, and in what order they are used."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from llmprune.choices import Part

_ATTENTION = ("attn", "attention")  # what families call the module that their attention's matrices are in
_ROUTER = re.compile(r"(^|[._])router([._]|$)")  # and one that chooses experts


@dataclass(frozen=True)
class LinearSlot:
    """A weight matrix of a block.

    Attributes:
        path: its module's path in the block, e.g. ``self_attn.q_proj``.
        tensor: its name in the checkpoint.
        out_features: rows of the matrix as mathematics writes it, y = W x.
        in_features: columns of it.
        part: what it belongs to.
        transposed: stored as (in, out), as GPT-2's Conv1D is.
    """

    path: str
    tensor: str
    out_features: int
    in_features: int
    part: Part = Part.FFN
    transposed: bool = False

    @property
    def numel(self) -> int:
        """How many weights it has."""
        return self.out_features * self.in_features

    def turned(self, stored: Tensor) -> Tensor:
        """From (out, in) to how it is stored, or back."""
        return stored.T if self.transposed else stored


def find_linears(block: nn.Module, tensor_of: Callable[[str], str | None]) -> dict[str, LinearSlot]:
    """The linear layers of a block, by path, whose matrices are stored as they are.

    Args:
        block: a transformer block; its weights may be on the meta device.
        tensor_of: the tensor that holds a parameter of the block; None where none does as it is.
    """
    experts = _expert_counts(block)
    return {
        path: _slot(path, module, tensor, experts)
        for path, module in linear_layers(block).items()
        if (tensor := tensor_of(f"{path}.weight")) is not None
    }


def linear_layers(block: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer of a block, by path, and every router that begins as one, whatever it goes on to do."""
    experts = _expert_counts(block)
    return {
        path: module
        for path, module in block.named_modules()
        if isinstance(module, nn.Linear | Conv1D) or _is_router(path, module, experts)
    }


def _is_router(path: str, module: nn.Module, experts: Mapping[str, frozenset[int]]) -> bool:
    """Whether a module beside experts has a matrix with a row for each of them."""
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    return weight is not None and weight.ndim == 2 and _is_beside(path, len(weight), experts)


def _is_beside(path: str, rows: int, experts: Mapping[str, frozenset[int]]) -> bool:
    return any(path.startswith(f"{owner}.") and rows in counts for owner, counts in experts.items())


def _slot(path: str, module: Any, tensor: str, experts: Mapping[str, frozenset[int]]) -> LinearSlot:
    transposed = isinstance(module, Conv1D)
    rows, columns = module.weight.T.shape if transposed else module.weight.shape
    return LinearSlot(path, tensor, rows, columns, _part(path, rows, experts), transposed)


def _part(path: str, rows: int, experts: Mapping[str, frozenset[int]]) -> Part:
    """What a matrix belongs to.

    A router stands beside experts and has a row for each, or is called one. A gate of one row weighs a branch.
    Attention is known by its name.
    """
    if rows == 1 or _is_beside(path, rows, experts) or _ROUTER.search(path):
        return Part.ROUTERS
    return Part.ATTENTION if any(word in path.lower() for word in _ATTENTION) else Part.FFN


def _expert_counts(block: nn.Module) -> dict[str, frozenset[int]]:
    """The modules of a block that hold experts, by path, and how many: a list of modules, or stacks of matrices."""
    counts: dict[str, set[int]] = {}
    for path, module in block.named_modules():
        stacks = {len(parameter) for parameter in module.parameters(recurse=False) if parameter.ndim == 3}
        if isinstance(module, nn.ModuleList):
            stacks.add(len(module))
        if stacks and "." in path and not isinstance(module, nn.Conv1d):
            counts.setdefault(path.rpartition(".")[0], set()).update(stacks)
    return {path: frozenset(found) for path, found in counts.items()}


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
def first_inputs_noted(modules: Mapping[str, nn.Module], note: Callable[[str, Any], None]) -> Iterator[None]:
    """Call ``note(path, value)`` with the first argument of any of the modules, whatever it is, before it runs."""

    def hook(path: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        return lambda _, args, kwargs: note(path, next(iter((*args, *kwargs.values())), None))

    with ExitStack() as hooks:
        for path, module in modules.items():
            handle = module.register_forward_pre_hook(hook(path), with_kwargs=True)
            hooks.callback(handle.remove)
        yield


@contextmanager
def outputs_noted(modules: Mapping[str, nn.Module], note: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call ``note(path, output)`` after each of the modules has run, for as long as the context lasts.

    Of a module that returns several values (a router), the first is its output.
    """

    def hook(path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        return lambda _module, _inputs, output: note(path, output[0] if isinstance(output, tuple) else output)

    with ExitStack() as hooks:
        for path, module in modules.items():
            handle = module.register_forward_hook(hook(path))
            hooks.callback(handle.remove)
        yield


def input_of(module: nn.Module, run: Callable[[], object]) -> Tensor:
    """What ``module`` is given when ``run`` is called; nothing behind it is computed."""
    value: Tensor = arguments_of(module, run)[0]
    return value


def arguments_of(module: nn.Module, run: Callable[[], object]) -> tuple[Any, ...]:
    """All that ``module`` is given by position when ``run`` is called; nothing behind it is computed."""
    caught: list[tuple[Any, ...]] = []

    def stop(_: nn.Module, args: tuple[Any, ...]) -> None:
        caught.append(args)
        raise _Reached

    handle = module.register_forward_pre_hook(stop)
    try:
        with suppress(_Reached):
            run()
    finally:
        handle.remove()
    return caught[0]


def trace(modules: Mapping[str, nn.Module], run: Callable[[], object]) -> list[tuple[str, Tensor]]:
    """Path and input of every module that ``run`` sent tokens, in the order in which it used them."""
    noted: list[tuple[str, Tensor]] = []
    with inputs_noted(modules, lambda path, value: noted.append((path, value))):
        run()
    return [(path, value) for path, value in noted if value.numel()]


def by_input(traced: Sequence[tuple[str, Tensor]]) -> list[tuple[str, ...]]:
    """Group paths whose modules were given the same tensor (query, key and value; gate and up), in order of use."""
    groups: dict[tuple[int, int], list[str]] = {}
    for path, value in traced:
        groups.setdefault((value.data_ptr(), value.numel()), []).append(path)
    return [tuple(dict.fromkeys(paths)) for paths in groups.values()]


def zeros_of(out_features: int) -> Callable[[Tensor], Tensor]:
    """A ``forward`` that gives zeros in place of a linear layer's outputs."""
    return lambda value: value.new_zeros(*value.shape[:-1], out_features)

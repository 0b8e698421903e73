"""Ways past the parts of a block that need not run again: seen to hold on real activations, never by a name.

Attention gives what its last projection gives, and so does a feed-forward network. Once such a layer and everything in
front of it is finished, the part's output follows from what the layer was seen to be given, by one product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmprune.models.block_linears import zeros_of
from llmprune.models.capture import BlockCall, relayed
from llmprune.models.ffn_wiring import FfnWiring
from llmprune.models.open_block import OpenBlock


@dataclass(frozen=True)
class Shortcut:
    """A way past a part of a block.

    Attributes:
        layer: path of the linear layer whose output is the part's.
        part: path of the part's module, or of the layer itself where the part is no module of its own.
        values: how many values the part returns, all but the first None; 0: the output alone.
        silent: paths of the layers in front of ``layer`` where the part is no module; they give zeros meanwhile.
    """

    layer: str
    part: str
    values: int = 0
    silent: tuple[str, ...] = ()


def find_shortcuts(
    block: OpenBlock, order: Sequence[str], ffn: FfnWiring | None, hidden: Tensor, call: BlockCall
) -> tuple[Shortcut, ...]:
    """The ways past parts of an open block, in order of use, each tried on ``hidden``.

    Args:
        block: open.
        order: paths of its layers in order of use.
        ffn: its feed-forward network, where one is known.
        hidden: a window entering it.
        call: how the model calls the block on it.
    """
    layers = [path for path in order if path in block.linears()]
    parts = {path: _parts_around(path) for path in layers}
    whole, seen = _run(block, {*layers, *(part for around in parts.values() for part in around)}, hidden, call)
    found = []
    for layer in layers:
        if len(seen[layer]) != 1 or seen[layer][0].value.numel() != hidden.numel():
            continue
        possible = (_through(layer, part, seen) for part in parts[layer])
        shortcut = next((one for one in possible if one is not None), None)
        if shortcut is None and ffn is not None and layer == ffn.down:
            shortcut = Shortcut(layer, layer, silent=ffn.inner)
        if shortcut is not None and _holds(block, shortcut, seen[layer][0].copy, whole, hidden, call):
            found.append(shortcut)
    return tuple(found)


@contextmanager
def passed_by(block: OpenBlock, outputs: Mapping[Shortcut, Tensor]) -> Iterator[None]:
    """Let parts of the block give these outputs, without running, for as long as the context lasts."""
    forwards: dict[str, Callable[..., Any]] = {}
    for shortcut, output in outputs.items():
        forwards[shortcut.part] = _giving(output, shortcut.values)
        for path in shortcut.silent:
            forwards[path] = zeros_of(block.linears()[path].out_features)
    with relayed([block.module.get_submodule(path) for path in forwards], list(forwards.values())):
        yield


@dataclass(frozen=True)
class _Given:
    """What a module gave: the value itself, its first tensor, and a copy of that, which nothing behind it changes."""

    value: Tensor
    copy: Tensor
    others: tuple[Any, ...] | None


def _parts_around(path: str) -> list[str]:
    """The modules around the one at ``path``, the largest first; the block itself is none of them."""
    names = path.split(".")
    return [".".join(names[:depth]) for depth in range(1, len(names))]


def _run(block: OpenBlock, paths: set[str], hidden: Tensor, call: BlockCall) -> tuple[Tensor, dict[str, list[_Given]]]:
    """The block's output, and everything that the modules at ``paths`` give meanwhile and whose first is a tensor."""
    seen: dict[str, list[_Given]] = {path: [] for path in paths}

    def hook(path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def note(_module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
            others = tuple(output[1:]) if isinstance(output, tuple | list) else None
            first = output if others is None else output[0]
            if isinstance(first, Tensor):
                seen[path].append(_Given(first, first.clone(), others))

        return note

    with ExitStack() as hooks:
        for path in paths:
            hooks.callback(block.module.get_submodule(path).register_forward_hook(hook(path)).remove)
        return block.forward(hidden, call), seen


def _through(layer: str, part: str, seen: Mapping[str, list[_Given]]) -> Shortcut | None:
    """The way past ``part``, if it ran once and gave just what the layer gave."""
    if len(seen[part]) != 1:
        return None
    (given,), (own,) = seen[part], seen[layer]
    same = given.value.data_ptr() == own.value.data_ptr() and given.value.shape == own.value.shape
    others = given.others or ()
    if not same or any(other is not None for other in others):
        return None
    return Shortcut(layer, part, 0 if given.others is None else 1 + len(others))


def _holds(
    block: OpenBlock, shortcut: Shortcut, output: Tensor, whole: Tensor, hidden: Tensor, call: BlockCall
) -> bool:
    """Whether the block gives the same with the part passed by, and leaves the part's output as it is."""
    given = output.clone()
    with passed_by(block, {shortcut: given}):
        again = block.forward(hidden, call)
    return torch.equal(again, whole) and torch.equal(given, output)


def _giving(output: Tensor, values: int) -> Callable[..., Any]:
    whole = output if values == 0 else (output, *[None] * (values - 1))
    return lambda *_args, **_kwargs: whole

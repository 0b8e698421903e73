"""A block whose weights are there, seen from the outside: run it, look at its layers' inputs, change its weights."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmprune.algorithms.feed_forward.network import Linear
from llmprune.errors import NumericalError
from llmprune.models.block_linears import (
    LinearSlot,
    by_input,
    find_linears,
    first_inputs_noted,
    input_of,
    inputs_noted,
    linear_layers,
    outputs_noted,
    trace,
    zeros_of,
)
from llmprune.models.capture import BlockCall, relayed
from llmprune.models.compute import dtype_name
from llmprune.models.decoder import Decoder
from llmprune.models.experts import Experts, find_experts
from llmprune.models.ffn_wiring import FfnWiring, find_ffn
from llmprune.models.sums import is_sum

FEW_TOKENS = 128  # enough to tell wirings apart


@dataclass(frozen=True)
class OpenBlock:
    """Block ``index`` of a decoder, inside ``decoder.block(index)``. Inputs of layers are (tokens, in)."""

    decoder: Decoder
    index: int

    @property
    def module(self) -> nn.Module:
        """The block."""
        return self.decoder.blocks[self.index]

    def linears(self) -> dict[str, LinearSlot]:
        """Its linear layers by path."""
        return block_linears(self.decoder, self.index)

    def experts(self) -> dict[str, Experts]:
        """Its experts, by the path of the module that computes them."""
        return experts_of_block(self.decoder, self.index)

    def other_matrices(self) -> list[str]:
        """Paths of parameters that are matrices, or stacks of them, but no linear layer's and no expert's."""
        linear = {f"{path}.weight" for path in linear_layers(self.module)}
        experts = tuple(f"{path}." for path in self.experts())
        return [
            name
            for name, parameter in self.module.named_parameters()
            if parameter.ndim > 1 and name not in linear and not name.startswith(experts)
        ]

    def merged(self) -> list[str]:
        """Paths of linear layers whose matrices are made of several tensors, or of a part of one."""
        return sorted(linear_layers(self.module).keys() - self.linears().keys())

    def forward(self, hidden: Tensor, call: BlockCall) -> Tensor:
        """Output (batch, seq_len, hidden_size) on ``hidden``, of the same shape."""
        return self.decoder.runner.forward_block(self.index, hidden, call)

    def input_of(self, path: str, hidden: Tensor, call: BlockCall) -> Tensor:
        """What the layer at ``path`` is given when the block runs on ``hidden``; the block stops there."""
        return _flat(input_of(self.module.get_submodule(path), lambda: self.forward(hidden, call)))

    def inputs_of(self, paths: Iterable[str], hidden: Tensor, call: BlockCall) -> tuple[dict[str, Tensor], Tensor]:
        """What the layers at ``paths`` are given, and the block's output."""
        inputs, _, output = self.watched(paths, (), hidden, call)
        return inputs, output

    def watched(
        self, given: Iterable[str], giving: Iterable[str], hidden: Tensor, call: BlockCall
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """What the layers at ``given`` are given, what those at ``giving`` give, and the block's output."""
        inputs: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}
        watched = [{path: self.module.get_submodule(path) for path in paths} for paths in (given, giving)]
        with (
            inputs_noted(watched[0], lambda path, value: inputs.__setitem__(path, _flat(value))),
            outputs_noted(watched[1], lambda path, value: outputs.__setitem__(path, _flat(value))),
        ):
            output = self.forward(hidden, call)
        return inputs, outputs, output

    @torch.inference_mode()
    def give(self, path: str, inputs: Tensor) -> Tensor:
        """What the layer at ``path`` gives on ``inputs`` (..., in)."""
        output: Tensor = self.module.get_submodule(path)(inputs)
        return output

    def forward_and_arguments(self, path: str, hidden: Tensor, call: BlockCall) -> tuple[Tensor, tuple[Any, ...]]:
        """The block's output on ``hidden``, and all that the module at ``path`` is given by position meanwhile."""
        seen: list[tuple[Any, ...]] = []
        handle = self.module.get_submodule(path).register_forward_pre_hook(lambda _, args: seen.append(args))
        try:
            output = self.forward(hidden, call)
        finally:
            handle.remove()
        return output, seen[0]

    def first_not_finite(self, hidden: Tensor, call: BlockCall) -> str | None:
        """The checkpoint's name of the first matrix, in order of use, that gives NaN or infinity; None: none does."""
        bad: list[str] = []

        def note(path: str, output: Tensor) -> None:
            if not bool(output.isfinite().all()):
                bad.append(path)

        slots = self.linears()
        with outputs_noted({path: self.module.get_submodule(path) for path in slots}, note):
            self.forward(hidden, call)
        return slots[bad[0]].tensor if bad else None

    def not_finite(self, hidden: Tensor, call: BlockCall) -> NumericalError:
        """The error to raise where the block gives NaN or infinity on ``hidden``."""
        matrix = self.first_not_finite(hidden, call)
        found = f" (first in {matrix})" if matrix else ""
        narrow = "try `dtype=float32`, or `dtype=bfloat16` if the weights are float16."
        return NumericalError(
            f"Block {self.index} gives NaN or infinite hidden states{found} in {dtype_name(hidden.dtype)}; "
            + ("look at its weights." if hidden.dtype == torch.float32 else narrow)
        )

    def around_ffn(self, ffn: FfnWiring, hidden: Tensor, call: BlockCall) -> tuple[Tensor, Tensor]:
        """What the FFN is given (tokens, in), and the block's output when the FFN gives zeros, bias included."""
        paths = (*ffn.inner, ffn.down)
        slots = self.linears()
        silent = [zeros_of(slots[path].out_features) for path in paths]
        with relayed([self.module.get_submodule(path) for path in paths], silent):
            inputs, rest = self.inputs_of([ffn.inner[0]], hidden, call)
        return inputs[ffn.inner[0]], rest

    def adds_ffn(self, ffn: FfnWiring, hidden: Tensor, call: BlockCall) -> bool:
        """Whether the FFN's output goes into the block's output unscaled and unnormed, as a plain sum."""
        output = self.forward(hidden, call)
        _, rest = self.around_ffn(ffn, hidden, call)
        return self._is_sum(output, rest, ffn.down, hidden, call)

    def adds_before_ffn(self, path: str, ffn: FfnWiring | None, hidden: Tensor, call: BlockCall) -> bool:
        """Whether all that the block adds to its input before FFN and experts is what the layer at ``path`` gives."""
        experts = [self.module.get_submodule(name) for name in self.experts()]
        with relayed(experts, [lambda inputs, *_: torch.zeros_like(inputs)] * len(experts)):
            rest = self.forward(hidden, call) if ffn is None else self.around_ffn(ffn, hidden, call)[1]
        return self._is_sum(rest, hidden, path, hidden, call)

    def adding(self, hidden: Tensor, call: BlockCall) -> tuple[list[str], list[str]]:
        """The layers whose output goes into the residual stream unscaled and unnormed, as a plain sum.

        Of each such layer it was seen to hold, on ``hidden``.

        Returns:
            Paths in order of use: those behind which nothing looks at the sum before the block ends (the FFN's last
            layer; the attention's too, where both run side by side), and those whose sum with the block's input
            another module of the block is given (the attention's output before an FFN).
        """
        output = self.forward(hidden, call)
        entered = self._tensors_entering(hidden, call)
        at_the_end, before = [], []
        for path in self._used(hidden, call):
            if self.linears()[path].out_features != hidden.shape[-1]:
                continue
            if self._is_sum(output, self._without(path, hidden, call), path, hidden, call):
                at_the_end.append(path)
            elif any(self._is_sum(state, hidden, path, hidden, call) for state in entered):
                before.append(path)
        return at_the_end, before

    def _used(self, hidden: Tensor, call: BlockCall) -> list[str]:
        """Paths of the linear layers that run, in order."""
        modules = {path: self.module.get_submodule(path) for path in self.linears()}
        return list(dict.fromkeys(path for path, _ in trace(modules, lambda: self.forward(hidden, call))))

    def _without(self, path: str, hidden: Tensor, call: BlockCall) -> Tensor:
        """The block's output when the layer at ``path`` gives zeros, bias included."""
        silent = zeros_of(self.linears()[path].out_features)
        with relayed([self.module.get_submodule(path)], [silent]):
            return self.forward(hidden, call)

    def _tensors_entering(self, hidden: Tensor, call: BlockCall) -> list[Tensor]:
        """What modules without parts of their own are given, where it is as large as ``hidden`` (norms, mostly)."""
        seen: list[Tensor] = []

        def note(_: str, value: Any) -> None:
            if isinstance(value, Tensor) and value.numel() == hidden.numel() and value.is_floating_point():
                seen.append(value.reshape(hidden.shape).clone())  # what a block adds in place later is not in it

        leaves = {path: module for path, module in self.module.named_modules() if path and not any(module.children())}
        with first_inputs_noted(leaves, note):
            self.forward(hidden, call)
        return seen

    def _is_sum(self, output: Tensor, rest: Tensor, path: str, hidden: Tensor, call: BlockCall) -> bool:
        """Whether ``output`` is ``rest`` and what the layer at ``path`` gives; see ``is_sum``."""
        inputs, _ = self.inputs_of([path], hidden, call)
        own = self.layer(path)(inputs[path].float())
        if own.numel() != output.numel():
            return False
        return is_sum(output, rest, own)

    def groups(self, hidden: Tensor, call: BlockCall) -> tuple[list[tuple[str, ...]], FfnWiring | None]:
        """Layers that share an input, in order of use, and the FFN where one of a known kind was seen to hold.

        Experts stand alone, by the path of their module, before everything else that has their input.
        """
        experts = self.experts()
        modules = {path: self.module.get_submodule(path) for path in (*self.linears(), *experts)}
        noted = trace(modules, lambda: self.forward(hidden, call))
        traced = [(path, value) for path, value in noted if path not in experts]
        groups = [part for group in by_input(noted) for part in _experts_first(group, experts)]
        inputs = {path: _flat(value) for path, value in traced}
        layers = {path: self.layer(path) for path in inputs}
        return groups, find_ffn([group for group in groups if group[0] not in experts], layers, inputs)

    def layer(self, path: str) -> Linear:
        """The layer at ``path``, weight (out, in) and bias in float32."""
        module: Any = self.module.get_submodule(path)
        weight = self.linears()[path].turned(module.weight.detach()).float()
        bias = getattr(module, "bias", None)
        return Linear(weight, None if bias is None else bias.detach().float())

    def stored_weights(self, slots: Iterable[LinearSlot]) -> dict[str, Tensor]:
        """The weights (out, in) by path, in the dtype of the checkpoint, unrounded by the dtype of computing."""
        slots = list(slots)
        stored = self.decoder.stored([slot.tensor for slot in slots])
        return {slot.path: slot.turned(stored[slot.tensor]).to(self.decoder.device) for slot in slots}

    def bias_tensor(self, path: str) -> str | None:
        """Name in the checkpoint of a layer's bias; None where it has none that is stored as it is."""
        module: Any = self.module.get_submodule(path)
        if module.bias is None:
            return None
        return self.decoder.tensor_of(f"{self.decoder.path}.{self.index}.{path}.bias")

    def install(self, weights: Mapping[str, Tensor], biases: Mapping[str, Tensor] | None = None) -> None:
        """Let the block compute with other weights (out, in) and biases (out,) from now on.

        The old ones are left as they are.
        """
        slots = self.linears()
        for path, weight in weights.items():
            self._replace(path, "weight", slots[path].turned(weight))
        for path, bias in (biases or {}).items():
            self._replace(path, "bias", bias)

    def parameters(self, path: str) -> dict[str, nn.Parameter]:
        """The parameters of the layer at ``path`` as they are now, to put back later."""
        return dict(self.module.get_submodule(path).named_parameters(recurse=False))

    def put_back(self, path: str, parameters: Mapping[str, nn.Parameter]) -> None:
        """Give the layer at ``path`` its earlier parameters."""
        for name, parameter in parameters.items():
            setattr(self.module.get_submodule(path), name, parameter)

    def _replace(self, path: str, name: str, value: Tensor) -> None:
        """Give the layer at ``path`` a new parameter, in the dtype of the old one: the value itself where it can be."""
        module = self.module.get_submodule(path)
        old: nn.Parameter = getattr(module, name)
        alike = (value.dtype, value.device, value.stride()) == (old.dtype, old.device, old.stride())
        with torch.no_grad():
            new = value if alike and not value.is_inference() else torch.empty_like(old).copy_(value)
            setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad))


def block_linears(decoder: Decoder, index: int) -> dict[str, LinearSlot]:
    """The linear layers of a block by path whose matrices are stored as they are, whether or not they are loaded."""
    return find_linears(decoder.blocks[index], lambda name: decoder.tensor_of(f"{decoder.path}.{index}.{name}"))


def experts_of_block(decoder: Decoder, index: int) -> dict[str, Experts]:
    """The experts of a block by the path of their module, whether or not their weights are loaded."""
    return find_experts(decoder.blocks[index], lambda name: decoder.tensors_of(f"{decoder.path}.{index}.{name}"))


def block_matrices(decoder: Decoder, index: int) -> list[LinearSlot]:
    """Every matrix of a block that may be pruned: those of its linear layers, and those of each expert."""
    stacks = [matrix for experts in experts_of_block(decoder, index).values() for matrix in experts.matrices]
    return [*block_linears(decoder, index).values(), *(slot for matrix in stacks for slot in matrix.slots())]


def _experts_first(group: Iterable[str], experts: Container[str]) -> Iterator[tuple[str, ...]]:
    """A group of paths, each experts' module taken out of it."""
    yield from ((path,) for path in group if path in experts)
    if layers := tuple(path for path in group if path not in experts):
        yield layers


def _flat(value: Tensor) -> Tensor:
    return value.reshape(-1, value.shape[-1])

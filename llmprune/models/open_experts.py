"""The experts of an open block: what the router sends them, what each computes, and their weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from llmprune.algorithms.feed_forward.network import Linear
from llmprune.models.block_linears import arguments_of
from llmprune.models.capture import BlockCall
from llmprune.models.experts import Experts
from llmprune.models.ffn_wiring import FfnWiring, find_ffn
from llmprune.models.open_block import OpenBlock

_FEW_TOKENS = 128  # enough to tell wirings apart


@dataclass(frozen=True)
class Routing:
    """Tokens and the experts that they are sent to.

    Attributes:
        inputs: (tokens, in) of the experts' module.
        chosen: (tokens, k) int64, indices of experts; one that there is not stands for none.
        gates: (tokens, k), what the chosen experts' outputs are multiplied by.
    """

    inputs: Tensor
    chosen: Tensor
    gates: Tensor

    def without_inputs(self) -> Routing:
        """The choices alone."""
        return replace(self, inputs=self.inputs[:0])

    def counts(self, experts: int) -> Tensor:
        """(experts,) int64: the tokens that each expert is sent."""
        return self.chosen.flatten().bincount(minlength=experts)[:experts]

    def rows(self, expert: int) -> tuple[Tensor, Tensor]:
        """The indices of the tokens that an expert is sent, and its gates for them."""
        rows, places = (self.chosen == expert).nonzero(as_tuple=True)
        return rows, self.gates[rows, places]


@dataclass(frozen=True)
class OpenExperts:
    """The experts of an open block. Matrices are (out, in), and go by the paths of ``Experts``."""

    block: OpenBlock
    experts: Experts

    @property
    def module(self) -> Any:
        """What computes them."""
        return self.block.module.get_submodule(self.experts.path)

    def routing(self, hidden: Tensor, call: BlockCall) -> Routing | None:
        """What the experts are given when the block runs on ``hidden``; None where that is no tokens and choices."""
        return routing_of(arguments_of(self.module, lambda: self.block.forward(hidden, call)))

    def stored(self, expert: int) -> dict[str, Tensor]:
        """An expert's matrices in the dtype of the checkpoint, unrounded by the dtype of computing."""
        slots = {matrix.path: matrix.slot(expert).tensor for matrix in self.experts.matrices}
        stored = self.block.decoder.stored(list(dict.fromkeys(slots.values())))
        device = self.block.decoder.device
        return {m.path: m.of_stored(stored[slots[m.path]], expert).to(device) for m in self.experts.matrices}

    @torch.no_grad()
    def hidden(self, expert: int, inputs: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """What an expert's down projection is given for ``inputs`` (tokens, in), with the inner ``weights``."""
        fused = torch.cat([weights[matrix.path].to(inputs.dtype) for matrix in self.experts.inner])
        bias = self._bias(self.experts.inner[0].parameter, expert)
        before = nn.functional.linear(inputs, fused, bias)
        value: Tensor = self.module._apply_gate(before) if self.module.has_gate else self.module.act_fn(before)
        return value

    def install(self, pruned: Mapping[str, Collection[int]], tensors: Mapping[str, Tensor]) -> None:
        """Let the block compute with other matrices from now on; the old parameters are left as they are.

        Args:
            pruned: which experts' matrices to take, by path.
            tensors: what holds them, as the checkpoint does.
        """
        stacks: dict[str, Tensor] = {}
        for matrix in self.experts.matrices:
            for expert in pruned.get(matrix.path, ()):
                old = getattr(self.module, matrix.parameter)
                stack = stacks.setdefault(matrix.parameter, old.detach().clone())
                matrix.of_stack(stack, expert).copy_(matrix.of_stored(tensors[matrix.slot(expert).tensor], expert))
        for name, stack in stacks.items():
            asked = getattr(self.module, name).requires_grad
            setattr(self.module, name, nn.Parameter(stack, requires_grad=asked))

    def layers(self, expert: int, weights: Mapping[str, Tensor]) -> dict[str, Linear]:
        """An expert's layers with the biases that it has."""
        layers = {}
        for matrix in self.experts.matrices:
            bias = self._bias(matrix.parameter, expert)
            layers[matrix.path] = Linear(weights[matrix.path], None if bias is None else bias[matrix.rows].float())
        return layers

    @torch.inference_mode()
    def find_wiring(self, routing: Routing) -> FfnWiring | None:
        """How each expert is wired, as an FFN of a known kind; None where none of them holds."""
        expert = int(routing.counts(self.experts.count).argmax())
        rows, _ = routing.rows(expert)
        inputs = routing.inputs[rows[:_FEW_TOKENS]]
        weights = {path: weight.float() for path, weight in self.stored(expert).items()}
        inner, down = tuple(matrix.path for matrix in self.experts.inner), self.experts.down.path
        seen = dict.fromkeys(inner, inputs) | {down: self.hidden(expert, inputs, weights)}
        return find_ffn([inner, (down,)], self.layers(expert, weights), seen)

    @torch.inference_mode()
    def are_as_stored(self, routing: Routing) -> bool:
        """Whether the module gives what the stored matrices say, token by token, but for rounding."""
        few = slice(_FEW_TOKENS)
        inputs, chosen, gates = routing.inputs[few], routing.chosen[few], routing.gates[few]
        seen = self.module(inputs, chosen, gates)
        own = torch.zeros_like(seen, dtype=torch.promote_types(seen.dtype, torch.float32))
        for expert in chosen.unique().tolist():
            if expert < self.experts.count:
                rows, weights = Routing(inputs, chosen, gates).rows(expert)
                outputs = self._outputs(expert, inputs[rows])
                own.index_add_(0, rows, outputs.to(own.dtype) * weights.to(own.dtype).unsqueeze(1))
        rounding = 64 * torch.finfo(inputs.dtype).eps ** 2 * own.square().sum()
        return bool((own - seen).square().sum() <= rounding)

    def _outputs(self, expert: int, inputs: Tensor) -> Tensor:
        weights, down = self.stored(expert), self.experts.down
        bias = self._bias(down.parameter, expert)
        outputs = nn.functional.linear(self.hidden(expert, inputs, weights), weights[down.path].to(inputs.dtype), bias)
        if getattr(self.module, "has_post_expert_norm", False):
            outputs = self.module.post_expert_norm(outputs)
        return outputs

    def _bias(self, parameter: str, expert: int) -> Tensor | None:
        biases: Tensor | None = getattr(self.module, f"{parameter}_bias", None)
        return None if biases is None else biases[expert].detach()


def routing_of(args: tuple[Any, ...]) -> Routing | None:
    """The tokens and choices that an experts' module is given by position; None where it is given something else."""
    if len(args) != 3 or args[1].shape != args[2].shape or args[1].is_floating_point():
        return None
    inputs = args[0].reshape(-1, args[0].shape[-1])
    return Routing(inputs, args[1].reshape(len(inputs), -1), args[2].reshape(len(inputs), -1))


def outputs_of(module: nn.Module, expert: int, inputs: Tensor, gates: Tensor) -> Tensor:
    """What one expert of a module gives for ``inputs`` (tokens, in), before it is multiplied by ``gates`` (tokens,)."""
    chosen = torch.full((len(inputs), 1), expert, dtype=torch.int64, device=inputs.device)
    outputs: Tensor = module(inputs, chosen, torch.ones_like(gates).unsqueeze(1))
    return outputs


def block_experts(block: OpenBlock) -> dict[str, OpenExperts]:
    """The experts of a block by path whose matrices are stored in a known way."""
    return {path: OpenExperts(block, experts) for path, experts in block.experts().items()}

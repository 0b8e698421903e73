"""The experts of a block, which a router chooses between: where their matrices are, and how they are stored.

transformers computes all experts of a block in one module, whose matrices are stacks of three dimensions. It is known
by the attributes of transformers' experts interface (``has_gate``, ``is_transposed``), never by a family's name.
Checkpoints hold the stacks as they are, or every expert's matrices one by one, gate and up apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from llmprune.choices import Part
from llmprune.models.block_linears import LinearSlot

_EXPERT = re.compile(r"\.\d+\.(?P<kind>[^.]+)(\.weight)?$")  # what a tensor of a single expert is called


@dataclass(frozen=True)
class ExpertMatrix:
    """One matrix of every expert of a block, such as all down projections.

    Attributes:
        path: what it is called in the block, e.g. ``mlp.experts.down_proj``.
        parameter: the stack that it is in or a part of, by its name in the experts' module.
        tensors: of the checkpoint: one for each expert, or the one that holds the stack.
        count: experts.
        out_features: rows of the matrix as mathematics writes it, y = W x.
        in_features: columns of it.
        first_row: where its rows begin in the parameter's.
        transposed: the stack is (experts, in, out).
    """

    path: str
    parameter: str
    tensors: tuple[str, ...]
    count: int
    out_features: int
    in_features: int
    first_row: int = 0
    transposed: bool = False

    @property
    def rows(self) -> slice:
        """Its rows among the parameter's."""
        return slice(self.first_row, self.first_row + self.out_features)

    def slot(self, expert: int) -> LinearSlot:
        """The matrix of one expert."""
        tensor = self.tensors[expert if len(self.tensors) > 1 else 0]
        return LinearSlot(self.path, tensor, self.out_features, self.in_features, Part.FFN, self.transposed)

    def slots(self) -> Iterator[LinearSlot]:
        """The matrices of all experts, in order."""
        return (self.slot(expert) for expert in range(self.count))

    def of_stored(self, stored: Tensor, expert: int) -> Tensor:
        """An expert's matrix (out, in), a view of the tensor that holds it."""
        own = stored[expert] if stored.ndim > 2 else stored
        return own.T if self.transposed else own

    def of_stack(self, stack: Tensor, expert: int) -> Tensor:
        """An expert's matrix (out, in), a view of the parameter."""
        own = stack[expert].T if self.transposed else stack[expert]
        return own[self.rows]


@dataclass(frozen=True)
class Experts:
    """The experts of a block.

    Attributes:
        path: of their module in the block, e.g. ``mlp.experts``.
        count: how many.
        inner: the matrices in front of the activation: gate and up, both in one, or up alone.
        down: the matrix behind it.
    """

    path: str
    count: int
    inner: tuple[ExpertMatrix, ...]
    down: ExpertMatrix

    @property
    def matrices(self) -> tuple[ExpertMatrix, ...]:
        """All of them, in order of use."""
        return (*self.inner, self.down)

    @property
    def widest(self) -> int:
        """The most inputs of one."""
        return max(matrix.in_features for matrix in self.matrices)


def find_experts(block: nn.Module, tensors_of: Callable[[str], tuple[tuple[str, ...], ...]]) -> dict[str, Experts]:
    """The experts of a block, by the path of their module, whose matrices are stored as ``Decoder.tensors_of`` tells.

    Args:
        block: a transformer block; its weights may be on the meta device.
        tensors_of: the tensors that hold a parameter of the block.
    """
    found = (_experts(path, module, tensors_of) for path, module in expert_modules(block).items())
    return {experts.path: experts for experts in found if experts is not None}


def expert_modules(block: nn.Module) -> dict[str, nn.Module]:
    """The modules of a block that compute experts by transformers' interface, by path."""
    return {path: module for path, module in block.named_modules() if _follows_interface(module)}


def inner_name(module: nn.Module) -> str:
    """The parameter of an experts' module that is applied first."""
    return "gate_up_proj" if getattr(module, "has_gate", True) else "up_proj"


def _follows_interface(module: nn.Module) -> bool:
    stacks = [getattr(module, name, None) for name in (inner_name(module), "down_proj")]
    return isinstance(getattr(module, "is_transposed", None), bool) and all(
        isinstance(stack, Tensor) and stack.ndim == 3 for stack in stacks
    )


def _experts(path: str, module: Any, tensors_of: Callable[[str], tuple[tuple[str, ...], ...]]) -> Experts | None:
    first = inner_name(module)
    parts = {name: tensors_of(f"{path}.{name}") for name in (first, "down_proj")}
    if not all(parts.values()):
        return None
    inner = _matrices(path, module, first, parts[first])
    (down,) = _matrices(path, module, "down_proj", parts["down_proj"])
    return Experts(path, down.count, inner, down)


def _matrices(path: str, module: Any, name: str, parts: Sequence[tuple[str, ...]]) -> tuple[ExpertMatrix, ...]:
    """The matrices that are one upon another in a stack: as many as the checkpoint tells apart."""
    stack: Tensor = getattr(module, name)
    count, rows, columns = stack.shape
    if module.is_transposed:
        rows, columns = columns, rows
    each = rows // len(parts)
    return tuple(
        ExpertMatrix(
            path=f"{path}.{_kind(tensors, name)}",
            parameter=name,
            tensors=tensors,
            count=count,
            out_features=each,
            in_features=columns,
            first_row=place * each,
            transposed=module.is_transposed,
        )
        for place, tensors in enumerate(parts)
    )


def _kind(tensors: Sequence[str], name: str) -> str:
    """What a matrix is called where it is stored expert by expert, or else the stack."""
    match = _EXPERT.search(tensors[0]) if len(tensors) > 1 else None
    return match["kind"] if match else name

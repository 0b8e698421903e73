"""A model whose blocks' weights are read from its checkpoint when they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint
from llmprune.artifacts.checkpoints.finiteness import find_non_finite, refuse_non_finite
from llmprune.artifacts.checkpoints.reading import read_tensors
from llmprune.models.anatomy import BlockNames
from llmprune.models.capture import BlockRunner
from llmprune.models.memory import give_back_freed_memory
from llmprune.models.residency import Residency, Tensors
from llmprune.models.weights import (
    LoadPlan,
    drop_parameters,
    finish_loading,
    parameters_of,
    put_tensors,
    set_parameters,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LARGE = 2**20  # bytes of a block, from which on the holes that its activations leave are worth looking for


@dataclass
class CheckpointDecoder:
    """A ``Decoder`` whose blocks' weights are read from files when they are needed.

    It is the model that plain ``from_pretrained`` gives.

    Attributes:
        model: the model; everything outside the blocks has its weights.
        path: of the list of its blocks in the model.
        blocks: its transformer blocks, in order.
        names: the checkpoint's tensor names, sorted by block.
        checkpoint: where the weights are.
        plan: what of the checkpoint becomes what in the model.
        runner: runs embedding, single blocks and head.
        device: where everything is computed.
        dtype: what everything is computed in.
    """

    model: PreTrainedModel
    path: str
    blocks: nn.ModuleList
    names: BlockNames
    checkpoint: Checkpoint
    plan: LoadPlan
    runner: BlockRunner
    device: torch.device
    dtype: torch.dtype
    residency: Residency
    _open: dict[int, dict[str, Tensor]] = field(default_factory=dict)  # stored tensors of open blocks that were read
    _finite: set[str] = field(default_factory=set)  # tensors that were read and looked at
    _as_is: dict[int, dict[str, tuple[str, torch.dtype]]] = field(default_factory=dict)  # see _note_what_is_as_it_is
    _defaults: frozenset[int] = frozenset()  # ids of the blocks' parameters that no tensor fills

    @property
    def used(self) -> Set[str]:
        """Names of the tensors that the model has a place for."""
        return self.plan.places.by_tensor.keys()

    @property
    def keeps_changes(self) -> bool:
        """They go with the block's weights."""
        return False

    @contextmanager
    def block(self, index: int) -> Iterator[None]:
        """Block ``index`` has its weights for as long as the context lasts; changes of them go with it.

        Raises:
            NonFiniteWeightsError: they are NaN or infinite.
            CheckpointError: a file can no longer be read.
        """
        if index in self._open:
            yield
            return
        fetched = self.residency.take(index, self.read_block)
        module = self.blocks[index]
        if fetched.stored is None:
            set_parameters(module, fetched.on_device)
        else:
            if (as_is := self._as_is.get(index)) is not None:
                parts = as_is.items()
                set_parameters(module, {path: fetched.on_device[name].to(dtype) for path, (name, dtype) in parts})
            else:
                put_tensors(self.model, fetched.on_device, device=self.device)
                self._note_what_is_as_it_is(index)
            self._finite |= fetched.stored.keys()
            self.residency.put(index, parameters_of(module, besides=self._defaults))
        leaves_holes = fetched.stored is not None and self.block_bytes(index) >= _LARGE
        self._open[index] = self._held(fetched.stored or {})
        del fetched
        try:
            yield
        finally:
            del self._open[index]
            drop_parameters(self.blocks[index], besides=self._defaults)
            if leaves_holes:
                give_back_freed_memory()

    def _note_what_is_as_it_is(self, index: int) -> None:
        """Of a block whose parameters are the stored tensors as they are: the tensor and the dtype of each.

        It is opened without transformers' loader from then on, which takes tens of milliseconds each time.
        """
        parameters = parameters_of(self.blocks[index], besides=self._defaults)
        names = {path: self.tensor_of(f"{self.path}.{index}.{path}") for path in parameters}
        found = {path: (name, parameters[path].dtype) for path, name in names.items() if name is not None}
        if {name for name, _ in found.values()} == self.used & set(self.names.by_block[index]):
            self._as_is[index] = found

    def _held(self, stored: Tensors) -> dict[str, Tensor]:
        """The stored tensors that cost nothing while their block is open: its own weights, or the host's copy."""
        own = self.device.type != "cpu"
        return {name: tensor for name, tensor in stored.items() if own or tensor.dtype == self.dtype}

    def load_outside(self) -> None:
        """Load everything but the blocks, and compute what no tensor holds.

        Raises:
            NonFiniteWeightsError: weights are NaN or infinite.
        """
        names = [name for name in self.names.outside if name in self.used]
        refuse_non_finite(find_non_finite(self.checkpoint, names))
        put_tensors(self.model, self.checkpoint.load(names), device=self.device)
        finish_loading(self.model, self.plan, device=self.device)
        self._defaults = frozenset(id(p) for p in self.blocks.parameters() if not p.is_meta)

    def keep(self, *, device: int, host: int) -> None:
        """See ``Residency.keep``."""
        self.residency.keep(device=device, host=host)

    def expect(self, blocks: Iterable[int]) -> None:
        """See ``Residency.expect``."""
        self.residency.expect(tuple(blocks))

    def block_bytes(self, index: int) -> int:
        """Bytes of block ``index`` in the computing dtype."""
        return self.residency.sizes[index]

    @property
    def pass_seconds(self) -> float:
        """See ``Residency.pass_seconds``."""
        return self.residency.pass_seconds

    def read_from(self, checkpoint: Checkpoint) -> None:
        """Take the blocks from other files, which hold the same tensors."""
        self.checkpoint = checkpoint
        self._finite.clear()
        self.residency.forget()

    def read_block(self, index: int) -> Tensors:
        """The tensors of block ``index`` as they are stored, in host memory; it can run beside computing.

        Raises:
            NonFiniteWeightsError: they are NaN or infinite.
            CheckpointError: a file can no longer be read.
        """
        names = [name for name in self.names.by_block[index] if name in self.used]
        return read_tensors(self.checkpoint, names, known=self._finite, pinned=self.device.type == "cuda")

    def stored(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors as they are in the files; those of an open block that was read are there already."""
        names = list(names)
        there = {name: tensor for block in self._open.values() for name, tensor in block.items() if name in names}
        return there | self.checkpoint.load(name for name in names if name not in there)

    def forget(self, names: Iterable[str]) -> None:
        """See ``Decoder``."""
        for name in set(names):
            for block in self._open.values():
                block.pop(name, None)

    def tensor_of(self, parameter: str) -> str | None:
        """The tensor that becomes this parameter and nothing else; None where it is merged, split or transposed."""
        return self.plan.places.stored_as.get(parameter)

    def tensors_of(self, parameter: str) -> tuple[tuple[str, ...], ...]:
        """See ``Decoder``."""
        return self.plan.places.tensors_of(parameter)

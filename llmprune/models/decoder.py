"""What the work on blocks needs of a model, wherever its weights are."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from llmprune.models.capture import BlockRunner

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Decoder(Protocol):
    """A causal LM, run block by block.

    Two classes are decoders: ``checkpoint_decoder.CheckpointDecoder``, whose blocks' weights come from files and go
    again, and ``resident.ModelDecoder``, a model in memory.

    Attributes:
        model: the model; everything outside the blocks has its weights.
        path: of the list of its blocks in the model, e.g. ``model.layers``.
        blocks: its transformer blocks, in order.
        runner: runs embedding, single blocks and head.
        device: where everything is computed.
        dtype: what hidden states are computed in.
    """

    model: PreTrainedModel
    path: str
    blocks: nn.ModuleList
    runner: BlockRunner
    device: torch.device
    dtype: torch.dtype

    @property
    def keeps_changes(self) -> bool:
        """Whether weights that are changed in an open block stay when it is closed."""

    def block(self, index: int) -> AbstractContextManager[None]:
        """Block ``index`` has its weights for as long as the context lasts."""

    def keep(self, *, device: int, host: int) -> None:
        """Keep blocks between their uses: as many as so many bytes of the device and of the host hold."""

    def expect(self, blocks: Iterable[int]) -> None:
        """From now on just these blocks are opened, in this order: the next one is fetched while one is open."""

    def block_bytes(self, index: int) -> int:
        """Memory that opening block ``index`` takes."""

    @property
    def pass_seconds(self) -> float:
        """Seconds that reading takes in a walk over the expected blocks, as far as it was seen; 0: all are kept."""

    def stored(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors as the model is stored, unrounded by the dtype of computing."""

    def forget(self, names: Iterable[str]) -> None:
        """Nobody asks for these tensors of an open block again: what is kept for that can go."""

    def tensor_of(self, parameter: str) -> str | None:
        """The tensor that holds a parameter of the model as it is; None where none does."""

    def tensors_of(self, parameter: str) -> tuple[tuple[str, ...], ...]:
        """The tensors that hold a stack of matrices (experts), or the one that does; nothing where it is otherwise.

        Of a stack whose matrices are stored one by one: the tensors with the first rows of each matrix, in order, then
        those with the rows that follow.
        """

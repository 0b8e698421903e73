"""Memory of tensors while something runs, counted tensor by tensor: the same on every machine and device."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Alive(TorchDispatchMode):
    """Adds up the memory of the tensors that operations make, for as long as these live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {id(tensor.untyped_storage()) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        made = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and id(tensor.untyped_storage()) not in given:
                self._note(tensor.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        number, nbytes = id(storage), storage.nbytes()
        if number in self._known:
            return
        self._known.add(number)
        self.now += nbytes
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, number, nbytes)

    def _gone(self, number: int, nbytes: int) -> None:
        self._known.discard(number)
        self.now -= nbytes


def most_alive(action: Callable[[], object]) -> int:
    """Bytes of the tensors that are alive at one time, at most, while ``action`` runs; those from before do not count.

    What a kernel uses for itself is not seen, and neither is what an allocator keeps for later.
    """
    alive = _Alive()
    with alive:
        action()
    return alive.most

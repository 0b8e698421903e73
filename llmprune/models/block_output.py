"""What a block returns: hidden states, and what it may hand on to later blocks beside them."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import Tensor
from transformers.utils.generic import ModelOutput

from llmprune.errors import ModelError


class HandedOnUsedError(BaseException):
    """Something computes with a value that an earlier block would have handed on.

    A BaseException, so that no ``except Exception`` in a model's code can swallow it.
    """


class HandedOn(dict[Any, Any]):
    """Stands where a value of an earlier block would, and refuses every look at it.

    A dict, so that a block may still write into it what it hands on itself.
    """

    @classmethod
    def instead_of_store(cls, value: Any) -> Any:
        """``value``, or a stand-in where it is an empty mapping that earlier blocks would have filled."""
        if isinstance(value, HandedOn) or not isinstance(value, MutableMapping):
            return value
        return value if value else cls()

    def __getattr__(self, name: str) -> NoReturn:
        raise HandedOnUsedError

    def __missing__(self, key: object) -> NoReturn:
        raise HandedOnUsedError

    def __iter__(self) -> NoReturn:
        raise HandedOnUsedError

    def __bool__(self) -> NoReturn:
        raise HandedOnUsedError

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or self.__missing__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        """The value that the block itself wrote under ``key``."""
        return self[key]

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> NoReturn:
        raise HandedOnUsedError


@dataclass(frozen=True)
class Returned:
    """What a block returned: hidden states alone, or a tuple, list or ``ModelOutput`` that begins with them.

    Raises:
        ModelError: it is something else.
    """

    value: Any

    def __post_init__(self) -> None:
        found = self._first()
        if not isinstance(found, Tensor):
            raise ModelError(
                f"A block returns a {type(found).__name__} where its hidden states were expected; "
                "llmprune needs blocks that return hidden states, alone or before other values."
            )

    @property
    def hidden(self) -> Tensor:
        """The hidden states."""
        found: Tensor = self._first()
        return found

    def around(self, hidden: Tensor) -> Any:
        """The same with other hidden states, every other value out of reach."""
        if isinstance(self.value, Tensor):
            return hidden
        if isinstance(self.value, Mapping):
            first, *others = self.value
            return type(self.value)(**{first: hidden, **{name: _unseen(self.value[name]) for name in others}})
        return type(self.value)([hidden, *(_unseen(value) for value in self.value[1:])])

    def _first(self) -> Any:
        if isinstance(self.value, tuple | list | ModelOutput) and len(self.value):
            return self.value[0]
        return self.value


def _unseen(value: Any) -> Any:
    """What stands for a value of a block that did not run: nothing for nothing."""
    if value is None:
        return None
    if isinstance(value, tuple | list):
        return type(value)(_unseen(item) for item in value)
    return HandedOn()

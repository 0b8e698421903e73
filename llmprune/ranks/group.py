"""The group of processes: what they hand one another, and how rank 0 has the others work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from types import MappingProxyType
from typing import Any, Generic, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from llmprune.errors import LlmpruneError, LostRankError
from llmprune.ranks.failures import AnotherRankFailed, Failure, failure
from llmprune.ranks.peers import Peer, who_is_gone
from llmprune.ranks.rows import Items, as_bytes, gathered_rows, part_of, reduced_rows

T = TypeVar("T")

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_LINGERING = 1.0  # seconds that the living stay, so that nobody counts them among the dead


@dataclass(eq=False)
class Ranks:
    """This process among the others.

    Attributes:
        rank: its number; 0 leads.
        size: how many there are.
        local_rank: its number on its machine.
        peers: host and process number of every rank.
        moved: bytes of the tensors that were summed and broadcast until now.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    peers: tuple[Peer, ...] = ()
    moved: int = 0
    _numbers: Iterator[int] = field(default_factory=count, repr=False)
    _asking: bool = field(default=False, repr=False)

    @property
    def is_first(self) -> bool:
        """Whether this rank decides, writes and talks."""
        return self.rank == 0

    def share(self, items: Items) -> Items:
        """This rank's part of some items: as many as others have, or one more, in the order of the ranks."""
        return part_of(items, self.rank, self.size)

    def sum(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over all ranks, which all of them get. All call it, in the same order."""
        if self.size > 1:
            self.moved += tensor.nbytes
            with self._in_step():
                dist.all_reduce(tensor)
        return tensor

    def sum_rows(self, matrix: Tensor) -> Tensor:
        """This rank's share of the rows of a matrix's sum over all ranks. Each share is sent to its rank alone.

        Args:
            matrix: (rows, any), contiguous; it is given away.
        """
        if self.size == 1:
            return matrix
        self.moved += matrix.nbytes
        with self._in_step():
            return reduced_rows(matrix, self.rank, self.size)

    def join_rows(self, part: Tensor, rows: int) -> Tensor:
        """All ``rows`` of a matrix (rows, any) of which each rank has its share (own rows, any)."""
        if self.size == 1:
            return part
        self.moved += rows * part[:1].nbytes
        with self._in_step():
            return gathered_rows(part, rows, self.size)

    def broadcast(self, tensor: Tensor, owner: int) -> Tensor:
        """Replace a tensor by its owner's, of the same shape and dtype."""
        if self.size > 1:
            self.moved += tensor.nbytes
            sent = tensor.contiguous()
            with self._in_step():
                dist.broadcast(as_bytes(sent), owner)
            if sent is not tensor and self.rank != owner:
                tensor.copy_(sent)
        return tensor

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in their order, for all of them."""
        if self.size == 1:
            return [value]
        with self._in_step():
            return self._gathered(value)

    def agree(self, outcome: T | LlmpruneError) -> list[T]:
        """Every rank's outcome, in their order. All call it.

        Raises:
            LlmpruneError: the first outcome that is one, on all ranks.
        """
        found: list[T] = []
        for one in self.gather(outcome):
            if isinstance(one, LlmpruneError):
                raise one
            found.append(one)
        return found

    def first(self, value: T) -> T:
        """Rank 0's value, for all. All call it."""
        return self.gather(value)[0]

    @property
    def neighbours(self) -> int:
        """Ranks on this machine, which share its memory."""
        return max(1, sum(host == self.peers[self.rank][0] for host, _ in self.peers)) if self.peers else 1

    def place(self, make: Callable[..., T], *args: Any, own: Mapping[str, Any] = _NOTHING) -> Placed[T]:
        """Make an object on every rank. Rank 0 calls this, and then the object's methods through what it gets.

        Args:
            make: a function of a module.
            args: for it; what other ranks get is a copy. A ``Ranks`` becomes the other rank's own.
            own: more of them, by name, which the others do without.
        """
        number, made = next(self._numbers), list[T]()
        self._ask(("make", number, make, args), lambda: made.append(make(*args, **own)))
        return Placed(self, number, made[0])

    def _ask(self, request: tuple[Any, ...], own: Callable[[], T]) -> list[T]:
        """Have all other ranks do something, and do the same here; gives every rank's result, in their order.

        Raises:
            Exception: what the first rank that failed has raised.
        """
        if self.size == 1:
            return [own()]
        self._asking = True
        with self._talking():
            dist.broadcast_object_list([request], 0)
        outcomes = self.outcomes(own)
        self._asking = False
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                raise outcome.error
        return outcomes

    def heard(self) -> tuple[Any, ...]:
        """What rank 0 asks for next, on another rank.

        Raises:
            LostRankError: another rank is gone.
        """
        box: list[Any] = [None]
        with self._talking():
            dist.broadcast_object_list(box, 0)
        request: tuple[Any, ...] = box[0]
        return request

    def meet(self, host: str, pid: int) -> None:
        """Tell the others where this rank is, and hear the same of them."""
        self.peers = ((host, pid),) * self.size
        self.peers = tuple(self._gathered((host, pid)))

    def outcomes(self, work: Callable[[], Any]) -> list[Any]:
        """Do what all ranks do at once; gives every rank's result, or its ``Failure``, in their order.

        A rank that fails says so where it would talk to the others next, and they leave the work there.

        Raises:
            LostRankError: another rank is gone.
        """
        outcome: Any = None
        try:
            outcome = work()
            self._compare_failing(False)
        except AnotherRankFailed:
            outcome = None
        except LostRankError:
            raise
        except Exception as error:  # whatever it is, rank 0 tells it
            outcome = Failure(error) if self.is_first else failure(error, f"rank {self.rank} of {self.size}")
            self._compare_failing(True)
        found = self._gathered(outcome)
        found[self.rank] = outcome
        return found

    def leave(self, exit_code: int) -> None:
        """Let the other ranks end, unless they are in the middle of something: then they see that rank 0 is gone."""
        if self.size > 1 and self.is_first and not self._asking:
            with suppress(RuntimeError):  # those who are gone already need not be told
                dist.broadcast_object_list([("end", exit_code)], 0)
            dist.destroy_process_group()

    def __reduce__(self) -> tuple[Callable[[], Ranks], tuple[()]]:
        return joined, ()

    def _gathered(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        with self._talking():
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def _in_step(self) -> Iterator[None]:
        """Talk to the others, if none has failed.

        Raises:
            AnotherRankFailed: one has.
            LostRankError: another rank has died, or left.
        """
        self._compare_failing(False)
        with self._talking():
            yield

    def _compare_failing(self, failing: bool) -> None:
        """Tell the others whether this rank has failed, and hear the same of them."""
        flag = torch.tensor(int(failing))
        with self._talking():
            dist.all_reduce(flag, dist.ReduceOp.MAX)
        if flag.item() and not failing:
            raise AnotherRankFailed

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Turn the loss of a connection into a sentence.

        Raises:
            LostRankError: another rank has died, or left.
        """
        try:
            yield
        except RuntimeError as error:  # gloo and NCCL have no class of their own for it
            message, speaks = who_is_gone(self.peers, self.rank)
            dist.destroy_process_group()  # those who wait for this rank take note now
            time.sleep(_LINGERING)
            raise LostRankError(message, speaks=speaks) from error


@dataclass
class Placed(Generic[T]):
    """An object that every rank has one of, for as long as the context lasts.

    Attributes:
        ranks: the ranks.
        number: of the object.
        local: rank 0's own.
    """

    ranks: Ranks
    number: int
    local: T

    def call(self, method: str, *args: Any, own: Mapping[str, Any] = _NOTHING) -> list[Any]:
        """Call a method of the object on every rank at once; gives all results, in the order of the ranks.

        Args:
            method: its name.
            args: for it, on every rank.
            own: more of them, by name, for rank 0 alone.

        Raises:
            Exception: what the method has raised, on the first rank that it failed on.
            LostRankError: another rank has died.
        """
        return self.ranks._ask(("call", self.number, method, args), lambda: getattr(self.local, method)(*args, **own))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Let every rank forget the object, and free its memory, if the command may go on."""
        if error is None or (isinstance(error, Exception) and not isinstance(error, LostRankError)):
            self.ranks._ask(("drop", self.number), lambda: None)


ALONE = Ranks()
_joined = ALONE


def joined() -> Ranks:
    """This process among others, if it leads or serves; else alone."""
    return _joined


def join_as(ranks: Ranks) -> None:
    """From now on this process is one of several."""
    global _joined
    _joined = ranks

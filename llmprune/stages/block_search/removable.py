"""Which blocks may go: only those without which the model still computes the same, and its config can say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial

from llmprune.models.architecture import empty_model
from llmprune.models.config import load_config, read_config
from llmprune.models.removability import RemovalCheck
from llmprune.stages.block_search.settings import RedundancySettings, protected_blocks
from llmprune.stages.common.workspace import Workspace


def open_check(workspace: Workspace) -> RemovalCheck:
    """What tells whether blocks of the workspace's model can be removed.

    Raises:
        ModelError: the model cannot be run block by block at all.
    """
    return RemovalCheck(
        read_config(workspace.directory),
        load_config(workspace.directory, trust_remote_code=workspace.trust_remote_code),
        frozenset(workspace.open_shell().plan.places.by_tensor.values()),
        make=partial(empty_model, dtype=workspace.dtype, trust_remote_code=workspace.trust_remote_code),
        device=workspace.compute.device,
    )


class Removable:
    """Tells a search which blocks may go after which others.

    A few removals are tried first. Where all of them are possible every block may go. Where one is not, because some
    blocks' kinds follow from a rule about indices, every candidate is tried before its round.

    Args:
        check: opens what tells whether blocks can be removed; it is called when it is first needed.
        settings: of the search.
        num_blocks: of the model.
        count: blocks to remove in all.
    """

    def __init__(
        self, check: Callable[[], RemovalCheck], settings: RedundancySettings, *, num_blocks: int, count: int
    ) -> None:
        self._open, self._depth, self._count = check, num_blocks, count
        protected = protected_blocks(settings, num_blocks)
        self._candidates = [block for block in range(num_blocks) if block not in protected]

    def require_some(self) -> None:
        """See that the search can begin at all.

        Raises:
            ModelError: none of the candidates can be removed.
        """
        if not self._every:
            self._check.require_some(self._candidates)

    def may_go(self, gone: Sequence[int], block: int) -> bool:
        """Whether ``block`` may go when the blocks ``gone`` are gone."""
        return self._every or self._allows([*gone, block])

    @cached_property
    def _check(self) -> RemovalCheck:
        return self._open()

    @cached_property
    def _every(self) -> bool:
        """Whether all removals that are tried are possible."""
        return all(self._allows(sample) for sample in self._samples())

    def _samples(self) -> Iterator[Sequence[int]]:
        """The first candidates, the last, and some from everywhere: one of each, and as many as are to go."""
        blocks = self._candidates
        for count in sorted({1, self._count}):
            yield blocks[:count]
            yield blocks[-count:]
            yield blocks[len(blocks) // (2 * count) :: max(1, len(blocks) // count)][:count]

    def _allows(self, removed: Sequence[int]) -> bool:
        return self._check.allows([block for block in range(self._depth) if block not in removed])

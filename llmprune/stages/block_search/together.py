"""A search by several ranks: each measures all candidates on its share of the windows, and rank 0 decides."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llmprune.algorithms.blocks.evaluator import WindowLosses
from llmprune.algorithms.blocks.search import losses_without
from llmprune.artifacts.activations import Calibration
from llmprune.artifacts.records.pruning import zeroed_tensors
from llmprune.ranks.group import Placed, Ranks
from llmprune.ranks.shared import require_divisible
from llmprune.stages.block_search.evaluator import WindowEvaluator
from llmprune.stages.block_search.search import window_evaluator
from llmprune.stages.block_search.settings import RedundancySettings, solving_windows
from llmprune.stages.common.progress import Progress, Silent
from llmprune.stages.common.workspace import Workspace


@dataclass(frozen=True)
class SearchShare:
    """One rank's part in a search.

    Attributes:
        evaluator: model and calibration windows, all of them; what it solves on is this rank's alone.
        ranks: this rank among the others.
    """

    evaluator: WindowEvaluator
    ranks: Ranks

    def measured(
        self,
        windows: range,
        remaining: Sequence[int],
        candidates: Sequence[int],
        healed: Container[int],
        on_windows: Callable[[int], None] = lambda _: None,
    ) -> WindowLosses:
        """Losses with each candidate skipped, on this rank's share of some windows."""
        share = self.ranks.share(windows)
        return losses_without(
            self.evaluator, share, remaining, candidates, healed, on_windows, stack=self.evaluator.stack
        )

    def solve(self, remaining: Sequence[int], candidates: Sequence[int]) -> frozenset[int]:
        """See ``Healer``; on the windows of all ranks."""
        assert self.evaluator.healer is not None, "asked for in a search with healing"
        return self.evaluator.healer.solve(remaining, candidates)

    def restart(self) -> None:
        """See ``Healer``."""
        assert self.evaluator.healer is not None, "asked for in a search with healing"
        self.evaluator.healer.restart()

    def keep(self, removed: int) -> None:
        """See ``Healer``."""
        assert self.evaluator.healer is not None, "asked for in a search with healing"
        self.evaluator.healer.keep(removed)


@dataclass(frozen=True)
class RanksMeasure:
    """A ``Measure`` and a ``Healer`` that all ranks work for.

    Attributes:
        shares: of the ranks.
    """

    shares: Placed[SearchShare]

    def __call__(
        self,
        windows: range,
        remaining: Sequence[int],
        candidates: Sequence[int],
        healed: Container[int],
        on_windows: Callable[[int], None],
    ) -> WindowLosses:
        """Losses of all candidates on windows that the ranks divide among them, in the order of the windows."""
        own = len(self.shares.ranks.share(windows))
        seen = told = 0

        def tell(done: int) -> None:
            nonlocal seen, told
            seen += done
            on_windows(len(windows) * seen // own - told)  # others have come as far, about
            told = len(windows) * seen // own

        asked = (windows, remaining, candidates, healed)
        found: list[WindowLosses] = self.shares.call("measured", *asked, own={"on_windows": tell})
        return WindowLosses(torch.cat([one.sums for one in found], dim=1), found[0].tokens)

    def solve(self, remaining: Sequence[int], candidates: Sequence[int]) -> frozenset[int]:
        """See ``Healer``."""
        healed: frozenset[int] = self.shares.call("solve", remaining, candidates)[0]
        return healed

    def restart(self) -> None:
        """See ``Healer``."""
        self.shares.call("restart")

    def keep(self, removed: int) -> None:
        """See ``Healer``."""
        self.shares.call("keep", removed)


def place_search(workspace: Workspace, calibration: Calibration, settings: RedundancySettings) -> Placed[SearchShare]:
    """Have every rank open the model and its share of the windows.

    Args:
        workspace: run directory and model.
        calibration: the windows, and the seed of their order.
        settings: of the search.

    Raises:
        TargetError: more ranks than windows.
        SharedFolderError: a rank does not see the run directory.
    """
    ranks, tokens = workspace.compute.ranks, calibration.tokens()
    require_divisible(ranks, len(tokens) - solving_windows(len(tokens), settings))
    workspace.require_shared()
    seed, masked = calibration.manifest.seed or 0, zeroed_tensors(workspace.directory)
    given = (replace(workspace, progress=Silent()), tokens, settings, seed, masked)
    return ranks.place(_open_share, *given, own={"progress": workspace.progress})


def _open_share(
    workspace: Workspace,
    tokens: Tensor,
    settings: RedundancySettings,
    seed: int,
    masked: frozenset[str] | None,
    progress: Progress | None = None,
) -> SearchShare:
    here = replace(workspace, progress=progress or Silent(), compute=workspace.compute.here())
    evaluator = window_evaluator(
        here.open_decoder(),
        tokens,
        settings,
        seed=seed,
        masked=masked,
        compute=here.compute,
        progress=here.progress,
        scratch=here.run.path,
    )
    return SearchShare(evaluator, here.compute.ranks)

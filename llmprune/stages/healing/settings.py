"""The settings of ``heal``, and which windows it holds back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmprune.artifacts.checkpoints.copying import DEFAULT_SHARD_BYTES
from llmprune.choices import Scope
from llmprune.errors import TargetError
from llmprune.stages.common.checks import require_at_least

# Ridges, relative to the mean diagonal of the Gram matrix, of which the held-back windows choose one for each layer.
RIDGES = (1e-3, 1e-2, 1e-1, 3e-1, 1.0, 3.0)
_SHARE = 8  # one window of so many is held back
_MOST = 16  # and never more: their hidden states are in memory while the model's loss is measured


@dataclass(frozen=True)
class HealSettings:
    """What to heal, and where to write the result.

    Attributes:
        scope: which blocks.
        samples: use the first so many calibration windows; None: all.
        seq_len: tokens in each; None: as many as the calibration has.
        calibration: another calibration artifact than the run's own.
        out: the new checkpoint's directory; None: in the run directory, named after what was healed.
        max_shard_bytes: largest weight file.
        verify: reload the result and compare it with the source's blocks run on the healed weights.
        force: replace an output directory that holds another checkpoint.
    """

    scope: Scope = Scope.ALL
    samples: int | None = None
    seq_len: int | None = None
    calibration: Path | None = None
    out: Path | None = None
    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    verify: bool = True
    force: bool = False

    def __post_init__(self) -> None:
        require_at_least(2, samples=self.samples, seq_len=self.seq_len)


def held_back(windows: int) -> int:
    """How many of so many calibration windows are held back: an eighth, at least 1 and at most 16.

    Raises:
        TargetError: there is only one.
    """
    if windows < 2:
        raise TargetError("Healing solves on some calibration windows and chooses on others: type `samples=2` or more.")
    return min(max(1, windows // _SHARE), _MOST)

"""The cost of a sweep, estimated before it starts: time, from timing one block, and room on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from llmprune.artifacts.files.sizes import format_size
from llmprune.artifacts.records.protocols import Protocols
from llmprune.choices import Method, Metric
from llmprune.errors import LlmpruneError
from llmprune.models.decoder import Decoder
from llmprune.models.timing import time_in_turn
from llmprune.stages.block_search import SearchCost, WindowCost
from llmprune.stages.common.plans import spell_seconds
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.sweeping.plan import ModelSizes, PlannedPoint
from llmprune.stages.sweeping.settings import SweepSettings

_TRIED = 256  # tokens to time a block with
_ITEMS, _ITEM_TOKENS = 2000, 150  # of a zero-shot task, an item with its choices: rough guesses
_DISK = 100e6  # bytes/s written, read again and compared: a rough guess
# The cost of a method, in forward passes over the calibration text and in products of a matrix with its Gram matrix.
# These are rough guesses. Every finished point corrects them.
_PASSES = {Method.SPARSELLM: 20.0, Method.SPARSEGPT: 10.0, Method.WANDA: 8.0, Method.MAGNITUDE: 4.0}
_SOLVES = {Method.SPARSELLM: 60.0, Method.SPARSEGPT: 20.0, Method.WANDA: 15.0, Method.MAGNITUDE: 0.0}


@dataclass(frozen=True)
class TokenCost:
    """Seconds per token.

    Attributes:
        block: one block.
        head: final norm and head.
    """

    block: float
    head: float

    def through(self, blocks: int) -> float:
        """A whole model of so many blocks."""
        return blocks * self.block + self.head


@dataclass(frozen=True)
class SweepCost:
    """Expected seconds.

    Attributes:
        preparing: calibration and search.
        dense: the dense model's benchmark.
        points: of every point, by name, to make and to measure it.
    """

    preparing: float
    dense: float
    points: Mapping[str, float]

    def left(self, names: Sequence[str], *, spent: Mapping[str, float]) -> float:
        """Expected seconds for the points ``names``, corrected by how long the finished points took.

        Args:
            names: of the points that are still to be done.
            spent: real seconds of those that are done, by name.
        """
        usual = sum(self.points.values()) / len(self.points)  # of a point that was not expected before the search
        expected = sum(self.points.get(name, usual) for name in spent)
        pace = sum(spent.values()) / expected if expected else 1.0
        return pace * sum(self.points.get(name, usual) for name in names)


@dataclass(frozen=True)
class Text:
    """The calibration text, which may still have to be drawn.

    Attributes:
        windows: how many.
        seq_len: tokens in each.
        ready: whether the run holds it.
        ranked: blocks that are ranked already.
    """

    windows: int
    seq_len: int
    ready: bool
    ranked: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Of all windows."""
        return self.windows * self.seq_len


def foresee(
    workspace: Workspace,
    settings: SweepSettings,
    planned: Sequence[PlannedPoint],
    sizes: ModelSizes,
    measuring: Protocols,
    text: Text,
) -> SweepCost:
    """Time a block, and estimate from it the cost of everything. It is a rough figure."""
    decoder = workspace.open_decoder()
    cost = _time_tokens(decoder, min(_TRIED, text.seq_len))
    depth = len(sizes.blocks)
    most = max((len(point.removed) for point in planned), default=0)
    preparing = 0.0 if text.ready else text.tokens * cost.through(depth)
    if settings.metric in {None, Metric.SLEB} and most > len(text.ranked):
        preparing += _search_seconds(decoder, workspace, text, cost, rounds=most - len(text.ranked))
    points = {point.name: _point_seconds(point, settings, sizes, measuring, text, cost) for point in planned}
    return SweepCost(preparing, _bench_seconds(depth, sizes.nbytes, measuring, cost), points)


def _time_tokens(decoder: Decoder, seq_len: int) -> TokenCost:
    """The median times of a token in one block and in the head."""
    tokens = torch.zeros((1, seq_len), dtype=torch.int64, device=decoder.device)
    runner, block = decoder.runner, len(decoder.blocks) // 2
    with torch.inference_mode(), decoder.block(block):
        hidden, call = runner.embed(tokens), runner.calls(tokens)[block]
        times = time_in_turn(
            [lambda: runner.forward_block(block, hidden, call), lambda: runner.logits(hidden)], decoder.device
        )
    return TokenCost(*(median(seconds) / seq_len for seconds in times))


def _search_seconds(decoder: Decoder, workspace: Workspace, text: Text, cost: TokenCost, *, rounds: int) -> float:
    search = SearchCost(
        remaining=tuple(block for block in range(len(decoder.blocks)) if block not in text.ranked),
        protected=frozenset((0, len(decoder.blocks) - 1)),
        rounds=rounds,
        windows=text.windows,
        eliminates=True,
    )
    window = WindowCost(block=cost.block * text.seq_len, head=cost.head * text.seq_len)
    return search.seconds(window, typical=True)


def _point_seconds(
    point: PlannedPoint,
    settings: SweepSettings,
    sizes: ModelSizes,
    measuring: Protocols,
    text: Text,
    cost: TokenCost,
) -> float:
    kept = [block for block in range(len(sizes.blocks)) if block not in point.removed]
    nbytes = _bytes(point, sizes)
    seconds = nbytes / _DISK + _bench_seconds(len(kept), nbytes, measuring, cost)
    if point.pattern is not None:
        product = cost.block / (sum(sizes.blocks) / len(sizes.blocks))  # seconds of one multiplication and addition
        seconds += _PASSES[settings.method] * text.tokens * len(kept) * cost.block
        seconds += _SOLVES[settings.method] * product * sum(sizes.solved[block] for block in kept)
    return seconds


def _bench_seconds(depth: int, nbytes: int, measuring: Protocols, cost: TokenCost) -> float:
    tokens = sum(protocol.windows * protocol.seq_len for protocol in measuring.perplexity)
    if measuring.tasks is not None:
        tokens += len(measuring.tasks.tasks) * (measuring.tasks.limit or _ITEMS) * _ITEM_TOKENS
    speed = measuring.speed.max_seconds if measuring.speed else 0.0
    return 2 * nbytes / _DISK / 10 + tokens * cost.through(depth) + speed


def _bytes(point: PlannedPoint, sizes: ModelSizes) -> int:
    return sizes.nbytes * sizes.without(point.removed) // sizes.stored


def room(planned: Sequence[PlannedPoint], sizes: ModelSizes, *, keep: bool) -> int:
    """Bytes that the checkpoints take at most: all of them, or only one, its source and the work on it."""
    needed = [_bytes(point, sizes) for point in planned]
    return sum(needed) + max(needed) if keep else 3 * max(needed)


def require_room(folder: Path, needed: int, *, keep: bool) -> None:
    """Refuse a sweep whose checkpoints do not fit on the disk, before anything is made.

    Raises:
        LlmpruneError: fewer than ``needed`` bytes are free.
    """
    place = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        hint = "type `keep=False`, or" if keep else "make room, or type"
        raise LlmpruneError(
            f"The sweep's checkpoints take up to {format_size(needed)}, and the disk that holds {place} has "
            f"{format_size(free)} left; {hint} `run=OTHER` on another disk."
        )


def announcement(planned: Sequence[PlannedPoint], cost: SweepCost, needed: int, *, keep: bool, dense: bool) -> str:
    """The number of points and their expected cost, in words."""
    kinds = [
        (sum(point.pattern is None for point in planned), "by blocks"),
        (sum(not point.removed for point in planned), "by zeros"),
        (sum(bool(point.removed) and point.pattern is not None for point in planned), "by both"),
    ]
    said = ", ".join(f"{count} {what}" for count, what in kinds if count)
    measured = 0.0 if dense else cost.dense
    total = cost.preparing + measured + sum(cost.points[point.name] for point in planned)
    count = f"{len(planned)} point{'s' * (len(planned) != 1)} to make and measure ({said})"
    fate = "up to" if keep else "at most, each deleted once it is measured,"
    return (
        f"{count}: about {spell_seconds(total)}, of which calibration and search {spell_seconds(cost.preparing)}, and "
        f"{fate} {format_size(needed)} of disk. A rough figure; each point corrects it."
    )

"""Calibration windows in chunks, each of which goes through the model together."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llmprune.algorithms.blocks.evaluator import BlockEvaluator


def chunks(evaluator: BlockEvaluator, start: int, stop: int, *, states: int) -> Iterator[range]:
    """The windows from ``start`` to ``stop`` in chunks that fit into memory in so many states each."""
    for together in chunk_sizes(stop - start, states, evaluator.fitting):
        yield range(start, start + together)
        start += together


def chunk_sizes(windows: int, states: int, fitting: Callable[[int, int], int]) -> Iterator[int]:
    """How many windows are in each chunk.

    Args:
        windows: in all chunks.
        states: of each window.
        fitting: see ``BlockEvaluator.fitting``.
    """
    while windows:
        together = fitting(states, windows)
        yield together
        windows -= together

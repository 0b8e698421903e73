"""Which models of a benchmark are in memory as a whole, and which are run block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmprune.errors import TargetError
from llmprune.models.compute import Compute
from llmprune.models.loading import LOADING_ROOM
from llmprune.stages.benchmark.settings import BenchSettings


def streamed_models(
    sizes: Mapping[str, int],
    settings: BenchSettings,
    *,
    written: Sequence[str],
    dtype: str,
    compute: Compute,
) -> frozenset[str]:
    """Names of the models that memory has no room for. Speed needs all models in memory, writing answers one.

    Args:
        sizes: bytes that the whole of each model takes, by name; 0: it is in memory already.
        settings: what is measured.
        written: tasks whose answers are written.
        dtype: name of what is computed in.
        compute: tells what is free.

    Raises:
        TargetError: there is no room for what has to be in memory.
    """
    free = compute.free_whole_bytes()
    if written and compute.spread:
        raise TargetError(
            f"A model that is spread over devices does not write the answers of {', '.join(written)}; leave out such "
            "tasks, or `device_map=auto`."
        )
    if not (settings.speed or settings.draft or written):
        return frozenset(name for name, size in sizes.items() if LOADING_ROOM * size > free)
    largest = max(sizes, key=lambda name: sizes[name])
    together = sizes if settings.speed or settings.draft else {largest: sizes[largest]}
    if (needed := sum(together.values())) > free:
        without = " and ".join(
            ["`speed=False`"] * settings.speed
            + [f"no {', '.join(written)} in `tasks`"] * bool(written)
            + ["no `draft`"] * settings.draft
        )
        raise TargetError(
            f"{needed / 1e9:.3g} GB of memory are needed for {' beside '.join(together)} in {dtype}, and "
            f"{free / 1e9:.3g} GB are free; type {without}: all else is then measured block by block."
        )
    return frozenset()

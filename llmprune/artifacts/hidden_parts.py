"""Hidden states that several processes have written: a file for the windows of each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor

from llmprune.artifacts.activations import HiddenStates, open_hidden_states


def hidden_parts(names: Iterable[str], block: int, *, windows: int) -> dict[str, range]:
    """The files, among some, of the states entering ``block``: which windows each holds, in their order.

    Args:
        names: of files.
        block: the block.
        windows: how many there are in all.
    """
    named = re.compile(rf"hidden-{block:05d}(?:-(\d+)-(\d+))?\.safetensors")
    found = [match for match in map(named.fullmatch, names) if match is not None]
    parts = {one[0]: range(windows) if one[1] is None else range(int(one[1]), int(one[2])) for one in found}
    return dict(sorted(parts.items(), key=lambda part: part[1].start))


class HiddenParts:
    """Hidden states that several files hold together, read a few windows at a time.

    Args:
        files: of each, which windows it holds.
    """

    def __init__(self, files: Sequence[tuple[range, HiddenStates]]) -> None:
        self._files = files

    def windows(self, start: int, stop: int) -> Tensor:
        """Windows ``start`` to ``stop``, see ``HiddenStates``."""
        spans = [(max(start, held.start), min(stop, held.stop), held, file) for held, file in self._files]
        parts = [file.windows(first - held.start, end - held.start) for first, end, held, file in spans if first < end]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@contextmanager
def open_hidden_parts(folder: Path, parts: Mapping[str, range]) -> Iterator[HiddenParts]:
    """Open the files that hold some hidden states together, see ``hidden_parts``."""
    with ExitStack() as opened:
        yield HiddenParts(
            [(held, opened.enter_context(open_hidden_states(folder / name))) for name, held in parts.items()]
        )

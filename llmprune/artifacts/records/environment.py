"""What can change the last bits of a computation besides its input, and with them what a search or a solver chooses."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Self

import torch

from llmprune.artifacts.records.provenance import Record


class Environment(Record):
    """What something was computed with.

    Attributes:
        threads: of torch. Another number sums in another order.
        tf32: whether float32 products on a GPU are rounded to TF32.
        libraries: versions of those that compute.
    """

    threads: int
    tf32: bool
    libraries: dict[str, str]

    @classmethod
    def now(cls) -> Self:
        """That of this process."""
        return cls(
            threads=torch.get_num_threads(),
            tf32=torch.backends.cuda.matmul.allow_tf32,
            libraries={name: version(name) for name in ("torch", "transformers", "numpy")},
        )


def compared(old: Environment, new: Environment) -> str | None:
    """How a computation that goes on differs from how it began, in words; None: in nothing."""
    if old == new:
        return None
    return f"the computation went on with {', '.join(_differences(old, new))}; its last bits may differ from one run."


def _differences(old: Environment, new: Environment) -> Iterator[str]:
    if old.threads != new.threads:
        yield f"{new.threads} thread{'s' * (new.threads != 1)} instead of {old.threads}"
    if old.tf32 != new.tf32:
        yield "TF32" if new.tf32 else "full float32 instead of TF32"
    for name in sorted(old.libraries.keys() | new.libraries.keys()):
        before, after = old.libraries.get(name, "none"), new.libraries.get(name, "none")
        if before != after:
            yield f"{name} {after} instead of {before}"

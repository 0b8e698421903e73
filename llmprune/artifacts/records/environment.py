"""What can change the last bits of a computation besides its input, and with them what a search or a solver chooses."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Self

import torch

from llmprune.artifacts.records.provenance import Record
from llmprune.ranks.group import joined


class Environment(Record):
    """What something was computed with.

    Attributes:
        threads: of torch, in each process. Another number sums in another order.
        processes: that divided the work; another number, likewise. Files from before it was kept were made by one.
        tf32: whether any float32 products on a GPU were rounded to TF32.
        tf32_pinned: whether llmprune itself decided that, whatever the process had set; False in files from before it
            was kept. Then products are rounded only where their factors had no more digits before.
        libraries: versions of those that compute.
    """

    threads: int
    processes: int = 1
    tf32: bool
    tf32_pinned: bool = False
    libraries: dict[str, str]

    @classmethod
    def now(cls, *, tf32: bool = False) -> Self:
        """That of this process, where all products are made within ``exact_products``.

        Args:
            tf32: whether some of them are made within ``half_products``, and rounded there.
        """
        return cls(
            threads=torch.get_num_threads(),
            processes=joined().size,
            tf32=tf32,
            tf32_pinned=True,
            libraries={name: version(name) for name in ("torch", "transformers", "numpy")},
        )


def compared(old: Environment, new: Environment) -> str | None:
    """How a computation that goes on differs from how it began, in words; None: in nothing."""
    differences = list(_differences(old, new))
    if not differences:
        return None
    return f"the computation went on with {', '.join(differences)}; its last bits may differ from one run."


def _differences(old: Environment, new: Environment) -> Iterator[str]:
    if old.threads != new.threads:
        yield f"{new.threads} thread{'s' * (new.threads != 1)} instead of {old.threads}"
    if old.processes != new.processes:
        yield f"{new.processes} process{'es' * (new.processes != 1)} instead of {old.processes}"
    if old.tf32 != new.tf32:
        yield "TF32" if new.tf32 else "full float32 instead of TF32"
    for name in sorted(old.libraries.keys() | new.libraries.keys()):
        before, after = old.libraries.get(name, "none"), new.libraries.get(name, "none")
        if before != after:
            yield f"{name} {after} instead of {before}"

"""Mixtures: several sources, each with the number of its windows, ``wikitext2:64,c4:32,./chat.jsonl:32``.

A spec is a mixture where commas part it and every part ends in a colon and a number: that number is the count, and what
stands before it is a source as it would be typed alone. So of ``FILE.jsonl:7:32`` 32 windows are drawn from the column
``7``. A single source has no count: ``FILE.jsonl:7`` is its column, and `samples` says how many windows.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch

from llmprune.artifacts.records.provenance import SourceIdentity
from llmprune.choices import TextKind
from llmprune.errors import TargetError
from llmprune.text.windows import TokenWindows

_COUNTED = re.compile(r"(?P<source>.+):(?P<count>[0-9]{1,9})", re.DOTALL)
_EXAMPLE = "source=wikitext2:64,c4:32"
SELF = "self"


@dataclass(frozen=True)
class Part:
    """A source of a mixture.

    Attributes:
        source: as it would be typed alone.
        count: how many windows (or, with rows, how many rows) are drawn from it.
    """

    source: str
    count: int


def parse_mixture(spec: str) -> tuple[Part, ...]:
    """The parts of a mixture; none where ``spec`` is a single source.

    Raises:
        TargetError: a part without a count, a count of 0, a source that cannot be mixed, or a spec that could be a
            mixture as well as a file whose name has a comma.
    """
    texts = [text.strip() for text in spec.split(",")]
    found = [_COUNTED.fullmatch(text) for text in texts]
    if len(texts) == 1 or not any(found):
        return ()
    file = next(_files_with_commas(spec), None)
    if file is not None and not all(found):
        return ()
    if file is not None:
        raise TargetError(
            f"'{spec:.200}' can be read as a mixture and as the file '{file}'; give the file a name without a comma."
        )
    return tuple(_part(spec, text, match) for text, match in zip(texts, found, strict=True))


def _part(spec: str, text: str, match: re.Match[str] | None) -> Part:
    if match is None:
        raise TargetError(
            f"In the mixture '{spec:.200}', '{text:.100}' has no number of windows; type one behind every source, as "
            f"in `{_EXAMPLE}`."
        )
    part = Part(match["source"], int(match["count"]))
    if part.count < 1:
        raise TargetError(f"The mixture '{spec:.200}' takes 0 windows of '{part.source:.100}'; leave that source out.")
    if part.source == SELF:
        raise TargetError(
            f"The mixture '{spec:.200}' names self, text that the model itself writes, which cannot be mixed; leave it "
            "out, or type `source=self` alone."
        )
    return part


def _files_with_commas(spec: str) -> Iterator[Path]:
    """Files that are there and whose path is ``spec``, or what stands before a colon in it, commas and all."""
    ends = [match.start() for match in re.finditer(":", spec)] + [len(spec)]
    for path in (Path(os.path.expanduser(spec[:end])) for end in ends if "," in spec[:end]):  # noqa: PTH111 - as a shell
        try:
            if path.is_file():
                yield path
        except (OSError, ValueError):  # a name too long for the file system
            continue


def part_seed(seed: int, position: int) -> int:
    """The seed of the source at a position of a mixture, 0 to 2**63 - 1: a stream of its own."""
    digest = hashlib.sha256(f"{seed} {position}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def mix(drawn: Sequence[TokenWindows], parts: Sequence[Part], *, seed: int) -> TokenWindows:
    """Windows of several sources as those of one text, in an order of which every beginning is mixed alike.

    Args:
        drawn: the windows of each source, all of one length.
        parts: what was asked for, in the same order.
        seed: from which the seeds of the sources were made.
    """
    places = sorted(
        (Fraction(2 * window + 1, 2 * one.num_windows), source, window)
        for source, one in enumerate(drawn)
        for window in range(one.num_windows)
    )
    tokens = torch.stack([drawn[source].tokens[window] for _, source, window in places])
    sources = tuple(
        SourceIdentity(
            name=one.corpus_name,
            kind=one.kind,
            windows=one.num_windows,
            origin=one.corpus_origin,
            fingerprint=one.corpus_fingerprint,
        )
        for one in drawn
    )
    kinds = {one.kind for one in drawn}
    text = " ".join(f"{one.fingerprint} {part.count}" for one, part in zip(sources, parts, strict=True))
    return replace(
        drawn[0],
        tokens=tokens,
        seed=seed,
        text_tokens=sum(one.text_tokens for one in drawn),
        corpus_name=",".join(f"{one.name}:{part.count}" for one, part in zip(sources, parts, strict=True)),
        corpus_origin="; ".join(f"{one.num_windows} windows of {one.corpus_origin}" for one in drawn),
        corpus_fingerprint=hashlib.sha256(text.encode()).hexdigest(),
        note=" ".join(one.note for one in drawn if one.note) or None,
        kind=kinds.pop() if len(kinds) == 1 else TextKind.MIXTURE,
        sources=sources,
    )

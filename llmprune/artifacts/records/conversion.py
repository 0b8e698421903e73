"""``conversion.json`` in a run's ``dense/``: what was written there of a GGUF file or of pickled weights."""

from __future__ import annotations

from typing import ClassVar, Literal

from llmprune.artifacts.records.provenance import Artifact
from llmprune.artifacts.records.pruning import WrittenFiles

CONVERSION_NAME = "conversion.json"


class Conversion(Artifact):
    """``conversion.json``.

    Attributes:
        model: what was converted, as ``run.json`` calls it.
        written: every file, but for this one.
    """

    KIND: ClassVar[str] = "llmprune-conversion"

    kind: Literal["llmprune-conversion"] = "llmprune-conversion"
    schema_version: int = 1
    model: str
    written: WrittenFiles

"""``experts.json``: what one pass over the calibration windows measured of each expert."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from llmprune.artifacts.records.environment import Environment
from llmprune.artifacts.records.provenance import Artifact, BlockNumber, CorpusIdentity, ModelIdentity, Record
from llmprune.choices import ExpertMetric
from llmprune.errors import ArtifactError


class BlockExperts(Record):
    """The experts of one block.

    Attributes:
        block: its index.
        path: of the module that computes them.
        tokens: that the router sent to each.
        reap: the mean over these of gate times output norm; 0 where there was none.
    """

    block: BlockNumber
    path: str
    tokens: tuple[int, ...]
    reap: tuple[float, ...]

    def scores(self, metric: ExpertMetric) -> tuple[float, ...]:
        """The smaller, the less important."""
        return self.reap if metric is ExpertMetric.REAP else tuple(map(float, self.tokens))

    def __str__(self) -> str:
        least = min(range(len(self.reap)), key=lambda expert: self.reap[expert])
        idle = sum(not tokens for tokens in self.tokens)
        unused = f", {idle} of {len(self.tokens)} were sent no token" if idle else ""
        return f"block {self.block:3}: least important expert {least} (REAP {self.reap[least]:.4g}){unused}"


class ExpertImportance(Artifact):
    """``experts.json``.

    Attributes:
        model: the model whose experts were measured.
        corpus: the calibration text.
        windows_fingerprint: SHA-256 of the calibration windows' tokens.
        num_windows: calibration windows.
        seq_len: tokens in each.
        dtype: computed in.
        blocks: those that have experts, in order.
        environment: what it was computed with; None in files from before it was kept.
    """

    KIND: ClassVar[str] = "llmprune-expert-importance"

    kind: Literal["llmprune-expert-importance"] = "llmprune-expert-importance"
    schema_version: int = 1
    model: ModelIdentity
    corpus: CorpusIdentity
    windows_fingerprint: str
    num_windows: int
    seq_len: int
    dtype: str
    blocks: tuple[BlockExperts, ...]
    environment: Environment | None = None

    def check_belongs(self, model: ModelIdentity, path: Path) -> None:
        """See that this file is of the experts of ``model``.

        Raises:
            ArtifactError: it is of another model's.
        """
        if self.model.fingerprint != model.fingerprint:
            raise ArtifactError(
                f"{path} is of the experts of {self.model.name} (fingerprint {self.model.fingerprint[:12]}), not of "
                f"{model.name} ({model.fingerprint[:12]}); use another run directory (`run`) for another model."
            )

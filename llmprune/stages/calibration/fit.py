"""Whether a calibration is of the model that a run has now."""

from __future__ import annotations

from collections.abc import Set

from llmprune.artifacts.activations import Calibration
from llmprune.artifacts.records.pruning import RECORD_NAME, PruningRecord
from llmprune.errors import ArtifactError
from llmprune.stages.common.workspace import Workspace


def require_same_model(workspace: Workspace, known: Calibration) -> None:
    """See that a calibration is of the workspace's model and tokenizer, as their files are now.

    Raises:
        ArtifactError: it is another model's, of other weights, or of text that another tokenizer cut.
        ModelError: the tokenizer cannot be read.
    """
    _require_of(workspace, known, {workspace.model.fingerprint})


def require_same_text(workspace: Workspace, known: Calibration) -> None:
    """See that a calibration's windows may serve the workspace's model: its own, or those of the model it was cut from.

    Raises:
        ArtifactError: they are another model's, or of text that another tokenizer cut.
        ModelError: the tokenizer cannot be read.
    """
    path = workspace.directory / RECORD_NAME
    source = {PruningRecord.read(path).source.fingerprint} if path.exists() else set()
    _require_of(workspace, known, {workspace.model.fingerprint, *source})


def _require_of(workspace: Workspace, known: Calibration, fingerprints: Set[str]) -> None:
    other = None
    if known.manifest.model.fingerprint not in fingerprints:
        other = f"is a calibration of {known.manifest.model.name}, whose config or weights differ from"
    elif known.manifest.tokenizer not in (None, workspace.tokenizer_fingerprint()):
        other = f"holds tokens of {known.manifest.model.name}'s tokenizer as it was, which differs from that of"
    if other is not None:
        raise ArtifactError(
            f"{known.directory} {other} {workspace.model.name} now; type `run=OTHER`, or: llmprune calibrate --force"
        )

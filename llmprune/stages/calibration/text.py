"""The calibration windows that a stage works on: the run's own, another artifact's, or windows at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from llmprune.artifacts.activations import Calibration, open_calibration
from llmprune.artifacts.records.provenance import CorpusIdentity
from llmprune.errors import ArtifactError, TargetError
from llmprune.stages.calibration.fit import require_same_text
from llmprune.stages.calibration.stage import CalibrationSettings, draw_calibration
from llmprune.stages.common.workspace import Workspace
from llmprune.text.windows import TokenWindows


@dataclass(frozen=True)
class CalibrationText:
    """The windows that a model is pruned on, as records name them.

    Attributes:
        num_windows: how many.
        seq_len: tokens in each.
        corpus: the text.
        fingerprint: SHA-256 of the tokens.
        load: gives the tokens (num_windows, seq_len) int64.
        artifact: that holds them; None: they are at hand.
    """

    num_windows: int
    seq_len: int
    corpus: CorpusIdentity
    fingerprint: str
    load: Callable[[], Tensor]
    artifact: Calibration | None = None

    def is_kept_in(self, place: Path) -> bool:
        """Whether these are the windows of the calibration in ``place``, so that a command can use them again."""
        return place.exists() and open_calibration(place).manifest.windows_fingerprint == self.fingerprint


@dataclass(frozen=True)
class CalibrationChoice:
    """Which calibration a stage takes.

    Attributes:
        place: an artifact other than the run's own.
        samples: the first so many of its windows; None: all.
        seq_len: tokens in each; None: as many as it has.
        usual: how to calibrate where the run has no calibration yet; None: by the usual settings.
    """

    place: Path | None = None
    samples: int | None = None
    seq_len: int | None = None
    usual: CalibrationSettings | None = None


def text_of_windows(windows: TokenWindows) -> CalibrationText:
    """Windows in memory."""
    return CalibrationText(
        windows.num_windows, windows.seq_len, windows.identity(), windows.fingerprint, lambda: windows.tokens
    )


def text_of_artifact(known: Calibration) -> CalibrationText:
    """The windows of a calibration artifact; nothing but its manifest is read yet."""
    manifest = known.manifest
    return CalibrationText(
        manifest.num_windows, manifest.seq_len, manifest.corpus, manifest.windows_fingerprint, known.tokens, known
    )


def chosen_calibration(workspace: Workspace, choice: CalibrationChoice) -> Calibration:
    """The calibration artifact, its windows drawn now if the run has none. It need hold no pass over the dense model.

    Raises:
        ArtifactError: a calibration of another model, tokenizer or sequence length.
        TargetError: more windows than it has.
        As ``calibrate`` does.
    """
    place = choice.place or workspace.run.calibration
    if choice.place is not None or place.exists():
        known = open_calibration(place)
    else:
        workspace.progress.say(f"{workspace.run.path} holds no calibration yet: drawing its windows first.")
        usual = choice.usual or CalibrationSettings()
        samples, seq_len = choice.samples or usual.samples, choice.seq_len or usual.seq_len
        known = draw_calibration(workspace, replace(usual, samples=samples, seq_len=seq_len))
    require_same_text(workspace, known)
    require_enough(known, choice)
    return known


def require_enough(known: Calibration, choice: CalibrationChoice) -> None:
    """See that a calibration has the windows that were asked for."""
    windows, seq_len = known.manifest.num_windows, known.manifest.seq_len
    if choice.seq_len not in (None, seq_len):
        raise ArtifactError(
            f"{known.directory} has windows of {seq_len} tokens, not of {choice.seq_len}; type `seq_len={seq_len}`, "
            "or `run=OTHER` to calibrate anew."
        )
    if choice.samples is not None and choice.samples > windows:
        raise TargetError(
            f"`samples={choice.samples}` is more than the {windows} windows of {known.directory}; "
            f"type `samples={windows}` or less, or calibrate in another run: `run=OTHER`."
        )

"""``llmprune calibrate``: one pass over the dense model, one block of weights at a time."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmprune.artifacts.activations import Cache, Calibration, open_calibration
from llmprune.artifacts.checkpoint import open_checkpoint
from llmprune.artifacts.finiteness import find_non_finite, refuse_non_finite
from llmprune.calibration.corpora import load_corpus
from llmprune.calibration.windows import TokenWindows, sample_windows
from llmprune.errors import ArtifactError, TargetError
from llmprune.models.loading import load_config, load_tokenizer
from llmprune.stages.calibration_pass import run_pass
from llmprune.stages.workspace import Workspace


@dataclass(frozen=True)
class CalibrationSettings:
    """How to draw calibration windows, and what to keep of the pass.

    Attributes:
        source: a text source (``calibration.corpora``).
        samples: how many windows.
        seq_len: tokens in each.
        seed: of the drawing.
        sampling: ``windows`` at random positions, or ``rows`` as SLEB's published protocol.
        bos: whether windows start with BOS: ``auto`` as the tokenizer does by itself.
        cache: keep the hidden states entering the ``first`` block or ``all`` blocks.
    """

    source: str = "auto"
    samples: int = 128
    seq_len: int = 2048
    seed: int = 0
    sampling: Literal["windows", "rows"] = "windows"
    bos: Literal["auto", "always", "never"] = "auto"
    cache: Cache = "first"


def calibrate(workspace: Workspace, settings: CalibrationSettings, *, force: bool = False) -> Calibration:
    """Run the dense model over calibration windows and keep what later stages need.

    An interrupted pass goes on at the block where it stopped.

    Args:
        workspace: run directory and model.
        settings: which windows, and what to keep.
        force: replace a finished calibration made with other settings.

    Returns:
        The calibration artifact, opened.

    Raises:
        TargetError: window counts or lengths out of range.
        CorpusError: the text cannot be had, or is too short.
        ArtifactError: the run holds a calibration made with other settings.
        NumericalError: the model computes NaN or infinity.
    """
    if settings.seq_len > (longest := _longest_sequence(workspace)):
        raise TargetError(
            f"--seq-len {settings.seq_len} is beyond the model's {longest} positions; type --seq-len {longest} or less."
        )
    windows = draw_windows(workspace, settings)
    place = workspace.run.calibration
    with workspace.run.locked():
        if place.exists() and not force:
            return _finished_before(place, workspace, windows, settings)
        check_finite(workspace)
        partial = place.with_name("calibration.partial")
        run_pass(workspace, windows, partial, cache=settings.cache)
        if place.exists():
            shutil.rmtree(place)
        partial.rename(place)
    return open_calibration(place)


def draw_windows(workspace: Workspace, settings: CalibrationSettings) -> TokenWindows:
    """The calibration windows that ``settings`` ask for, drawn from text or from the model itself."""
    tokenizer = load_tokenizer(workspace.directory, trust_remote_code=workspace.trust_remote_code)
    corpus = load_corpus(settings.source)
    if corpus.note:
        workspace.progress.say(corpus.note)
    return sample_windows(
        corpus,
        tokenizer,
        num_windows=settings.samples,
        seq_len=settings.seq_len,
        seed=settings.seed,
        sampling=settings.sampling,
        bos=settings.bos,
    )


def check_finite(workspace: Workspace) -> None:
    """See that no weight is NaN or infinite, before anything is computed or written.

    Raises:
        CheckpointError: some are; the message names them.
    """
    refuse_non_finite(find_non_finite(open_checkpoint(workspace.directory)))


def _longest_sequence(workspace: Workspace) -> int:
    """Positions that the model was made for; models without a limit (ALiBi) have none."""
    text = load_config(workspace.directory, trust_remote_code=workspace.trust_remote_code).get_text_config(decoder=True)
    return int(getattr(text, "max_position_embeddings", None) or 2**31)


def _finished_before(
    place: Path, workspace: Workspace, windows: TokenWindows, settings: CalibrationSettings
) -> Calibration:
    known = open_calibration(place)
    wanted = (workspace.model.fingerprint, windows.fingerprint)
    has = (known.manifest.model.fingerprint, known.manifest.windows_fingerprint)
    if wanted != has or (settings.cache == "all" and known.manifest.cache == "first"):
        raise ArtifactError(
            f"{place} holds a calibration of {known.manifest.num_windows} x {known.manifest.seq_len} tokens of "
            f"{known.manifest.corpus.name} with cache '{known.manifest.cache}', made with other settings; "
            "type --force to replace it, or --run OTHER to keep both."
        )
    workspace.progress.say(f"{place} is complete already: nothing to do.")
    return known

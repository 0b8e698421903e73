"""``llmprune calibrate``: one pass over the dense model, one block of weights at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from llmprune.artifacts.activations import Calibration, CalibrationManifest, calibration_files, open_calibration
from llmprune.artifacts.files.atomic import move_into_place
from llmprune.artifacts.files.disk_space import explain_full_disk
from llmprune.artifacts.files.ownership import require_own
from llmprune.artifacts.run import RunDirectory
from llmprune.choices import SAMPLES, SEED, SEQ_LEN, SOURCE, Bos, Cache, ChatTemplate, Sampling
from llmprune.errors import ArtifactError, TargetError
from llmprune.models.compute import dtype_name
from llmprune.stages.calibration.artifact import drawn_manifest, require_partial, write_calibration, write_windows
from llmprune.stages.calibration.fit import require_same_model
from llmprune.stages.calibration.windows import draw_windows
from llmprune.stages.common.checks import require_at_least, require_positions
from llmprune.stages.common.workspace import Workspace
from llmprune.text.mixtures import SELF, parse_mixture
from llmprune.text.windows import TokenWindows

_ELSEWHERE = "move it away, or type `run=OTHER`."


@dataclass(frozen=True)
class CalibrationSettings:
    """How to draw calibration windows, and what to keep of the pass.

    Attributes:
        source: a text source (``text.corpora``), a mixture of several with the number of windows of each
            (``text.mixtures``), or ``self``: the model writes the windows.
        samples: how many windows; None: as many as the mixture says, or 128.
        seq_len: tokens in each; None: 2048, or as many as the model has positions.
        seed: of the drawing.
        sampling: ``windows`` at random positions, or ``rows`` as SLEB's published protocol.
        bos: whether windows start with BOS: ``auto`` as the tokenizer does by itself.
        cache: which of the dense model's hidden states are kept.
        chat_template: conversations as the tokenizer's template writes them (``auto``), or their contents (``off``).

    Raises:
        TargetError: a number that no model could satisfy, or a mixture that is not to be understood.
    """

    source: str = SOURCE
    samples: int | None = None
    seq_len: int | None = None
    seed: int = SEED
    sampling: Sampling = Sampling.WINDOWS
    bos: Bos = Bos.AUTO
    cache: Cache = Cache.NONE
    chat_template: ChatTemplate = ChatTemplate.AUTO

    def __post_init__(self) -> None:
        require_at_least(1, samples=self.samples)
        require_at_least(2, seq_len=self.seq_len)
        if not 0 <= self.seed < 2**63:
            raise TargetError(f"`seed={self.seed!s:.40}` is out of range; type a number from 0 to {2**63 - 1}.")
        if parse_mixture(self.source) and self.samples not in (None, self.num_windows):
            raise TargetError(
                f"`samples={self.samples}` is not the {self.num_windows} windows that the counts of the mixture make "
                "together; leave it out."
            )

    @property
    def num_windows(self) -> int:
        """How many windows, or rows, are to be drawn."""
        return sum(part.count for part in parse_mixture(self.source)) or self.samples or SAMPLES


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
        ArtifactError: the run holds a calibration, or one that was interrupted, made with other settings.
        OutputExistsError: something that is not llmprune's lies where a calibration goes.
        CheckpointError: weights that are NaN or infinite, or not what the config says.
        NumericalError: the model computes NaN or infinity.
        LlmpruneError: the disk is full.
    """
    settings, place = _with_length(workspace, settings), workspace.run.calibration
    if place.exists() and not force:
        return _finished_before(workspace, open_calibration(place), settings)
    _require_own(workspace.run)
    windows = _draw(workspace, settings)
    with workspace.writing():
        if place.exists() and not force:  # by another process, meanwhile
            return _finished_before(workspace, open_calibration(place), settings)
        _require_own(workspace.run)
        drawn = drawn_manifest(workspace, windows, settings.chat_template)
        return _measure(workspace, drawn, windows.tokens, settings.cache, force=force)


def draw_calibration(workspace: Workspace, settings: CalibrationSettings) -> Calibration:
    """The calibration of a run that has none, without a pass over the dense model: windows of text.

    Raises:
        As ``calibrate`` does.
    """
    settings = _with_length(workspace, settings)
    _require_own(workspace.run)
    windows = _draw(workspace, settings)
    place, partial = workspace.run.calibration, workspace.run.partial_calibration
    with workspace.writing(), explain_full_disk(workspace.run.path):
        if not place.exists():  # nor made by another process, meanwhile
            _require_own(workspace.run)
            write_windows(drawn_manifest(workspace, windows, settings.chat_template), windows.tokens, partial)
            move_into_place(partial, place, owned=calibration_files)
    return open_calibration(place)


def calibrate_on(workspace: Workspace, windows: TokenWindows) -> Calibration:
    """The run's calibration on windows that are at hand, made now where there is none.

    Raises:
        As ``calibrate`` does.
    """
    place = workspace.run.calibration
    if not place.exists():
        require_positions(workspace.positions, seq_len=windows.seq_len)
        with workspace.writing():
            if not place.exists():
                _require_own(workspace.run)
                drawn = drawn_manifest(workspace, windows, ChatTemplate.AUTO)
                return _measure(workspace, drawn, windows.tokens, Cache.NONE)
    known = open_calibration(place)
    require_same_model(workspace, known)
    asked = dtype_name(workspace.going_on(known.directory, known.manifest.dtype).dtype)
    if known.manifest.windows_fingerprint != windows.fingerprint or known.manifest.dtype not in (None, asked):
        raise _made_otherwise(known)
    return _with_measurements(workspace, known)


def drawn_calibration(workspace: Workspace) -> Calibration:
    """The run's calibration, its windows drawn now by the usual settings where there is none.

    It need hold no pass over the dense model.

    Raises:
        As ``calibrate`` does.
    """
    place = workspace.run.calibration
    if not place.exists():
        workspace.progress.say(f"{workspace.run.path} has no calibration yet: drawing its windows first.")
        return draw_calibration(workspace, CalibrationSettings())
    require_same_model(workspace, known := open_calibration(place))
    return known


def calibrated(workspace: Workspace) -> Calibration:
    """The run's calibration with its pass over the dense model, made now by the usual settings where there is none.

    Raises:
        As ``calibrate`` does.
    """
    place = workspace.run.calibration
    if not place.exists():
        workspace.progress.say(
            f"{workspace.run.path} has no calibration yet: running calibrate with its defaults first."
        )
        return calibrate(workspace, CalibrationSettings())
    calibration = open_calibration(place)
    require_same_model(workspace, calibration)
    return _with_measurements(workspace, calibration)


def _with_measurements(workspace: Workspace, known: Calibration, cache: Cache = Cache.NONE) -> Calibration:
    """A calibration whose windows ran through the dense model, now if they did not yet."""
    if known.manifest.measured:
        return known
    workspace.progress.say(f"{known.directory} holds windows alone: running them through the dense model first.")
    with workspace.writing():
        known = open_calibration(known.directory)
        if known.manifest.measured:  # by another process, meanwhile
            return known
        return _measure(workspace, known.manifest, known.tokens(), cache)


def _measure(
    workspace: Workspace, drawn: CalibrationManifest, tokens: Tensor, cache: Cache, *, force: bool = False
) -> Calibration:
    """Run the pass. What was there before keeps its place until the new one is complete."""
    place = workspace.run.calibration
    workspace.remark_slow_dtype()
    with explain_full_disk(workspace.run.path):
        write_calibration(workspace, drawn, tokens, cache=cache, give_up=force)
        move_into_place(workspace.run.partial_calibration, place, owned=calibration_files)
    return open_calibration(place)


def _with_length(workspace: Workspace, settings: CalibrationSettings) -> CalibrationSettings:
    """Settings that say how long windows are, which the model has positions for."""
    seq_len = settings.seq_len or min(SEQ_LEN, workspace.positions)
    require_positions(workspace.positions, seq_len=seq_len)
    return replace(settings, seq_len=seq_len)


def _require_own(run: RunDirectory) -> None:
    """See that what a calibration would replace is llmprune's.

    Raises:
        OutputExistsError: it is not.
    """
    require_own(run.calibration, calibration_files(run.calibration), instead=_ELSEWHERE)
    require_partial(run.partial_calibration)


def _draw(workspace: Workspace, settings: CalibrationSettings) -> TokenWindows:
    assert settings.seq_len is not None
    return draw_windows(
        workspace,
        source=settings.source,
        samples=settings.num_windows,
        seq_len=settings.seq_len,
        seed=settings.seed,
        sampling=settings.sampling,
        bos=settings.bos,
        chat_template=settings.chat_template,
    )


def _finished_before(workspace: Workspace, known: Calibration, settings: CalibrationSettings) -> Calibration:
    """The finished calibration, if it is the one that ``settings`` ask for."""
    require_same_model(workspace, known)
    manifest = known.manifest
    workspace = workspace.going_on(known.directory, manifest.dtype)
    less = manifest.measured and settings.cache not in (Cache.NONE, manifest.cache)
    other_dtype = manifest.dtype not in (None, dtype_name(workspace.dtype))
    if less or other_dtype or not _same_windows(workspace, manifest, settings):
        raise _made_otherwise(known)
    known.require_intact()
    if not manifest.measured:
        return _with_measurements(workspace, known, settings.cache)
    workspace.progress.say(f"{known.directory} is complete already: nothing to do.")
    return known


def _made_otherwise(known: Calibration) -> ArtifactError:
    manifest = known.manifest
    dtype = manifest.dtype or "no dtype yet"
    return ArtifactError(
        f"{known.directory} holds a calibration of {manifest.num_windows} x {manifest.seq_len} tokens of "
        f"{manifest.corpus.name} in {dtype} with cache '{manifest.cache}', made with other settings; "
        "type `force=True` to replace it, or `run=OTHER` to keep both."
    )


def _same_windows(workspace: Workspace, manifest: CalibrationManifest, settings: CalibrationSettings) -> bool:
    if settings.source == SELF:  # the model would write for minutes, only to be compared
        known = (manifest.corpus.name, manifest.num_windows, manifest.seq_len, manifest.seed)
        return known == (SELF, settings.num_windows, settings.seq_len, settings.seed)
    return _draw(workspace, settings).fingerprint == manifest.windows_fingerprint

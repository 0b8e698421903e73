"""The calibration artifact: windows of text, and later what a pass over the dense model measured on them.

Windows are all that some commands need. The pass is made for the first command that needs what it measures, and goes
on where an earlier one stopped. Once the manifest is there the pass is over, and whatever it does not name can go.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from llmprune.artifacts.activations import (
    MANIFEST,
    TOKENS,
    CalibrationManifest,
    hidden_name,
    save_tokens,
)
from llmprune.artifacts.files.atomic import write_json_atomic
from llmprune.artifacts.files.ownership import remove_own, require_own
from llmprune.artifacts.files.temporary import is_temporary
from llmprune.artifacts.records.differences import differences
from llmprune.artifacts.records.environment import compared
from llmprune.artifacts.records.provenance import FileRecord, read_state, recorded_as
from llmprune.choices import Cache, ChatTemplate
from llmprune.errors import ArtifactError, NumericalError
from llmprune.models.compute import dtype_name
from llmprune.models.decoder import Decoder
from llmprune.ranks.group import Placed
from llmprune.ranks.shared import require_divisible
from llmprune.stages.calibration.dense_pass import (
    STATE,
    DensePass,
    DensePassState,
    is_own,
    keep_only,
)
from llmprune.stages.calibration.dense_share import PassShare
from llmprune.stages.common.progress import Progress, Silent
from llmprune.stages.common.workspace import Workspace
from llmprune.text.windows import TokenWindows


def drawn_manifest(workspace: Workspace, windows: TokenWindows, chat_template: ChatTemplate) -> CalibrationManifest:
    """The manifest of windows that nothing was measured on yet; it names no file."""
    return CalibrationManifest(
        model=workspace.model,
        corpus=windows.identity(),
        num_windows=windows.tokens.shape[0],
        seq_len=windows.tokens.shape[1],
        sampling=windows.sampling,
        seed=windows.seed,
        bos=windows.bos,
        chat_template=chat_template,
        windows_fingerprint=windows.fingerprint,
        tokenizer=workspace.tokenizer_fingerprint(),
    )


def write_windows(drawn: CalibrationManifest, tokens: Tensor, partial: Path) -> None:
    """Fill ``calibration.partial`` with an artifact that holds windows alone.

    Raises:
        ArtifactError: a pass was stopped there.
    """
    if (stopped := _stopped(partial)) is not None:
        windows = _settings(stopped) | {"windows": drawn.windows_fingerprint}
        raise _interrupted(partial, differences(_settings(stopped), windows))
    remove_own(partial, is_own, last=(MANIFEST, STATE))
    partial.mkdir(exist_ok=True)
    begin = DensePassState(model=drawn.model.fingerprint, windows=drawn.windows_fingerprint, dtype="", cache=Cache.NONE)
    write_json_atomic(partial / STATE, begin.model_dump())  # first: it tells whose folder this is
    save_tokens(partial / TOKENS, tokens)
    drawn.model_copy(update={"files": {TOKENS: FileRecord.of_file(partial / TOKENS)}}).write(partial / MANIFEST)
    keep_only(partial, {MANIFEST, TOKENS})


def write_calibration(
    workspace: Workspace, drawn: CalibrationManifest, tokens: Tensor, *, cache: Cache, give_up: bool
) -> None:
    """Fill ``calibration.partial`` with a complete artifact, going on where an earlier pass stopped.

    Args:
        workspace: the run, held for writing, and the model.
        drawn: says which windows.
        tokens: of the windows (num_windows, seq_len) int64.
        cache: which hidden states to keep.
        give_up: whether a stopped pass on something else is given up.

    Raises:
        ArtifactError: a pass on something else was stopped there, and ``give_up`` is not set.
        NumericalError: the model computes NaN or infinity.
        LlmpruneError: there is no room for the hidden states.
    """
    partial = workspace.run.partial_calibration
    decoder = workspace.open_decoder()
    begin = DensePassState(
        model=workspace.model.fingerprint,
        windows=drawn.windows_fingerprint,
        dtype=dtype_name(decoder.dtype),
        cache=cache,
    )
    stopped = _stopped(partial)
    how = None if stopped is None else differences(_settings(stopped), _settings(begin))
    if how is not None and not give_up:
        raise _interrupted(partial, how)
    if not isinstance(stopped, CalibrationManifest) or how is not None:
        with _place_shares(workspace, decoder, tokens) as shares, _nothing_half_begun(partial):
            work = DensePass(shares, workspace.progress)
            state = _resumed(partial, stopped, begin, workspace.progress)
            state = state or work.begun(begin, kept_in=workspace.run.calibration)
            state = work.finished(state)
            _write_manifest(partial, state, drawn, work)
    keep_only(partial, {MANIFEST, *CalibrationManifest.read(partial / MANIFEST).files})


def _place_shares(workspace: Workspace, decoder: Decoder, tokens: Tensor) -> Placed[PassShare]:
    """Have every rank open the model for its share of the windows; this one has it already.

    Raises:
        TargetError: more ranks than windows.
        SharedFolderError: a rank does not see the run directory.
    """
    ranks = workspace.compute.ranks
    require_divisible(ranks, len(tokens))
    workspace.require_shared()
    return ranks.place(_open_share, replace(workspace, progress=Silent()), tokens, own={"decoder": decoder})


def _open_share(workspace: Workspace, tokens: Tensor, decoder: Decoder | None = None) -> PassShare:
    compute = workspace.compute.here()
    decoder = decoder or replace(workspace, compute=compute).open_decoder()
    batch = compute.batch_windows(tokens.shape[1])
    return PassShare(decoder, tokens, workspace.run.partial_calibration, batch, compute.ranks)


def _interrupted(partial: Path, how: str | None) -> ArtifactError:
    named = "" if how is None else f" ({how})"
    return ArtifactError(
        f"{partial} holds a calibration that was interrupted, with other settings than this one{named}; type its "
        "command again to go on with it, or give it up: llmprune calibrate --force"
    )


def require_partial(partial: Path) -> None:
    """See that nothing but a calibration that was interrupted lies where one is made.

    Raises:
        OutputExistsError: something else does, or it is a link.
    """
    records = ((STATE, DensePassState.KIND), (MANIFEST, CalibrationManifest.KIND))
    known = any(recorded_as(partial / name, kind) is not None for name, kind in records)
    require_own(partial, is_own if known else is_temporary, instead="move it away, or type `run=OTHER`.")


def _stopped(partial: Path) -> DensePassState | CalibrationManifest | None:
    """What an earlier pass left: its manifest if it was over, else its state; None where it had finished nothing."""
    with suppress(ArtifactError):
        manifest = CalibrationManifest.read(partial / MANIFEST)
        return manifest if manifest.measured else None
    state = read_state(partial / STATE, DensePassState)
    return state if state is not None and state.blocks else None


def _settings(begun: DensePassState | CalibrationManifest) -> dict[str, str | None]:
    """All that decides what comes out of a pass."""
    if isinstance(begun, CalibrationManifest):
        model, windows = begun.model.fingerprint, begun.windows_fingerprint
    else:
        model, windows = begun.model, begun.windows
    return {"model": model, "windows": windows, "dtype": begun.dtype, "cache": begun.cache}


@contextmanager
def _nothing_half_begun(partial: Path) -> Iterator[None]:
    """After an exception, remove what no later pass can use: a pass without a block, or one whose numbers fail."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, NumericalError) or _stopped(partial) is None:
            remove_own(partial, is_own, last=(MANIFEST, STATE))
        raise


def _resumed(
    partial: Path, stopped: DensePassState | CalibrationManifest | None, begin: DensePassState, progress: Progress
) -> DensePassState | None:
    """Where an earlier pass on the same stopped; None where there is none, or its files are not whole."""
    if not isinstance(stopped, DensePassState) or _settings(stopped) != _settings(begin):
        return None
    if not all(file.is_at(partial / name) for name, file in stopped.files.items()):
        progress.say(f"The files in {partial} are not what an earlier pass wrote: it begins anew.")
        return None
    keep_only(partial, {STATE, *stopped.files})
    if (changed := compared(stopped.environment, begin.environment)) is None:
        return stopped
    remark = f"From block {len(stopped.blocks)} on, {changed}"
    progress.say(remark)
    return stopped.model_copy(update={"environment": begin.environment, "remarks": (*stopped.remarks, remark)})


def _write_manifest(partial: Path, state: DensePassState, drawn: CalibrationManifest, work: DensePass) -> None:
    measured = work.measured(state)
    kept = {TOKENS, *(hidden_name(block) for block in range(state.kept))}
    drawn.model_copy(
        update={
            "dtype": state.dtype,
            "cache": state.cache,
            "dense_losses": measured.dense_losses,
            "blocks": measured.blocks,
            "angular_distances": measured.angular_distances,
            "files": {name: file for name, file in state.files.items() if name in kept},
            "environment": state.environment,
            "remarks": (*state.remarks, *work.remarks()),
        }
    ).write(partial / MANIFEST)

"""The calibration artifact: made by one pass over the dense model, gone on with where an earlier pass stopped.

Once the manifest is there the pass is over, and whatever it does not name can go.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmprune.artifacts.activations import MANIFEST, CalibrationManifest, hidden_name, is_intact
from llmprune.choices import Cache, ChatTemplate
from llmprune.errors import ArtifactError, NumericalError
from llmprune.models.compute import dtype_name
from llmprune.stages.calibration.dense_pass import (
    STATE,
    DenseMeasurements,
    DensePass,
    DensePassState,
    keep_only,
    last_name,
)
from llmprune.stages.common.workspace import Workspace
from llmprune.text.windows import TokenWindows


def write_calibration(
    workspace: Workspace, windows: TokenWindows, partial: Path, *, cache: Cache, chat_template: ChatTemplate
) -> None:
    """Fill ``partial`` with a complete calibration artifact, going on where an earlier pass stopped.

    Raises:
        NumericalError: the model computes NaN or infinity.
        LlmpruneError: there is no room for the hidden states.
    """
    decoder = workspace.open_decoder()
    begin = DensePassState(
        model=workspace.model.fingerprint,
        windows=windows.fingerprint,
        dtype=dtype_name(decoder.dtype),
        cache=cache,
    )
    if not _is_over(partial, begin):
        work = DensePass(decoder, windows.tokens, partial, workspace.compute, workspace.progress)
        with _nothing_half_begun(partial):
            state = _resumed(partial, begin) or work.begun(begin, kept_in=workspace.run.calibration)
            state = work.finished(state)
            _write_manifest(partial, state, windows, work.measured(state), workspace, chat_template)
    keep_only(partial, {MANIFEST, *CalibrationManifest.read(partial / MANIFEST).files})


def _is_over(partial: Path, begin: DensePassState) -> bool:
    """Whether an earlier pass on the same was stopped after its manifest was written."""
    try:
        known = CalibrationManifest.read(partial / MANIFEST)
    except ArtifactError:
        return False
    return (known.model.fingerprint, known.windows_fingerprint, known.dtype, known.cache) == (
        begin.model,
        begin.windows,
        begin.dtype,
        begin.cache,
    )


@contextmanager
def _nothing_half_begun(partial: Path) -> Iterator[None]:
    """After an exception, remove what no later pass can use: a pass without a state, or one whose numbers fail."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, NumericalError) or not (partial / STATE).exists():
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _resumed(partial: Path, begin: DensePassState) -> DensePassState | None:
    """Where an earlier pass on the same stopped; None where there is none, or its files are not whole."""
    try:
        stopped = DensePassState.model_validate_json((partial / STATE).read_bytes())
    except (OSError, ValueError):
        return None
    if stopped.model_copy(update={"blocks": (), "files": {}}) != begin:
        return None
    entering = hidden_name(len(stopped.blocks))
    sizes = {path.name: path.stat().st_size for path in partial.iterdir()}
    whole = all(sizes.get(name) == file.bytes for name, file in stopped.files.items())
    if not whole or not is_intact(partial / entering, stopped.files[entering]):
        return None
    keep_only(partial, {STATE, *stopped.files})
    return stopped


def _write_manifest(
    partial: Path,
    state: DensePassState,
    windows: TokenWindows,
    measured: DenseMeasurements,
    workspace: Workspace,
    chat_template: ChatTemplate,
) -> None:
    total = len(state.blocks)
    passing = {last_name(block) for block in range(total + 1)}
    if state.cache == Cache.FIRST:
        passing.add(hidden_name(total))
    CalibrationManifest(
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
        dtype=state.dtype,
        cache=state.cache,
        dense_losses=measured.dense_losses,
        blocks=measured.blocks,
        angular_distances=measured.angular_distances,
        files={name: file for name, file in state.files.items() if name not in passing},
    ).write(partial / MANIFEST)

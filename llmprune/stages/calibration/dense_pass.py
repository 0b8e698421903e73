"""The pass behind ``calibrate``: each block is loaded once, run over all windows, and given up.

Hidden states go from file to file, a few windows at a time, so that memory holds one
block and one batch whatever the number of windows. After each block the state of the
pass is on disk: an interrupted pass goes on at the next block. Once the manifest is
there the pass is over, and whatever it does not name can go.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmprune.algorithms.blocks.scores import angular_distances, cosine_similarity_sum
from llmprune.artifacts.activations import (
    MANIFEST,
    TOKENS,
    BlockStatistics,
    CachedFile,
    CalibrationManifest,
    HiddenStatesWriter,
    cached_file,
    hidden_name,
    is_intact,
    open_hidden_states,
    save_tokens,
)
from llmprune.artifacts.files.atomic import write_json_atomic
from llmprune.artifacts.files.disk_space import require_free_space
from llmprune.artifacts.records.provenance import Record
from llmprune.choices import Cache
from llmprune.errors import ArtifactError, NumericalError
from llmprune.evaluation.losses import token_losses
from llmprune.models.compute import dtype_name
from llmprune.models.loading import Decoder
from llmprune.models.open_block import OpenBlock
from llmprune.stages.common.workspace import Workspace
from llmprune.text.windows import TokenWindows

_STATE = "state.json"


class DensePassState(Record):
    """What a pass runs on, and the blocks and files that it has finished."""

    model: str
    windows: str
    dtype: str
    cache: Cache
    blocks: tuple[BlockStatistics, ...] = ()
    files: dict[str, CachedFile] = Field(default_factory=dict)


def dense_pass(workspace: Workspace, windows: TokenWindows, partial: Path, *, cache: Cache) -> None:
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
        with _nothing_half_begun(partial):
            state = _resumed(partial, begin) or _begun(partial, begin, workspace, windows.tokens, decoder)
            state = _run_blocks(decoder, windows.tokens, partial, state, workspace)
            losses = _dense_losses(decoder, windows.tokens, partial, workspace)
            _write_manifest(partial, state, windows, losses, workspace)
    _keep_only(partial, {MANIFEST, *CalibrationManifest.read(partial / MANIFEST).files})


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
    """After an exception, remove what no later pass could go on from, or would only fail on again."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, NumericalError) or not (partial / _STATE).exists():
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _resumed(partial: Path, begin: DensePassState) -> DensePassState | None:
    """Where an earlier pass on the same stopped; None where there is none, or its files are not whole."""
    try:
        stopped = DensePassState.model_validate_json((partial / _STATE).read_bytes())
    except (OSError, ValueError):
        return None
    if stopped.model_copy(update={"blocks": (), "files": {}}) != begin:
        return None
    entering = hidden_name(len(stopped.blocks))
    sizes = {path.name: path.stat().st_size for path in partial.iterdir()}
    whole = all(sizes.get(name) == file.bytes for name, file in stopped.files.items())
    if not whole or not is_intact(partial / entering, stopped.files[entering]):
        return None
    _keep_only(partial, {_STATE, *stopped.files})
    return stopped


def _begun(
    partial: Path, begin: DensePassState, workspace: Workspace, tokens: Tensor, decoder: Decoder
) -> DensePassState:
    """A pass of which the embeddings are done."""
    if partial.exists():
        shutil.rmtree(partial)
    _announce(partial, tokens, begin, workspace, decoder)
    partial.mkdir()
    save_tokens(partial / TOKENS, tokens)
    entering = (decoder.runner.embed(batch) for _, batch in _batches(tokens, workspace, decoder))
    files = _write_states(partial, 0, tokens.shape, decoder.dtype, entering)
    return begin.model_copy(update={"files": {TOKENS: cached_file(partial / TOKENS), **files}})


def _run_blocks(
    decoder: Decoder, tokens: Tensor, partial: Path, state: DensePassState, workspace: Workspace
) -> DensePassState:
    """Run all blocks that are still to be run, the state of the pass on disk after each."""
    done, total = len(state.blocks), len(decoder.blocks)
    if done:
        workspace.progress.say(f"Going on at block {done} of {total}.")
    with workspace.progress.task("Calibrating", total * len(tokens)) as advance:
        advance(done * len(tokens))
        for block in range(done, total):
            with decoder.block(block):
                state = _run_block(decoder, block, tokens, partial, state, workspace, advance)
            write_json_atomic(partial / _STATE, state.model_dump())
            _keep_only(partial, {_STATE, *state.files})
    return state


def _run_block(
    decoder: Decoder,
    block: int,
    tokens: Tensor,
    partial: Path,
    state: DensePassState,
    workspace: Workspace,
    advance: Callable[[float], None],
) -> DensePassState:
    """Run one block over all windows, from file to file, and measure it."""
    sums = torch.zeros(3, dtype=torch.float64)

    def outputs() -> Iterator[Tensor]:
        with open_hidden_states(partial / hidden_name(block)) as entering:
            for rows, batch in _batches(tokens, workspace, decoder):
                before = entering.windows(rows.start, rows.stop).to(decoder.device)
                call = decoder.runner.calls(batch)[block]
                after = decoder.runner.run(block, before, call)
                if not bool(torch.isfinite(after).all()):
                    raise OpenBlock(decoder, block).not_finite(before, call)
                sums.add_(_measure(before, after))
                yield after
                advance(len(batch))

    files = state.files | _write_states(partial, block + 1, tokens.shape, decoder.dtype, outputs())
    cosine, input_norm, update_norm = (sums / tokens.numel()).tolist()
    statistics = BlockStatistics(influence=1 - cosine, input_norm=input_norm, update_norm=update_norm)
    if state.cache is Cache.FIRST and block > 0:
        del files[hidden_name(block)]
    return state.model_copy(update={"blocks": (*state.blocks, statistics), "files": files})


def _measure(before: Tensor, after: Tensor) -> Tensor:
    """Sums over tokens: cosine similarity of input and output, norm of the input, norm of the update."""
    return torch.tensor(
        [
            cosine_similarity_sum(before, after),
            float(before.float().norm(dim=-1).double().sum()),
            float((after.float() - before.float()).norm(dim=-1).double().sum()),
        ],
        dtype=torch.float64,
    )


def _write_states(
    partial: Path, block: int, shape: torch.Size, dtype: torch.dtype, batches: Iterator[Tensor]
) -> dict[str, CachedFile]:
    """Write the hidden states entering ``block``, and beside them those of each window's last token."""
    writer: HiddenStatesWriter | None = None
    last: list[Tensor] = []
    try:
        for states in batches:
            if writer is None:
                width = states.shape[-1]
                writer = HiddenStatesWriter(partial / hidden_name(block), shape=(*shape, width), dtype=dtype)
            writer.append(states)
            last.append(states[:, -1].float().cpu().clone())
        assert writer is not None, "there is at least one window"
        save_file({"last": torch.cat(last)}, partial / _last_name(block))
        return {hidden_name(block): writer.finish(), _last_name(block): cached_file(partial / _last_name(block))}
    finally:
        if writer is not None:
            writer.discard()


def _dense_losses(decoder: Decoder, tokens: Tensor, partial: Path, workspace: Workspace) -> list[float]:
    """Mean loss of every window, in nats/token."""
    losses: list[float] = []
    with (
        open_hidden_states(partial / hidden_name(len(decoder.blocks))) as leaving,
        workspace.progress.task("Dense loss", len(tokens)) as advance,
    ):
        for rows, batch in _batches(tokens, workspace, decoder):
            states = leaving.windows(rows.start, rows.stop).to(decoder.device)
            losses += token_losses(decoder.runner, states, batch).double().mean(dim=1).tolist()
            advance(len(batch))
    return losses


def _write_manifest(
    partial: Path, state: DensePassState, windows: TokenWindows, losses: list[float], workspace: Workspace
) -> None:
    total = len(state.blocks)
    last = [load_file(partial / _last_name(block))["last"] for block in range(total + 1)]
    passing = {_last_name(block) for block in range(total + 1)}
    if state.cache is Cache.FIRST:
        passing.add(hidden_name(total))
    CalibrationManifest(
        model=workspace.model,
        corpus=windows.identity(),
        num_windows=windows.tokens.shape[0],
        seq_len=windows.tokens.shape[1],
        sampling=windows.sampling,
        seed=windows.seed,
        bos=windows.bos,
        windows_fingerprint=windows.fingerprint,
        tokenizer=workspace.tokenizer_fingerprint(),
        dtype=state.dtype,
        cache=state.cache,
        dense_losses=tuple(losses),
        blocks=state.blocks,
        angular_distances=tuple(tuple(row) for row in angular_distances(torch.stack(last)).tolist()),
        files={name: file for name, file in state.files.items() if name not in passing},
    ).write(partial / MANIFEST)


def _keep_only(partial: Path, names: Collection[str]) -> None:
    """Remove every file that the pass, or the artifact, needs no longer."""
    for path in list(partial.iterdir()):
        if path.name not in names:
            path.unlink()


def _batches(tokens: Tensor, workspace: Workspace, decoder: Decoder) -> Iterator[tuple[slice, Tensor]]:
    """The windows in batches that keep the device busy: where they are, and their tokens on the device."""
    size = max(1, workspace.compute.batch_tokens // tokens.shape[1])
    for start in range(0, len(tokens), size):
        rows = slice(start, min(start + size, len(tokens)))
        yield rows, tokens[rows].to(decoder.device)


def _announce(partial: Path, tokens: Tensor, begin: DensePassState, workspace: Workspace, decoder: Decoder) -> None:
    """Say what the pass will keep, and see that there is room for it."""
    width = decoder.runner.embed(tokens[:1, :1].to(decoder.device)).shape[-1]
    each = tokens.numel() * width * decoder.dtype.itemsize
    kept = each * (len(decoder.blocks) + 1 if begin.cache is Cache.ALL else 1)
    most = kept if begin.cache is Cache.ALL else 3 * each
    workspace.progress.say(
        f"Calibrating on {tokens.shape[0]} x {tokens.shape[1]} tokens: {kept / 2**30:.2f} GiB of hidden states will "
        f"be kept in {workspace.run.calibration} ({most / 2**30:.2f} GiB of disk while it runs)."
    )
    require_free_space(partial, most)


def _last_name(block: int) -> str:
    return f"last-{block:05d}.safetensors"

"""The pass behind ``calibrate``: each block is loaded once, run over all windows, and given up.

Hidden states go from file to file, a few windows at a time, so that memory holds one
block and one batch whatever the number of windows. After each block the state of the
pass is on disk: an interrupted pass goes on at the next block.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmprune.algorithms.block_scores import angular_distances, cosine_similarity_sum
from llmprune.artifacts.activations import (
    MANIFEST,
    TOKENS,
    BlockStatistics,
    Cache,
    CachedFile,
    CalibrationManifest,
    HiddenStatesWriter,
    cached_file,
    hidden_name,
    open_hidden_states,
    save_tokens,
)
from llmprune.artifacts.atomic import write_json_atomic
from llmprune.artifacts.provenance import CorpusIdentity, Record
from llmprune.calibration.windows import TokenWindows
from llmprune.errors import NumericalError
from llmprune.evaluation.losses import token_losses
from llmprune.models.compute import dtype_name
from llmprune.models.loading import Decoder
from llmprune.stages.workspace import Workspace

_STATE = "state.json"


class PassState(Record):
    """What a pass runs on, and what it has finished."""

    model: str
    windows: str
    dtype: str
    cache: Cache
    blocks: tuple[BlockStatistics, ...] = ()
    files: dict[str, CachedFile] = Field(default_factory=dict)


def run_pass(workspace: Workspace, windows: TokenWindows, partial: Path, *, cache: Cache) -> None:
    """Fill ``partial`` with a complete calibration artifact, going on where an earlier pass stopped.

    Raises:
        NumericalError: the model computes NaN or infinity.
    """
    decoder = workspace.open_decoder()
    state = _begin_or_resume(partial, workspace, windows, decoder, cache)
    total = len(decoder.blocks)
    with workspace.progress.task("Calibrating", total * len(windows.tokens)) as advance:
        advance(len(state.blocks) * len(windows.tokens))
        for block in range(len(state.blocks), total):
            with decoder.block(block):
                state = _run_block(decoder, block, windows.tokens, partial, state, workspace, advance)
            write_json_atomic(partial / _STATE, state.model_dump())
            if cache == "first" and block > 0:
                (partial / hidden_name(block)).unlink()
    losses = _dense_losses(decoder, windows.tokens, partial, workspace)
    _finish(partial, state, windows, losses, workspace)


def _begin_or_resume(
    partial: Path, workspace: Workspace, windows: TokenWindows, decoder: Decoder, cache: Cache
) -> PassState:
    begin = PassState(
        model=workspace.model.fingerprint,
        windows=windows.fingerprint,
        dtype=dtype_name(decoder.dtype),
        cache=cache,
    )
    if (partial / _STATE).is_file():
        stopped = PassState.model_validate_json((partial / _STATE).read_text(encoding="utf-8"))
        if stopped.model_copy(update={"blocks": (), "files": {}}) == begin:
            workspace.progress.say(f"Going on at block {len(stopped.blocks)} of {len(decoder.blocks)}.")
            for leftover in partial.glob("hidden-*"):
                if leftover.name not in stopped.files:
                    leftover.unlink()
            return stopped
    if partial.exists():
        shutil.rmtree(partial)
    _say_size(workspace, windows.tokens, decoder, cache)
    partial.mkdir()
    save_tokens(partial / TOKENS, windows.tokens)
    entering = ((rows, decoder.runner.embed(rows)) for _, rows in _batches(windows.tokens, workspace, decoder))
    first = _write_states(partial, 0, windows.tokens.shape, decoder.dtype, (states for _, states in entering))
    return begin.model_copy(update={"files": {hidden_name(0): first}})


def _run_block(
    decoder: Decoder,
    block: int,
    tokens: Tensor,
    partial: Path,
    state: PassState,
    workspace: Workspace,
    advance: Callable[[float], None],
) -> PassState:
    """Run one block over all windows, from file to file, and measure it."""
    sums = torch.zeros(3, dtype=torch.float64)

    def outputs() -> Iterator[Tensor]:
        with open_hidden_states(partial / hidden_name(block)) as entering:
            for rows, batch in _batches(tokens, workspace, decoder):
                before = entering.windows(rows.start, rows.stop).to(decoder.device)
                after = decoder.runner.run(block, before, decoder.runner.calls(batch)[block])
                _require_finite(after, block)
                sums.add_(_measure(before, after))
                yield after
                advance(len(batch))

    written = _write_states(partial, block + 1, tokens.shape, decoder.dtype, outputs())
    cosine, input_norm, update_norm = (sums / tokens.numel()).tolist()
    statistics = BlockStatistics(influence=1 - cosine, input_norm=input_norm, update_norm=update_norm)
    files = {**state.files, hidden_name(block + 1): written}
    if state.cache == "first" and block > 0:
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
) -> CachedFile:
    """Write the hidden states entering ``block``, and beside them those of each window's last token."""
    writer: HiddenStatesWriter | None = None
    last: list[Tensor] = []
    for states in batches:
        if writer is None:
            width = states.shape[-1]
            writer = HiddenStatesWriter(partial / hidden_name(block), shape=(*shape, width), dtype=dtype)
        writer.append(states)
        last.append(states[:, -1].float().cpu().clone())
    assert writer is not None, "there is at least one window"
    save_file({"last": torch.cat(last)}, partial / _last_name(block))
    return writer.finish()


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


def _finish(partial: Path, state: PassState, windows: TokenWindows, losses: list[float], workspace: Workspace) -> None:
    """Write the manifest and remove what only the pass itself needed."""
    total = len(state.blocks)
    last = [load_file(partial / _last_name(block))["last"] for block in range(total + 1)]
    files = {**state.files, TOKENS: cached_file(partial / TOKENS)}
    if state.cache == "first":
        (partial / hidden_name(total)).unlink()
        del files[hidden_name(total)]
    CalibrationManifest(
        model=workspace.model,
        corpus=CorpusIdentity(
            name=windows.corpus_name,
            origin=windows.corpus_origin,
            fingerprint=windows.corpus_fingerprint,
            note=windows.note,
        ),
        num_windows=windows.tokens.shape[0],
        seq_len=windows.tokens.shape[1],
        sampling=windows.sampling,
        seed=windows.seed,
        bos=windows.bos,
        windows_fingerprint=windows.fingerprint,
        dtype=state.dtype,
        cache=state.cache,
        dense_losses=tuple(losses),
        blocks=state.blocks,
        angular_distances=tuple(tuple(row) for row in angular_distances(torch.stack(last)).tolist()),
        files=files,
    ).write(partial / MANIFEST)
    for block in range(total + 1):
        (partial / _last_name(block)).unlink()
    (partial / _STATE).unlink()


def _batches(tokens: Tensor, workspace: Workspace, decoder: Decoder) -> Iterator[tuple[slice, Tensor]]:
    """The windows in batches that keep the device busy: where they are, and their tokens on the device."""
    size = max(1, workspace.compute.batch_tokens // tokens.shape[1])
    for start in range(0, len(tokens), size):
        rows = slice(start, min(start + size, len(tokens)))
        yield rows, tokens[rows].to(decoder.device)


def _say_size(workspace: Workspace, tokens: Tensor, decoder: Decoder, cache: Cache) -> None:
    width = decoder.runner.embed(tokens[:1, :1].to(decoder.device)).shape[-1]
    each = tokens.numel() * width * decoder.dtype.itemsize
    kept = each * (len(decoder.blocks) + 1 if cache == "all" else 1)
    most = kept if cache == "all" else 3 * each
    workspace.progress.say(
        f"Calibrating on {tokens.shape[0]} x {tokens.shape[1]} tokens: {kept / 2**30:.2f} GiB of hidden states will "
        f"be kept in {workspace.run.calibration} ({most / 2**30:.2f} GiB of disk while it runs)."
    )


def _require_finite(states: Tensor, block: int) -> None:
    if not torch.isfinite(states).all():
        raise NumericalError(
            f"Block {block} gives NaN or infinite hidden states in {dtype_name(states.dtype)}; "
            "try --dtype float32, or --dtype bfloat16 if the weights are float16."
        )


def _last_name(block: int) -> str:
    return f"last-{block:05d}.safetensors"

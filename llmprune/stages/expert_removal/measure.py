"""The pass behind ``remove-experts``: what each expert gives on the calibration windows, block by block.

Hidden states go from file to file, as ``calibration.dense_pass`` has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from llmprune.algorithms.experts import ExpertStatistics
from llmprune.artifacts.activations import HiddenStatesWriter, hidden_name, open_hidden_states
from llmprune.artifacts.files.disk_space import explain_full_disk, require_free_space
from llmprune.artifacts.records.expert_importance import BlockExperts
from llmprune.errors import ModelError
from llmprune.models.compute import Compute
from llmprune.models.decoder import Decoder
from llmprune.models.expert_surgery import ExpertLayout
from llmprune.models.open_block import OpenBlock
from llmprune.models.open_experts import outputs_of, routing_of
from llmprune.stages.common.progress import Progress


def measure_experts(
    decoder: Decoder, layout: ExpertLayout, tokens: Tensor, folder: Path, compute: Compute, progress: Progress
) -> Iterator[BlockExperts]:
    """Run the calibration windows through the model once, and measure the experts of each block that has some.

    Args:
        decoder: the model.
        layout: its experts.
        tokens: calibration windows (windows, seq_len) int64.
        folder: an existing one for hidden states; what is left in it is the caller's to remove.
        compute: how much goes through a block at once.
        progress: who listens.

    Yields:
        The blocks with experts, in order.

    Raises:
        NumericalError: the model computes NaN or infinity.
        ModelError: experts are not given tokens and choices.
        LlmpruneError: the disk is full.
    """
    last = max(layout.blocks)
    batches = tokens.split(max(1, compute.batch_tokens // tokens.shape[1]))
    with explain_full_disk(folder), progress.task("Measuring experts", (last + 1) * len(tokens)) as advance:
        _write(decoder, tokens, folder, 0, (decoder.runner.embed(part.to(decoder.device)) for part in batches))
        for block in range(last + 1):
            statistics = ExpertStatistics(layout.count)
            path = layout.blocks.get(block)
            with decoder.block(block):
                outputs = _outputs(decoder, block, path, batches, folder, statistics)
                if block < last:
                    _write(decoder, tokens, folder, block + 1, outputs)
                else:
                    for _ in outputs:
                        pass
            (folder / hidden_name(block)).unlink()
            advance(len(tokens))
            if path is not None:
                yield BlockExperts(block=block, path=path, tokens=statistics.tokens, reap=statistics.reap)


def _outputs(
    decoder: Decoder,
    block: int,
    path: str | None,
    batches: tuple[Tensor, ...],
    folder: Path,
    statistics: ExpertStatistics,
) -> Iterator[Tensor]:
    """What leaves a block, batch by batch; what its experts give is added up meanwhile."""
    opened, start = OpenBlock(decoder, block), 0
    with open_hidden_states(folder / hidden_name(block)) as entering:
        for part in batches:
            hidden = entering.windows(start, start + len(part)).to(decoder.device)
            start += len(part)
            call = decoder.runner.calls(part.to(decoder.device))[block]
            if path is None:
                after = opened.forward(hidden, call)
            else:
                after, args = opened.forward_and_arguments(path, hidden, call)
                _measure(opened, path, args, statistics)
            if not bool(torch.isfinite(after).all()):
                raise opened.not_finite(hidden, call)
            yield after


@torch.inference_mode()
def _measure(opened: OpenBlock, path: str, args: tuple[object, ...], statistics: ExpertStatistics) -> None:
    routing = routing_of(args)
    if routing is None:
        raise ModelError(
            f"{path} of block {opened.index} is not given tokens and the experts that they are sent to; its experts "
            "cannot be told apart."
        )
    module = opened.module.get_submodule(path)
    for expert in routing.chosen.unique().tolist():
        if expert < len(statistics.tokens):  # another index stands for no expert
            rows, gates = routing.rows(expert)
            statistics.update(expert, gates.cpu(), outputs_of(module, expert, routing.inputs[rows], gates).cpu())


def _write(decoder: Decoder, tokens: Tensor, folder: Path, block: int, batches: Iterator[Tensor]) -> None:
    """Write the hidden states entering ``block``."""
    writer: HiddenStatesWriter | None = None
    try:
        for states in batches:
            if writer is None:
                shape = (*tokens.shape, states.shape[-1])
                require_free_space(folder, 2 * tokens.numel() * shape[-1] * states.dtype.itemsize)
                writer = HiddenStatesWriter(folder / hidden_name(block), shape=shape, dtype=decoder.runner.stream_dtype)
            writer.append(states)
        assert writer is not None, "there is at least one window"
        writer.finish()
    finally:
        if writer is not None:
            writer.discard()

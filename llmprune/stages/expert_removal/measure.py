"""The pass behind ``remove-experts``: what each expert gives on the calibration windows, block by block.

Hidden states go from file to file in a ``Stream``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from llmprune.algorithms.experts import ExpertStatistics
from llmprune.artifacts.files.disk_space import explain_full_disk, require_free_space
from llmprune.artifacts.records.expert_importance import BlockExperts
from llmprune.errors import ModelError
from llmprune.models.compute import Compute
from llmprune.models.decoder import Decoder
from llmprune.models.expert_surgery import ExpertLayout
from llmprune.models.open_block import OpenBlock
from llmprune.models.open_experts import outputs_of, routing_of
from llmprune.stages.common.progress import Progress
from llmprune.stages.passes import Stream


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
    stream = Stream("measured", decoder, tokens, folder, compute.batch_windows(tokens.shape[1]))
    with explain_full_disk(folder), progress.task("Measuring experts", (last + 1) * len(tokens)) as advance:
        require_free_space(folder, 2 * stream.nbytes)
        stream.embedded()
        for block in range(last + 1):
            statistics = ExpertStatistics(layout.count)
            path = layout.blocks.get(block)
            with decoder.block(block):
                outputs = _outputs(stream, block, path, statistics)
                if block < last:
                    stream.write(block + 1, outputs)
                else:
                    for _ in outputs:
                        pass
            (folder / stream.file(block)).unlink()
            advance(len(tokens))
            if path is not None:
                yield BlockExperts(block=block, path=path, tokens=statistics.tokens, reap=statistics.reap)


def _outputs(stream: Stream, block: int, path: str | None, statistics: ExpertStatistics) -> Iterator[Tensor]:
    """What leaves a block, batch by batch; what its experts give is added up meanwhile."""
    opened = OpenBlock(stream.decoder, block)
    for batch in stream.entering(block):
        if path is None:
            after = opened.forward(batch.hidden, batch.call)
        else:
            after, args = opened.forward_and_arguments(path, batch.hidden, batch.call)
            _measure(opened, path, args, statistics)
        if not bool(torch.isfinite(after).all()):
            raise opened.not_finite(batch.hidden, batch.call)  # while the block is open, the matrix can be named
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

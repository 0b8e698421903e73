"""The commands that measure a sweep's models again. Those that make the models stand in their records."""

from __future__ import annotations

from pathlib import Path

from llmprune.artifacts.records.command_line import unless_usual
from llmprune.artifacts.records.protocols import Protocols
from llmprune.choices import Bos
from llmprune.stages.common.command_line import model_argument, recorded_command
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.sweeping.settings import SweepSettings


def bench_command(
    settings: SweepSettings, measuring: Protocols, workspace: Workspace, checkpoint: Path | None = None
) -> str:
    """The command that measures a point's checkpoint beside the dense model; None: the dense model by itself."""
    asked, speed = settings.bench, measuring.speed
    (seq_len,) = {protocol.seq_len for protocol in measuring.perplexity}
    return recorded_command(
        workspace,
        "bench",
        model_argument(workspace) if checkpoint is None else checkpoint,
        ppl=[protocol.corpus.name for protocol in measuring.perplexity],
        ppl_seq_len=seq_len,
        max_windows=asked.max_windows,
        bos=unless_usual(asked.bos, Bos.AUTO),
        tasks=",".join(asked.tasks) or None,
        lm_eval_include=asked.lm_eval_include,
        limit=asked.limit,
        num_fewshot=asked.num_fewshot,
        agreement=0,
        no_speed=speed is None,
        batch=",".join(map(str, speed.batch)) if speed is not None else None,
        gen=speed.new_tokens if speed is not None else None,
        prompt=speed.prompt_tokens if speed is not None else None,
        prefill=speed.prefill_tokens if speed is not None else None,
        repeats=speed.repeats if speed is not None else None,
        max_seconds=speed.max_seconds if speed is not None else None,
    )

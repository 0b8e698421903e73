"""The commands that make each artifact again. Local files and models are named without folders, as in artifacts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmprune.artifacts.records.command_line import spell_command, unless_usual
from llmprune.choices import PROTECT_FIRST, PROTECT_LAST, Bos, Cache, ChatTemplate, Metric, Sampling

if TYPE_CHECKING:
    from llmprune.artifacts.activations import CalibrationManifest
    from llmprune.artifacts.records.bench import BenchResult
    from llmprune.artifacts.records.importance import Importance
    from llmprune.artifacts.records.protocols import TaskProtocol


def calibrate_command(manifest: CalibrationManifest) -> str:
    """The command of a calibration."""
    return spell_command(
        "calibrate",
        manifest.model.name,
        source=manifest.corpus.name,
        samples=None if manifest.corpus.sources else manifest.num_windows,
        seq_len=manifest.seq_len,
        seed=manifest.seed or None,
        sampling=Sampling.ROWS if manifest.sampling == Sampling.ROWS else None,
        cache=unless_usual(manifest.cache, Cache.NONE),
        bos=_bos(manifest.bos),
        chat_template=unless_usual(manifest.chat_template, ChatTemplate.AUTO),
        dtype=manifest.dtype,
    )


def search_command(importance: Importance) -> str:
    """The command of a search, behind its calibration."""
    settings = importance.settings
    return spell_command(
        "verify-redundancy",
        importance.model.name,
        target=len(importance.order),
        metric=unless_usual(settings.metric, Metric.SLEB),
        search=settings.search,
        error_rate=settings.error_rate,
        protect_first=unless_usual(settings.protect_first, PROTECT_FIRST),
        protect_last=unless_usual(settings.protect_last, PROTECT_LAST),
        heal=settings.heal is not None,
        dtype=settings.dtype,
    )


def bench_command(result: BenchResult) -> str:
    """The command of a benchmark."""
    texts, tasks, speed, agreement = result.perplexity, result.tasks, result.speed, result.agreement
    bos = texts[0].bos if texts else tasks.bos if tasks else None
    return spell_command(
        "bench",
        result.model.name,
        baseline=result.baseline.name if result.baseline else None,
        ppl=[protocol.corpus.name for protocol in texts],
        no_ppl=not texts,
        ppl_seq_len=texts[0].seq_len if texts else None,
        max_windows=max((protocol.windows for protocol in texts), default=None),
        bos=_bos(bos) if bos is not None else None,
        tasks=",".join(tasks.tasks) if tasks else None,
        limit=tasks.limit if tasks else None,
        num_fewshot=_examples(tasks),
        agreement=agreement.prompts if agreement else 0,
        draft=result.model.draft is not None,
        no_speed=speed is None,
        batch=",".join(map(str, speed.batch)) if speed else None,
        gen=speed.new_tokens if speed else agreement.new_tokens if agreement else None,
        prompt=speed.prompt_tokens if speed else agreement.prompt_tokens if agreement else None,
        prefill=speed.prefill_tokens if speed else None,
        repeats=speed.repeats if speed else None,
        max_seconds=speed.max_seconds if speed else None,
        dtype=result.dtype,
    )


def _examples(tasks: TaskProtocol | None) -> int | None:
    """The number of examples where all tasks had as many; None: each had its own."""
    numbers = set(tasks.num_fewshot) if tasks else set()
    return numbers.pop() if len(numbers) == 1 else None


def _bos(bos: bool) -> str:
    return Bos.ALWAYS if bos else Bos.NEVER

"""The tasks of a benchmark: all models get the same items and examples."""

from __future__ import annotations

from collections.abc import Sequence

from llmprune.artifacts.records.bench import ModelResult, TaskDifference, TaskResult
from llmprune.artifacts.records.protocols import TaskProtocol
from llmprune.choices import Bos
from llmprune.errors import TargetError
from llmprune.evaluation.intervals import standard_error
from llmprune.evaluation.tasks import Answer, OpenTasks, Pairs, Scores, count_requests, open_tasks, score_tasks
from llmprune.models.compute import Compute
from llmprune.ranks.group import Placed
from llmprune.stages.benchmark.opened import Streamed
from llmprune.stages.benchmark.settings import BenchSettings
from llmprune.stages.benchmark.subjects import Subject
from llmprune.stages.benchmark.together import QualityShare
from llmprune.stages.common.progress import Progress
from llmprune.text.windows import adds_bos

_TOKENS = 256  # of an item, as a guess: a batch holds as many items as fill the device


def open_asked_tasks(subjects: Sequence[Subject], settings: BenchSettings) -> tuple[OpenTasks, TaskProtocol] | None:
    """The tasks that were asked for, and their protocol; None without tasks.

    Raises:
        TaskError: lm-eval is not installed, a name is unknown, or a task's data cannot be had.
        TargetError: ``bos`` is ``always`` for a tokenizer that adds no BOS.
        ModelError: no usable tokenizer.
    """
    if not settings.tasks:
        return None
    tasks = open_tasks(settings.tasks, include=settings.lm_eval_include, num_fewshot=settings.num_fewshot)
    adds = adds_bos(subjects[0].tokenizer())
    if settings.bos == Bos.ALWAYS and not adds:
        raise TargetError(
            "`bos=always`: lm-eval starts items with BOS only where the tokenizer does, and this one does not; type "
            "`bos=auto`, or measure the tasks alone."
        )
    protocol = TaskProtocol(
        tasks=tuple(tasks.tasks),
        limit=settings.limit,
        lm_eval=tasks.lm_eval,
        bos=adds and settings.bos != Bos.NEVER,
        num_fewshot=tuple(tasks.num_fewshot.values()),
        generative=tasks.generative,
    )
    return tasks, protocol


def measure_tasks(
    shares: Placed[QualityShare], tasks: OpenTasks, protocol: TaskProtocol, *, compute: Compute, progress: Progress
) -> tuple[TaskResult, ...]:
    """Accuracy of a model, which every rank has, on every task, by each of its metrics.

    Raises:
        TaskError: lm-eval fails on a task.
    """
    one, batch, several = shares.local.one, compute.batch_windows(_TOKENS), shares.ranks.size > 1
    with progress.task(f"Tasks, {one.subject.num_blocks} blocks", count_requests(tasks, protocol.limit)) as advance:

        def likelihoods(pairs: Pairs) -> list[Answer]:
            own = {"on_requests": lambda done: advance(done * shares.ranks.size)}  # others are as far, about
            found = shares.call("likelihoods", pairs, batch, protocol.bos, own=own)
            return [answer for part in found for answer in part]

        scores = score_tasks(
            one.model,
            one.subject.tokenizer(),
            tasks,
            limit=protocol.limit,
            batch_size=batch,
            bos=protocol.bos,
            streamed=one.logits() if isinstance(one, Streamed) else None,
            on_requests=advance,
            likelihoods=likelihoods if several else None,
        )
    return tuple(_result(task, metric, found) for (task, metric), found in scores.items())


def _result(task: str, metric: str, found: Scores) -> TaskResult:
    return TaskResult(
        task=task,
        metric=metric,
        filter=found.found_by,
        accuracy=sum(found.items) / len(found.items),
        stderr=standard_error(found.items),
        items=found.items,
    )


def task_differences(model: ModelResult, baseline: ModelResult | None) -> tuple[TaskDifference, ...]:
    """The model's accuracies minus the baseline's. The difficulty of the items cancels in the standard error."""
    if baseline is None:
        return ()
    differences: list[TaskDifference] = []
    for one, other in zip(model.tasks, baseline.tasks, strict=True):
        items = [mine - theirs for mine, theirs in zip(one.items, other.items, strict=True)]
        mean = sum(items) / len(items)
        differences.append(
            TaskDifference(task=one.task, metric=one.metric, difference=mean, stderr=standard_error(items))
        )
    return tuple(differences)

"""Zero-shot accuracy through lm-eval, item by item, so that two models can be compared on the same items."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmprune.errors import TaskError
from llmprune.quiet import no_bars_in, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Scores = Mapping[tuple[str, str], tuple[float, ...]]
"""(task, metric) -> the score of every item, in the order of their numbers."""


@dataclass(frozen=True)
class ZeroShotTasks:
    """Tasks with their data, ready to be asked.

    Attributes:
        tasks: lm-eval's task objects by name.
        metrics: (task, metric) of every metric that is a mean over items, more being better.
        lm_eval: the version of lm-eval.
    """

    tasks: Mapping[str, Any]
    metrics: tuple[tuple[str, str], ...]
    lm_eval: str


def open_tasks(names: Sequence[str], *, include: Path | None = None) -> ZeroShotTasks:
    """Find tasks by name and load their data.

    Args:
        names: of tasks, or of groups of tasks, as lm-eval knows them.
        include: a folder with more task files, which go before lm-eval's.

    Raises:
        TaskError: lm-eval is not installed, a name is unknown, or a task's data cannot be had.
    """
    if include is not None and not include.is_dir():
        raise TaskError(f"`lm_eval_include={include}` is not a folder; type the one that holds your task files.")
    import datasets  # noqa: F401, PLC0415 - a second to import, and silenced only once it is

    with quiet():
        manager = _task_manager(names, include)
        try:
            tasks = manager.load(list(names))["tasks"]
            metrics = tuple(pair for name, task in tasks.items() for pair in _metrics(name, task))
        except TaskError:
            raise
        except Exception as error:  # a task's own code, a data set's, the Hub's: it may be anything
            raise TaskError(
                f"The tasks {', '.join(names)} cannot be loaded: {_gist(error)}. Without the Hub, write task files "
                "that read local data and type `lm_eval_include=FOLDER`."
            ) from error
    return ZeroShotTasks(tasks, metrics, version("lm-eval"))


def score_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: ZeroShotTasks,
    *,
    limit: int | None,
    batch_size: int,
    bos: bool,
    on_requests: Callable[[int], None] = lambda _: None,
) -> Scores:
    """Ask a model every item of every task, without examples.

    Args:
        model: in memory, in eval mode.
        tokenizer: its own.
        tasks: from ``open_tasks``; the same ones for every model that is compared.
        limit: only so many first items of each task; None: all.
        batch_size: sequences in one forward pass.
        bos: let the tokenizer put its BOS in front; it must be one that does so by itself.
        on_requests: called with the number of sequences done.

    Raises:
        TaskError: lm-eval fails on a task.
    """
    from lm_eval.api import task as requests  # noqa: PLC0415 - an extra, and a second to import
    from lm_eval.evaluator import evaluate  # noqa: PLC0415 - as above

    with quiet(), no_bars_in(requests):  # it draws a bar while it puts a task's requests together
        for task in tasks.tasks.values():
            task.set_config("num_fewshot", 0)
        try:
            asked = _asked_model(on_requests)(
                pretrained=model, tokenizer=tokenizer, batch_size=batch_size, add_bos_token=bos
            )
            found = evaluate(asked, {"tasks": dict(tasks.tasks)}, limit=limit, bootstrap_iters=0, log_samples=True)
        except Exception as error:  # as in open_tasks
            raise TaskError(f"lm-eval fails on {', '.join(tasks.tasks)}: {_gist(error)}.") from error
    return {(task, metric): _scores(found["samples"][task], metric) for task, metric in tasks.metrics}


def count_requests(tasks: ZeroShotTasks, limit: int | None) -> int:
    """How many sequences a model will be asked, about: items, times the choices of a task's first."""
    total = 0
    for task in tasks.tasks.values():
        items = list(task.eval_docs)[:limit]
        choices = task.doc_to_choice(items[0]) if items and task.OUTPUT_TYPE == "multiple_choice" else [""]
        total += len(items) * len(choices)
    return total


def _task_manager(names: Sequence[str], include: Path | None) -> Any:
    """A manager that knows all ``names``: of the folder alone if that will do, for lm-eval's own take ten seconds."""
    try:
        from lm_eval.tasks import TaskManager  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise TaskError("`tasks` needs lm-eval, which is not installed; type: pip install 'llmprune[eval]'") from error
    folder = str(include) if include else None
    try:
        manager = TaskManager(include_path=folder, include_defaults=False)
        if not all(manager.match_tasks([name]) for name in names):
            manager = TaskManager(include_path=folder)
    except Exception as error:  # YAML of any kind
        raise TaskError(f"The task files in {folder} cannot be read: {_gist(error)}.") from error
    for name in names:
        if not manager.match_tasks([name]):
            raise _unknown(name, manager.all_tasks, include)
    return manager


def _unknown(name: str, known: Sequence[str], include: Path | None) -> TaskError:
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`lm-eval ls tasks` lists them."
    own = f" nor in {include}" if include else "; task files of your own go with `lm_eval_include=FOLDER`"
    return TaskError(f"There is no task '{name:.60}' in lm-eval {version('lm-eval')}{own}. {hint}")


def _metrics(name: str, task: Any) -> Iterator[tuple[str, str]]:
    better = task.higher_is_better()
    found = [
        (name, metric)
        for metric, aggregate in task.aggregation().items()
        if getattr(aggregate, "__name__", "") == "mean" and better.get(metric)
    ]
    if not found:
        raise TaskError(f"The task {name} has no accuracy that is a mean over its items; leave it out of `tasks`.")
    yield from found


def _scores(samples: Sequence[Mapping[str, Any]], metric: str) -> tuple[float, ...]:
    """Scores by item; where a task filters answers in several ways, by the first."""
    first = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    return tuple(float(sample[metric]) for sample in sorted(first, key=lambda sample: int(sample["doc_id"])))


def _asked_model(on_requests: Callable[[int], None]) -> Any:
    """lm-eval's wrapper of a model, telling its progress to us rather than to the terminal."""
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415 - an extra

    class Asked(HFLM):  # type: ignore[misc]
        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().loglikelihood(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().loglikelihood_rolling(requests, disable_tqdm=True)

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().generate_until(requests, disable_tqdm=True)

        def _model_call(self, inps: Any, *args: Any, **kwargs: Any) -> Any:
            on_requests(len(inps))
            return super()._model_call(inps, *args, **kwargs)

    return Asked


def _gist(error: Exception) -> str:
    """The first line of another library's message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}".rstrip(".")[:300]

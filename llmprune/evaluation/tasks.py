"""Accuracy on tasks through lm-eval, item by item, so that two models can be compared on the same items."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig

from llmprune.errors import LlmpruneError, TaskError
from llmprune.evaluation.generation import own_generation_config
from llmprune.evaluation.streamed_logits import StreamedLogits
from llmprune.models.devices import exact_products
from llmprune.quiet import no_bars_in, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_WRITTEN = "generate_until"  # lm-eval's name of tasks whose answers are written
Pairs = Sequence[tuple[str, str]]  # texts, and what may stand behind each
Answer = tuple[float, bool]  # log-likelihood of what stands behind, and whether the model would have written it
Likelihoods = Callable[[Pairs], list[Answer]]
_SEED = 1234  # lm-eval's own, of which examples stand before an item


@dataclass(frozen=True)
class Scores:
    """What a model got in one task by one metric.

    Attributes:
        found_by: lm-eval's name of how the answer is found in what the model says, the task's first way.
        items: the score of every item, in the order of their numbers.
    """

    found_by: str
    items: tuple[float, ...]


@dataclass(frozen=True)
class OpenTasks:
    """Tasks with their data, ready to be asked.

    Attributes:
        tasks: lm-eval's task objects by name.
        metrics: (task, metric) of every metric that is a mean over items, more being better.
        num_fewshot: for each task, how many solved examples stand before an item.
        lm_eval: the version of lm-eval.
    """

    tasks: Mapping[str, Any]
    metrics: tuple[tuple[str, str], ...]
    num_fewshot: Mapping[str, int]
    lm_eval: str

    @property
    def generative(self) -> tuple[str, ...]:
        """Names of the tasks whose answers a model writes."""
        return tuple(name for name, task in self.tasks.items() if task.OUTPUT_TYPE == _WRITTEN)


def open_tasks(names: Sequence[str], *, include: Path | None = None, num_fewshot: int | None = None) -> OpenTasks:
    """Find tasks by name and load their data.

    Args:
        names: of tasks, or of groups of tasks, as lm-eval knows them.
        include: a folder with more task files, which go before lm-eval's.
        num_fewshot: solved examples before each item; None: as many as the task itself asks for.

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
            examples = {name: _with_examples(task, num_fewshot) for name, task in tasks.items()}
        except TaskError:
            raise
        except Exception as error:  # a task's own code, a data set's, the Hub's: it may be anything
            raise TaskError(
                f"The tasks {', '.join(names)} cannot be loaded: {_gist(error)}. Without the Hub, write task files "
                "that read local data and type `lm_eval_include=FOLDER`."
            ) from error
    return OpenTasks(tasks, metrics, examples, version("lm-eval"))


def score_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: OpenTasks,
    *,
    limit: int | None,
    batch_size: int,
    bos: bool,
    streamed: StreamedLogits | None = None,
    on_requests: Callable[[int], None] = lambda _: None,
    likelihoods: Likelihoods | None = None,
) -> Mapping[tuple[str, str], Scores]:
    """Ask a model every item of every task. Where it writes the answers, its own generation config is set aside.

    Args:
        model: in eval mode, in memory unless ``streamed`` computes its logits.
        tokenizer: its own.
        tasks: from ``open_tasks``; the same ones for every model that is compared.
        limit: only so many first items of each task; None: all.
        batch_size: sequences in one forward pass.
        bos: let the tokenizer put its BOS in front; it must be one that does so by itself.
        streamed: computes the logits of a model whose blocks are not in memory. It cannot generate.
        on_requests: called with the number of sequences done.
        likelihoods: computes all log-likelihoods in place of the model; None: nobody does.

    Raises:
        TaskError: lm-eval fails on a task.
    """
    from lm_eval.api import task as requests  # noqa: PLC0415 - an extra, and a second to import
    from lm_eval.evaluator import evaluate  # noqa: PLC0415 - as above

    with (
        ExitStack() as stack,
        exact_products(),
        quiet(),
        no_bars_in(requests),
    ):  # it draws a bar while it puts a task's requests together
        for task in tasks.tasks.values():
            task.set_fewshot_seed(seed=_SEED)  # anew for each model: both get the same examples
        stack.enter_context(own_generation_config(model, _ended_as(model)))
        try:
            asked = _asked_model(on_requests, streamed, likelihoods)(
                pretrained=model, tokenizer=tokenizer, batch_size=batch_size, add_bos_token=bos
            )
            found = evaluate(asked, {"tasks": dict(tasks.tasks)}, limit=limit, bootstrap_iters=0, log_samples=True)
        except LlmpruneError:
            raise
        except Exception as error:  # as in open_tasks
            raise TaskError(f"lm-eval fails on {', '.join(tasks.tasks)}: {_gist(error)}.") from error
    return {(task, metric): _scores(found["samples"][task], metric) for task, metric in tasks.metrics}


def own_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Pairs,
    *,
    batch_size: int,
    bos: bool,
    streamed: StreamedLogits | None = None,
    on_requests: Callable[[int], None] = lambda _: None,
) -> list[Answer]:
    """Log-likelihoods of some texts behind others, as ``score_tasks`` has them computed; see there."""
    from lm_eval.api.instance import Instance  # noqa: PLC0415 - an extra

    with quiet(), exact_products():
        asked = _asked_model(on_requests, streamed)(
            pretrained=model, tokenizer=tokenizer, batch_size=batch_size, add_bos_token=bos
        )
        found: list[Answer] = asked.loglikelihood(
            [Instance("loglikelihood", doc={}, arguments=pair, idx=0) for pair in pairs]
        )
    return found


def count_requests(tasks: OpenTasks, limit: int | None) -> int:
    """How many sequences a model will be asked, about: items, times the choices of a task's first, or its one text."""
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


def _with_examples(task: Any, wanted: int | None) -> int:
    """Set how many solved examples stand before an item, and tell the number.

    Raises:
        TaskError: the task has no text to take examples from.
    """
    own = task.get_config("num_fewshot")
    number = int(own or 0) if wanted is None else wanted
    task.set_config("num_fewshot", number)
    if number and not task.fewshot_docs():
        raise TaskError(f"The task {task.config.task} has no solved examples to show; type `num_fewshot=0`.")
    return number


def _ended_as(model: PreTrainedModel) -> GenerationConfig:
    """Plain decoding that ends where a text ends in this model; lm-eval adds what the task asks for."""
    own = model.generation_config
    return GenerationConfig(eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id)


def _scores(samples: Sequence[Mapping[str, Any]], metric: str) -> Scores:
    found_by = samples[0]["filter"]
    first = sorted((one for one in samples if one["filter"] == found_by), key=lambda one: int(one["doc_id"]))
    return Scores(found_by, tuple(float(one[metric]) for one in first))


def _asked_model(
    on_requests: Callable[[int], None], streamed: StreamedLogits | None, likelihoods: Likelihoods | None = None
) -> Any:
    """lm-eval's wrapper of a model, telling its progress to us rather than to the terminal."""
    from lm_eval.models.huggingface import HFLM  # noqa: PLC0415 - an extra

    class Asked(HFLM):  # type: ignore[misc]
        noting = False

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            if likelihoods is not None:
                return likelihoods([one.args for one in requests])
            self.noting = streamed is not None
            if self.noting:
                super().loglikelihood(requests, disable_tqdm=True)
                self.noting = False
            return super().loglikelihood(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().loglikelihood_rolling(requests, disable_tqdm=True)

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().generate_until(requests, disable_tqdm=True)

        def _model_call(self, inps: Any, *args: Any, **kwargs: Any) -> Any:
            if streamed is not None and self.noting:
                return streamed.note(inps)
            on_requests(len(inps))
            return super()._model_call(inps, *args, **kwargs) if streamed is None else streamed.answer(inps)

        def _model_generate(self, context: Any, *args: Any, **kwargs: Any) -> Any:
            on_requests(len(context))
            return super()._model_generate(context, *args, **kwargs)

    return Asked


def _gist(error: Exception) -> str:
    """The first line of another library's message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}".rstrip(".")[:300]

"""Measuring a model, and another beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from torch import Tensor

from llmprune.api.choice import choice
from llmprune.api.models import Model, OnDisk
from llmprune.api.progress import Logged
from llmprune.api.tables import table
from llmprune.api.windows import Windows, as_windows
from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.estimates import Estimate
from llmprune.artifacts.run import RunDirectory
from llmprune.choices import DEVICE, QUICK, USUAL, Bos, Dtype
from llmprune.errors import ModelError
from llmprune.models.compute import Compute, choose_compute, dtype_name
from llmprune.models.resident import model_decoder
from llmprune.report.bench_text import bench_remarks, bench_table
from llmprune.stages.benchmark import BenchSettings, ModelSubject, Subject, choose_subjects, measure, save_result
from llmprune.stages.common.intact import Intact
from llmprune.stages.common.progress import Progress
from llmprune.text.windows import TokenWindows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, repr=False)
class Benchmark:
    """What was measured of a model, and of its baseline.

    ``benchmark["ppl_ratio"]`` is the figure of that name; ``benchmark.metrics`` has them all, with intervals.

    Attributes:
        result: everything: protocols, every window's loss and every repeat, as ``llmprune bench`` writes it.
        path: the file that keeps it; None: nothing was written.
    """

    result: BenchResult
    path: Path | None = None

    @property
    def metrics(self) -> dict[str, Estimate]:
        """The figures by name, with their intervals."""
        return self.result.metrics

    def __getitem__(self, name: str) -> float:
        return self.result.metrics[name].value

    def __repr__(self) -> str:
        lines = [self.result.model.name, table(*bench_table(self.result)), *bench_remarks(self.result)]
        return "\n".join(lines)


def bench(
    model: Model,
    baseline: Model | None = None,
    *,
    ppl: str | Windows | Sequence[str | Windows] | None = "wikitext2",
    ppl_seq_len: int | None = None,
    max_windows: int | None = None,
    bos: str = Bos.AUTO,
    tasks: str | Sequence[str] = (),
    lm_eval_include: Path | str | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    agreement: int | None = None,
    draft: bool = False,
    speed: bool = True,
    batch: int | Sequence[int] | None = None,
    gen: int | None = None,
    prompt: int | None = None,
    prefill: int | None = None,
    repeats: int | None = None,
    max_seconds: float | None = None,
    quick: bool = False,
    tokenizer: PreTrainedTokenizerBase | None = None,
    run: Path | str | None = None,
    device: str = DEVICE,
    dtype: str = Dtype.AUTO,
    memory_budget: str | None = None,
    trust_remote_code: bool = False,
    check: bool = True,
    progress: Progress | None = None,
) -> Benchmark:
    """Measure perplexity, accuracy and speed of a model, and of a baseline beside it under the same protocols.

    Args:
        model: in memory, or its path or Hub id.
        baseline: what to compare it with; None: for a model on disk the dense model of ``run``, else nothing.
        ppl: texts for perplexity: sources as in ``calibration_windows`` (their evaluation splits), or windows; None:
            leave it out.
        ppl_seq_len: tokens in a window of a source; None: 2048, or as many as the models have positions.
        max_windows: largest number of windows of each source; None: that of its published protocol, or all.
        bos: whether windows and items of tasks start with BOS: ``auto`` as the tokenizer does, ``always``, ``never``.
        tasks: tasks by lm-eval's names.
        lm_eval_include: a folder with more task files.
        limit: how many items of each task, from the first on; None: all.
        num_fewshot: solved examples before each item; None: as many as the task itself asks for.
        agreement: prompts behind which the model's greedy choices are held against the baseline's; None: 32; 0: none.
        draft: measure the model as a draft for the baseline, by transformers' assisted generation.
        speed: measure speed.
        batch: sequences that are generated together, or several such sizes; None: 64.
        gen: new tokens for each; None: 128.
        prompt: prompt tokens of each; None: 64.
        prefill: tokens of the single long prompt; None: 2048, or as many as the models have positions.
        repeats: least number of timed repeats; None: 5.
        max_seconds: more repeats begin within so many seconds, until the ratio is known within 5%; None: 120.
        quick: smaller defaults, for an answer in a minute.
        tokenizer: of a model in memory; None: the one that lies where the model was loaded from.
        run: a run directory that the result is written to.
        device: for models on disk, ``auto``, ``cpu`` or ``cuda``.
        dtype: for models on disk, what to compute in: ``auto`` (as the baseline is stored), ``float32``, ...
        memory_budget: for models on disk, the most memory to use: ``"12GB"``, or ``"12GB,48GB"`` of a GPU and of the
            host; None: what is free, less a margin. No number depends on it.
        trust_remote_code: whether a checkpoint's own Python files may run.
        check: whether to see first that a checkpoint of llmprune is as it was written, by the digests in its record.
        progress: who hears remarks; None: the logger ``llmprune``.

    Raises:
        ModelError: a model cannot be had, or the two do not compare.
        CorpusError: a text cannot be had, or is too short.
        TaskError: a task cannot be had.
        TargetError: an argument out of range.
        NumericalError: a model computes NaN or infinity.

    Example:
        >>> measured = bench(pruned, model, quick=True)
        >>> measured["ppl_ratio"]
        1.21
    """
    usual = QUICK if quick else USUAL
    texts = [] if ppl is None else [ppl] if isinstance(ppl, str | Tensor | TokenWindows) else list(ppl)
    settings = BenchSettings(
        ppl=tuple(text for text in texts if isinstance(text, str)),
        windows=tuple(as_windows(text) for text in texts if not isinstance(text, str)),
        usual=usual.tokens,
        ppl_seq_len=ppl_seq_len,
        max_windows=usual.max_windows if max_windows is None else max_windows,
        bos=choice(Bos, bos=bos),
        tasks=(tasks,) if isinstance(tasks, str) else tuple(tasks),
        lm_eval_include=None if lm_eval_include is None else Path(lm_eval_include),
        limit=limit,
        num_fewshot=num_fewshot,
        agreement=usual.agreement if agreement is None else agreement,
        draft=draft,
        speed=speed,
        batch=(usual.batch,) if batch is None else (batch,) if isinstance(batch, int) else tuple(batch),
        gen=usual.gen if gen is None else gen,
        prompt=usual.prompt if prompt is None else prompt,
        prefill=prefill,
        repeats=usual.repeats if repeats is None else repeats,
        max_seconds=usual.max_seconds if max_seconds is None else max_seconds,
    )
    place = OnDisk(run, device, dtype, trust_remote_code, progress or Logged(), check, memory_budget)
    with TemporaryDirectory(prefix="llmprune-") as scratch:
        folder = RunDirectory(Path(run) if run is not None else Path(scratch) / "run")
        folder.require_writable()
        subjects, compute = _subjects(model, baseline, tokenizer, folder, place)
        result = measure(subjects, settings, compute=compute, progress=place.progress)
    return Benchmark(result, None if run is None else save_result(result, folder.bench))


def _subjects(
    model: Model,
    baseline: Model | None,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: RunDirectory,
    place: OnDisk,
) -> tuple[list[Subject], Compute]:
    """What is measured, and where: on the device and in the dtype of what is in memory already."""
    in_memory = [one for one in (model, baseline) if one is not None and not isinstance(one, str | Path)]
    for one in in_memory:
        model_decoder(one)  # refuses what is no causal LM
    compute = choose_compute(place.device, place.dtype, place.memory_budget)
    if in_memory:
        place.refuse("device", "dtype", "memory_budget")
        compute = _common(in_memory)

    def on_disk(spec: str | Path, other: str | None = None) -> list[Subject]:
        found = choose_subjects(
            folder,
            str(spec),
            other,
            compute=compute,
            progress=place.progress,
            trust_remote_code=place.trust_remote_code,
            intact=Intact(place.check),
        )
        return list(found)

    if isinstance(model, str | Path) and (baseline is None or isinstance(baseline, str | Path)):
        return on_disk(model, None if baseline is None else str(baseline)), compute
    both = [one for one in (model, baseline) if one is not None]
    return [
        on_disk(one)[0] if isinstance(one, str | Path) else ModelSubject(_name(one), one, tokenizer) for one in both
    ], compute


def _common(models: Sequence[PreTrainedModel]) -> Compute:
    """The device and dtype of models in memory.

    Raises:
        ModelError: they differ.
    """
    first, *others = models
    for other in others:
        if (other.device, other.dtype) != (first.device, first.dtype):
            raise ModelError(
                f"One model is in {dtype_name(first.dtype)} on {first.device}, the other in {dtype_name(other.dtype)} "
                f"on {other.device}, so their figures do not compare; move one: model.to(device, dtype)."
            )
    return Compute(first.device, first.dtype)


def _name(model: PreTrainedModel) -> str:
    """What a model in memory is called in results."""
    return Path(model.name_or_path or "").name or type(model).__name__

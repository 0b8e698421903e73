"""What ``bench`` takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from llmprune.artifacts.run import RunDirectory
from llmprune.models.compute import Compute
from llmprune.models.config import load_config
from llmprune.models.loading import open_decoder, open_shell
from llmprune.stages.benchmark.in_run import dense_subjects
from llmprune.stages.benchmark.opened import state_bytes
from llmprune.stages.benchmark.perplexity import read_texts
from llmprune.stages.benchmark.room import streamed_models
from llmprune.stages.benchmark.settings import BenchSettings
from llmprune.stages.benchmark.subjects import CheckpointSubject, choose_subjects
from llmprune.stages.common.model_cost import ModelCost, ModelSizes, measure, model_sizes
from llmprune.stages.common.plans import Estimate, Plan, plan_of
from llmprune.stages.common.progress import Progress
from llmprune.stages.common.workspace import Workspace

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_ITEMS, _ITEM_TOKENS = 2000, 150  # of a zero-shot task, an item with its choices: rough guesses
_COUNTING = 1e-9  # seconds to look at a byte of the weights, about
_PASSES = 0.5  # of the dense model for each token that it writes with a draft: how many are taken is not known
_RESULT = 20_000  # bytes of a result, about


@dataclass(frozen=True)
class Measured:
    """What a benchmark measures, in numbers.

    Attributes:
        windows: of all texts for perplexity.
        seq_len: tokens in each.
        prefill: tokens of the single long prompt.
        written: prompts that are written on, tokens of each, and new tokens.
        token_bytes: of a token's keys and values, in one block.
    """

    windows: int
    seq_len: int
    prefill: int
    written: tuple[int, int, int]
    token_bytes: int


def plan_bench(
    run: RunDirectory,
    *,
    model: str | None,
    baseline: str | None,
    settings: BenchSettings,
    compute: Compute,
    progress: Progress,
    trust_remote_code: bool = False,
) -> Plan:
    """What ``bench`` is expected to take. Texts are read where only they tell how many windows there are.

    Raises:
        As ``bench`` does, as far as it tells without reading weights.
    """
    subjects = choose_subjects(
        run, model, baseline, compute=compute, progress=progress, trust_remote_code=trust_remote_code, makes_files=False
    )
    last = subjects[-1]
    compute = replace(compute, dtype=compute.dtype or last.dtype())
    measured = expected_bench(subjects, settings, compute, progress)
    opened = partial(
        open_decoder,
        last.directory,
        device=compute.device,
        dtype=compute.dtype,
        trust_remote_code=trust_remote_code,
    )
    cost = measure(opened, compute, measured.seq_len, texts=measured_texts(settings, measured))
    sizes = {subject.name: _sizes(subject, compute) for subject in subjects}
    steps = bench_steps(cost, sizes, settings, measured, compute)
    remarks = ["Further repeats begin within `max_seconds` where the speeds scatter"] if settings.speed else []
    if settings.tasks:
        remarks.append("Tasks whose answers are written need a whole model in memory; which do is not looked up")
    if settings.tasks and settings.limit is None:
        remarks.append(f"The tasks are taken to have {_ITEMS} items of {_ITEM_TOKENS} tokens each")
    return plan_of("bench", cost, steps, remarks)


def expected_bench(
    subjects: Sequence[CheckpointSubject], settings: BenchSettings, compute: Compute, progress: Progress
) -> Measured:
    """What a benchmark of these models measures. Texts are read where only they tell how many windows there are."""
    positions = min(subject.positions for subject in subjects)
    seq_len, prefill = settings.lengths(positions)
    if settings.max_windows is not None:
        windows = len(settings.ppl) * settings.max_windows + sum(one.num_windows for one in settings.windows)
    else:
        texts = read_texts(subjects, settings, seq_len=seq_len, progress=progress)
        windows = sum(one.num_windows for one in texts)
    last = subjects[-1]
    config = load_config(last.directory, trust_remote_code=last.trust_remote_code)
    itemsize = (compute.dtype or last.dtype()).itemsize
    prompts = min(settings.agreement, windows) if windows else settings.agreement
    written = (prompts, *settings.written(positions))
    return Measured(windows, seq_len, prefill, written, _token_bytes(config, itemsize))


def expected_of_dense(workspace: Workspace, settings: BenchSettings) -> Measured:
    """What a benchmark of a run's dense model measures, and of what is pruned from it. Nothing is written.

    Raises:
        As ``bench`` does, as far as it tells without reading weights.
    """
    subjects = dense_subjects(workspace, makes_files=False)
    return expected_bench(subjects, settings, workspace.compute, workspace.progress)


def measured_texts(settings: BenchSettings, measured: Measured) -> tuple[int, ...]:
    """How many texts are written at the same time."""
    together, prompts = settings.batch if settings.speed else (), measured.written[0]
    return (*together, prompts) if prompts else together


def bench_steps(
    cost: ModelCost,
    subjects: dict[str, ModelSizes],
    settings: BenchSettings,
    measured: Measured,
    compute: Compute,
    *,
    known: str | None = None,
) -> list[Estimate]:
    """The steps of a benchmark.

    Args:
        cost: of a model with as large blocks.
        subjects: the sizes of the models, by name.
        settings: what is measured.
        measured: how much of it.
        compute: tells what is free.
        known: the model whose perplexity and accuracy are there already.
    """
    steps: list[Estimate] = []
    streamed = streamed_models(
        {name: sizes.whole for name, sizes in subjects.items()}, settings, written=(), dtype=cost.dtype, compute=compute
    )
    together, agreed = settings.speed or settings.draft, len(subjects) > 1 and settings.agreement > 0 and not streamed
    there = 0  # bytes of models that stay in memory
    for name, sizes in reversed(subjects.items()):  # the baseline first
        stored = sizes.stored
        seconds = stored * (cost.read + _COUNTING)  # read once more for digests, from the system's memory
        steps.append(Estimate(f"{name}: counting zeros", read=2 * stored, seconds=seconds))
        if name == known and not (together or agreed):
            continue
        loaded = name not in streamed and (not compute.spread or together or agreed)
        if loaded:
            steps.append(_loading(cost, sizes, f"{name}: loading", there))
        if name != known:
            whole = loaded and not compute.spread
            steps.append(_quality(cost, sizes, settings, measured, compute, f"{name}: quality", whole, there))
        if agreed:
            writes = sizes is list(subjects.values())[-1]
            steps.append(_agreement(cost, sizes, measured, f"{name}: agreement", there, writes=writes))
        there += sizes.whole if together else 0
    if settings.draft and agreed:
        steps.append(_drafting(cost, list(subjects.values()), settings, measured, there))
    if settings.speed:
        steps.append(_speed(cost, list(subjects.values()), settings, measured, there))
    return [*steps, Estimate("result", disk=_RESULT, kept=_RESULT, written=_RESULT)]


def _loading(cost: ModelCost, sizes: ModelSizes, step: str, there: int) -> Estimate:
    memory = cost.memory(there + cost.loading(sizes), loading=False)
    host = memory.host if cost.on_host else sizes.stored
    return Estimate(step, host, memory.device, read=sizes.stored, seconds=sizes.stored * cost.opening)


def _quality(
    cost: ModelCost,
    sizes: ModelSizes,
    settings: BenchSettings,
    measured: Measured,
    compute: Compute,
    step: str,
    whole: bool,
    there: int,
) -> Estimate:
    """Perplexity and tasks."""
    windows = cost.own(measured.windows)
    tokens = windows * measured.seq_len + cost.own(len(settings.tasks) * (settings.limit or _ITEMS)) * _ITEM_TOKENS
    running, read = cost.running - cost.open_block, 0
    if whole:
        memory = cost.memory(there + sizes.whole + running, loading=False)
    else:
        room = state_bytes(compute.free_bytes() - sizes.outside, sizes.blocks)
        fitting = max(1, room // cost.window_bytes)
        states = min(fitting, windows) * cost.window_bytes
        memory, read = cost.memory(cost.running + states), sizes.stored * -(-windows // fitting)
    seconds = tokens / cost.seq_len * cost.times.through(sizes.depth) + read * cost.opening
    return Estimate(step, memory.host, memory.device, read=read, seconds=seconds)


def _agreement(
    cost: ModelCost, sizes: ModelSizes, measured: Measured, step: str, there: int, *, writes: bool
) -> Estimate:
    """The dense model writes, and the other is held against it."""
    prompts, prompt, new = measured.written
    seconds = prompts * (prompt + new) / cost.seq_len * cost.times.through(sizes.depth)
    if writes:
        seconds += new * cost.next_token(prompts)
    states = prompts * (prompt + new) * sizes.depth * measured.token_bytes
    running = cost.running - cost.open_block
    memory = cost.memory(there + sizes.whole + states + running, loading=False)
    return Estimate(step, memory.host, memory.device, seconds=seconds)


def _drafting(
    cost: ModelCost, subjects: Sequence[ModelSizes], settings: BenchSettings, measured: Measured, there: int
) -> Estimate:
    """The dense model writes one text after the other, alone and with the other model as its draft."""
    prompts, prompt, new = measured.written
    each = [new * cost.next_token() * sizes.whole / cost.sizes.whole for sizes in subjects]
    pair = each[0] + (1 + _PASSES) * each[-1]
    most = max(settings.repeats * pair, settings.max_seconds)  # then no further text begins
    states = sum((prompt + new) * sizes.depth * measured.token_bytes for sizes in subjects)
    memory = cost.memory(there + states, loading=False)
    return Estimate("draft", memory.host, memory.device, seconds=pair + min(prompts * pair, most + pair))


def _speed(
    cost: ModelCost, subjects: Sequence[ModelSizes], settings: BenchSettings, measured: Measured, there: int
) -> Estimate:
    """All repeats of all models, each after a run that is not timed."""
    longest = settings.prompt + settings.gen
    per_token = cost.block_bytes / (cost.batch * cost.seq_len)
    depth = max(sizes.depth for sizes in subjects)
    states = max(
        batch * (longest * depth * measured.token_bytes + int(settings.prompt * per_token)) for batch in settings.batch
    )
    states = max(states, measured.prefill * depth * measured.token_bytes + int(measured.prefill * per_token))
    seconds = 0.0
    for sizes in subjects:
        window, share = cost.times.through(sizes.depth) / cost.seq_len, sizes.whole / cost.sizes.whole
        for batch in settings.batch:
            seconds += batch * settings.prompt * window + (settings.gen - 1) * cost.next_token(batch) * share
        seconds += measured.prefill * window
    memory = cost.memory(there + states, loading=False)
    return Estimate("speed", memory.host, memory.device, seconds=(1 + settings.repeats) * seconds)


def _token_bytes(config: PreTrainedConfig, itemsize: int) -> int:
    """Bytes of a token's keys and values in one block; 0 where the config tells of no attention heads."""
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_attention_heads", None) or 0
    width = getattr(text, "head_dim", None) or (text.hidden_size // heads if heads else 0)
    return 2 * (getattr(text, "num_key_value_heads", None) or heads) * width * itemsize


def _sizes(subject: CheckpointSubject, compute: Compute) -> ModelSizes:
    return model_sizes(
        open_shell(
            subject.directory,
            device=compute.device,
            dtype=compute.dtype,
            trust_remote_code=subject.trust_remote_code,
        )
    )

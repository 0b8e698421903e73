"""``llmprune bench``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from llmprune.cli.console import Console
from llmprune.cli.options import (
    DEFAULT_RUN,
    Bos,
    BosOpt,
    DeviceOpt,
    DtypeOpt,
    JsonOpt,
    ModelArg,
    QuietOpt,
    RemoteCodeOpt,
    RunOpt,
)

if TYPE_CHECKING:
    from llmprune.artifacts.bench_result import BenchResult, ModelResult, Repeats

EXAMPLE = "Example: llmprune bench --batch 64 --gen 128    a minute's answer: llmprune bench --quick"


def bench(
    model: ModelArg = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="What to compare with. Default: the run's dense model.", show_default=False),
    ] = None,
    batch: Annotated[int, typer.Option(help="Sequences generated together.")] = 64,
    gen: Annotated[int, typer.Option(help="New tokens for each.")] = 128,
    prompt: Annotated[int, typer.Option(help="Prompt tokens of each.")] = 64,
    prefill: Annotated[
        int | None,
        typer.Option(
            help="Tokens of the single long prompt. Default: 2048, or all of a shorter model's.", show_default=False
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Timed repeats, baseline and model in turn.")] = 5,
    ppl: Annotated[str, typer.Option(help="Text source of the perplexity, as calibrate's --source.")] = "auto",
    seq_len: Annotated[
        int | None,
        typer.Option(
            help="Tokens in a perplexity window. Default: 2048, or all of a shorter model's.", show_default=False
        ),
    ] = None,
    max_windows: Annotated[
        int | None, typer.Option(help="At most so many perplexity windows. Default: all.", show_default=False)
    ] = None,
    bos: BosOpt = Bos.AUTO,
    no_ppl: Annotated[bool, typer.Option("--no-ppl", help="Leave out perplexity.")] = False,
    no_speed: Annotated[bool, typer.Option("--no-speed", help="Leave out speed.")] = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="A minute's answer: batch 8, gen 32, prefill 512, 3 repeats, 8 windows of 512 tokens.",
        ),
    ] = False,
    run: RunOpt = DEFAULT_RUN,
    device: DeviceOpt = "auto",
    dtype: DtypeOpt = "auto",
    trust_remote_code: RemoteCodeOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Measure perplexity and speed of the newest pruned checkpoint beside its source."""
    from llmprune.artifacts.run import RunDirectory
    from llmprune.models.compute import choose_compute
    from llmprune.stages.bench import QUICK, BenchSettings
    from llmprune.stages.bench import bench as run_stage

    console = Console(as_json=as_json, quiet=quiet)
    source = None if no_ppl else ppl
    asked = BenchSettings(source, seq_len, max_windows, bos.value, not no_speed, batch, gen, prompt, prefill, repeats)
    settings = replace(QUICK, ppl=source, bos=bos.value, speed=not no_speed) if quick else asked
    result, path = run_stage(
        RunDirectory(run),
        model=model,
        baseline=baseline,
        settings=settings,
        compute=choose_compute(device, dtype),
        progress=console,
        trust_remote_code=trust_remote_code,
    )
    console.result(result.model_dump(mode="json"), shown=lambda console: show_bench(console, result))
    console.say(f"Every repeat and window: {path}")


def show_bench(console: Console, result: BenchResult) -> None:
    """One table: dense and pruned with their ratio, and the protocols beneath."""
    pruned, dense = result.model, result.baseline
    columns = ["", "dense", "pruned", "ratio"] if dense else ["", "model"]
    console.table(pruned.name, columns, list(_rows([dense, pruned] if dense else [pruned])))
    if result.perplexity is not None:
        protocol = result.perplexity
        console.line(
            f"Perplexity: {protocol.corpus.origin}, {protocol.windows} windows of {protocol.seq_len} tokens, "
            f"{'each with BOS' if protocol.bos else 'no BOS'}, {result.dtype}."
        )
    if result.speed is not None:
        speed = result.speed
        console.line(
            f"Speed: generation {speed.batch} x {speed.new_tokens} tokens after {speed.prompt_tokens}, KV cache; "
            f"prompt 1 x {speed.prefill_tokens}; medians of {speed.repeats} repeats in turn (smallest to largest), "
            f"{result.dtype}; {result.machine}."
        )


def _rows(models: list[ModelResult]) -> Iterator[list[str]]:
    """What was measured of all ``models`` (baseline first), a row each, with the ratio of two."""
    numbers: list[tuple[str, Callable[[ModelResult], float | None], str]] = [
        ("blocks", lambda one: one.num_blocks, ","),
        ("parameters", lambda one: one.num_parameters, ","),
        ("MB on disk", lambda one: one.weight_bytes / 1e6, ",.1f"),
        ("perplexity", lambda one: one.perplexity, ".2f"),
        ("peak MB", lambda one: one.peak_bytes and one.peak_bytes / 1e6, ",.0f"),
    ]
    repeats: list[tuple[str, Callable[[ModelResult], Repeats | None]]] = [
        ("prompt tokens/s", lambda one: one.prompt),
        ("generated tokens/s", lambda one: one.generation),
        ("first token, ms", lambda one: one.first_token),
    ]
    for name, read, spelling in numbers:
        values = [value for one in models if (value := read(one)) is not None]
        if len(values) == len(models):
            yield [name, *(format(value, spelling) for value in values), *_ratio(values)]
    for name, read_repeats in repeats:
        series = [found for one in models if (found := read_repeats(one)) is not None]
        if len(series) == len(models):
            yield [name, *map(_spread, series), *_ratio([found.median for found in series])]


def _ratio(values: list[float]) -> list[str]:
    return [f"{values[1] / values[0]:.3f}"] if len(values) == 2 else []


def _spread(repeats: Repeats) -> str:
    low, high = repeats.spread
    return f"{repeats.median:,.0f} ({low:,.0f}-{high:,.0f})"

"""``llmprune bench``."""

from __future__ import annotations

from llmprune.cli.console import Console
from llmprune.cli.options.bench import (
    BaselineOpt,
    BatchOpt,
    FailIfOpt,
    GenOpt,
    IncludeOpt,
    LimitOpt,
    MaxSecondsOpt,
    MaxWindowsOpt,
    NoPplOpt,
    NoSpeedOpt,
    PplOpt,
    PrefillOpt,
    PromptOpt,
    QuickOpt,
    RepeatsOpt,
    SeqLenOpt,
    TasksOpt,
    read_settings,
)
from llmprune.cli.options.common import (
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
from llmprune.cli.views.bench import show_bench

EXAMPLE = "Example: llmprune bench --batch 64 --gen 128    a minute's answer: llmprune bench --quick"


def bench(
    model: ModelArg = None,
    baseline: BaselineOpt = None,
    ppl: PplOpt = None,
    seq_len: SeqLenOpt = None,
    max_windows: MaxWindowsOpt = None,
    bos: BosOpt = Bos.AUTO,
    no_ppl: NoPplOpt = False,
    tasks: TasksOpt = None,
    lm_eval_include: IncludeOpt = None,
    limit: LimitOpt = None,
    batch: BatchOpt = None,
    gen: GenOpt = None,
    prompt: PromptOpt = None,
    prefill: PrefillOpt = None,
    repeats: RepeatsOpt = None,
    max_seconds: MaxSecondsOpt = None,
    no_speed: NoSpeedOpt = False,
    quick: QuickOpt = False,
    fail_if: FailIfOpt = None,
    run: RunOpt = DEFAULT_RUN,
    device: DeviceOpt = "auto",
    dtype: DtypeOpt = "auto",
    trust_remote_code: RemoteCodeOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Measure perplexity, accuracy and speed of the newest pruned checkpoint beside its source."""
    typed = locals()  # every option by its name
    from llmprune.artifacts.run import RunDirectory
    from llmprune.models.compute import choose_compute
    from llmprune.stages.benchmark import bench as run_stage
    from llmprune.stages.benchmark import refuse_failed

    console = Console(as_json=as_json, quiet=quiet)
    result, path = run_stage(
        RunDirectory(run),
        model=model,
        baseline=baseline,
        settings=read_settings(typed),
        compute=choose_compute(device, dtype),
        progress=console,
        trust_remote_code=trust_remote_code,
    )
    console.result(result.model_dump(mode="json"), shown=lambda console: show_bench(console, result))
    console.say(f"Every repeat and window: {path}")
    refuse_failed(result)

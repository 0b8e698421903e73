"""``llmprune sweep``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from llmprune.cli.commands.verify_redundancy import round_teller
from llmprune.cli.console import Console
from llmprune.cli.options.bench import (
    BatchOpt,
    GenOpt,
    IncludeOpt,
    LimitOpt,
    MaxSecondsOpt,
    MaxWindowsOpt,
    NoSpeedOpt,
    PplOpt,
    PrefillOpt,
    PromptOpt,
    QuickOpt,
    RepeatsOpt,
    TasksOpt,
    read_settings,
)
from llmprune.cli.options.common import (
    DEFAULT_RUN,
    Bos,
    BosOpt,
    DeviceOpt,
    DtypeOpt,
    ForceOpt,
    JsonOpt,
    ModelArg,
    QuietOpt,
    RemoteCodeOpt,
    RunOpt,
)
from llmprune.cli.options.pruning import MethodName, MethodOpt
from llmprune.cli.options.sweep import (
    CombineName,
    CombineOpt,
    KeepOpt,
    MaxEffectiveOpt,
    MaxLatencyOpt,
    MaxParamsOpt,
    MaxPplOpt,
    PatternsOpt,
    PplSeqLenOpt,
    RankingOpt,
    SamplesOpt,
    SeqLenOpt,
    SourceOpt,
    SparsitiesOpt,
    TargetsOpt,
    VerifyOpt,
)
from llmprune.cli.views.sweep import show_sweep, spell_point

if TYPE_CHECKING:
    from llmprune.stages.calibration import CalibrationSettings
    from llmprune.stages.sweeping import PointDone, SweepSettings

EXAMPLE = "Example: llmprune sweep --targets 10%,20%,30% --sparsity 0.5,0.6,0.7 --max-ppl-ratio 2"


def sweep(
    model: ModelArg = None,
    targets: TargetsOpt = None,
    sparsity: SparsitiesOpt = None,
    pattern: PatternsOpt = None,
    combine: CombineOpt = CombineName.BUDGET,
    method: MethodOpt = MethodName.SPARSELLM,
    metric: RankingOpt = None,
    source: SourceOpt = None,
    samples: SamplesOpt = None,
    seq_len: SeqLenOpt = None,
    ppl: PplOpt = None,
    ppl_seq_len: PplSeqLenOpt = None,
    max_windows: MaxWindowsOpt = None,
    bos: BosOpt = Bos.AUTO,
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
    keep: KeepOpt = True,
    verify: VerifyOpt = True,
    max_params: MaxParamsOpt = None,
    max_effective_params: MaxEffectiveOpt = None,
    max_latency_ratio: MaxLatencyOpt = None,
    max_ppl_ratio: MaxPplOpt = None,
    run: RunOpt = DEFAULT_RUN,
    device: DeviceOpt = "auto",
    dtype: DtypeOpt = "auto",
    force: ForceOpt = False,
    trust_remote_code: RemoteCodeOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Prune and measure a grid of models: blocks removed, zeros, and both; name those worth having."""
    typed = locals()  # every option by its name
    from llmprune.models.compute import choose_compute
    from llmprune.stages.common.workspace import open_workspace
    from llmprune.stages.sweeping import choose_best
    from llmprune.stages.sweeping import sweep as run_stage

    console = Console(as_json=as_json, quiet=quiet)
    settings = _read_settings(typed)
    compute = choose_compute(device, dtype)
    workspace = open_workspace(run, model, compute=compute, progress=console, trust_remote_code=trust_remote_code)
    result = run_stage(workspace, settings, on_point=_point_teller(console), on_round=round_teller(console))
    best, refusal = choose_best(result, settings.limits)
    data = {**result.model_dump(mode="json"), "best": [{"what": one.what, "point": one.point.name} for one in best]}
    console.result(data, shown=lambda console: show_sweep(console, result, best, settings.limits))
    console.say(f"Every number: {workspace.run.sweep}")
    if refusal is not None:
        raise refusal


def _read_settings(typed: Mapping[str, Any]) -> SweepSettings:
    """The settings that options, by their names, ask for.

    Raises:
        TargetError: an option out of range, or one that cannot be read.
    """
    from llmprune.stages.sweeping import (
        Limits,
        SweepSettings,
        about_perplexity,
        parse_params,
        parse_patterns,
        parse_targets,
    )
    from llmprune.stages.weight_pruning import Method

    measured = {**typed, "seq_len": typed["ppl_seq_len"], "no_ppl": False}
    with about_perplexity():
        bench = read_settings(measured)
    return SweepSettings(
        targets=parse_targets(typed["targets"]),
        patterns=parse_patterns(typed["sparsity"], typed["pattern"]),
        combine=typed["combine"].value,
        method=Method(typed["method"].value),
        metric=typed["metric"].value if typed["metric"] is not None else None,
        calibration=_calibration(typed),
        bench=bench,
        keep=typed["keep"],
        limits=Limits(
            params=parse_params(typed["max_params"], "--max-params"),
            effective_params=parse_params(typed["max_effective_params"], "--max-effective-params"),
            latency_ratio=typed["max_latency_ratio"],
            ppl_ratio=typed["max_ppl_ratio"],
        ),
        verify=typed["verify"],
        force=typed["force"],
    )


def _calibration(typed: Mapping[str, Any]) -> CalibrationSettings | None:
    """How to calibrate; None where nothing was typed about it."""
    from llmprune.stages.calibration import CalibrationSettings

    given = {name: typed[name] for name in ("source", "samples", "seq_len") if typed[name] is not None}
    return CalibrationSettings(**given) if given else None


def _point_teller(console: Console) -> Callable[[PointDone], None]:
    """What says a line for every point as it finishes."""
    from llmprune.stages.block_search import spell_seconds

    def tell(done: PointDone) -> None:
        point = done.point
        seconds = spell_seconds(point.prune_seconds + point.bench_seconds)
        left = f", about {spell_seconds(done.seconds_left)} left" if done.seconds_left else ""
        console.say(f"{done.number}/{done.total} {point.name}: {spell_point(point)} ({seconds}{left})")

    return tell

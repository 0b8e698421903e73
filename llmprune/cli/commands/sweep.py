"""``llmprune sweep``."""

from __future__ import annotations

from llmprune.choices import DEVICE, Bos, Combine, Dtype, Method
from llmprune.cli.console import Console
from llmprune.cli.options.bench import (
    BatchOpt,
    BosOpt,
    FewshotOpt,
    GenOpt,
    IncludeOpt,
    LimitOpt,
    MaxSecondsOpt,
    MaxWindowsOpt,
    NoSpeedOpt,
    PplOpt,
    PplSeqLenOpt,
    PrefillOpt,
    PromptOpt,
    QuickOpt,
    RepeatsOpt,
    TasksOpt,
    read_bench,
)
from llmprune.cli.options.calibration import (
    RunChatTemplateOpt,
    RunSamplesOpt,
    RunSeqLenOpt,
    RunSourceOpt,
    read_calibration,
)
from llmprune.cli.options.checkpoint import VerifyOpt
from llmprune.cli.options.common import (
    DEFAULT_RUN,
    CheckOpt,
    DeviceOpt,
    DtypeOpt,
    ForceOpt,
    JsonOpt,
    MemoryBudgetOpt,
    ModelArg,
    PlanOpt,
    QuietOpt,
    RemoteCodeOpt,
    RunOpt,
)
from llmprune.cli.options.pruning import MethodOpt
from llmprune.cli.options.search import RunMetricOpt
from llmprune.cli.options.sweep import (
    CombineOpt,
    KeepOpt,
    MaxEffectiveOpt,
    MaxLatencyOpt,
    MaxParamsOpt,
    MaxPplOpt,
    PatternsOpt,
    SparsitiesOpt,
    TargetsOpt,
    read_limits,
)
from llmprune.cli.views.plan import give_plan
from llmprune.cli.views.search import round_teller
from llmprune.cli.views.sweep import point_teller, show_sweep

EXAMPLES = """
llmprune sweep --targets 10%,20%,30% --sparsity 0.5,0.6,0.7 --max-ppl-ratio 2
llmprune sweep ./my-model --targets 2,4 --quick --discard-checkpoints
llmprune sweep --sparsity 0.5 --pattern 2:4 --method sparsegpt --ppl wikitext2 --no-speed
"""


def sweep(
    model: ModelArg = None,
    targets: TargetsOpt = None,
    sparsity: SparsitiesOpt = None,
    pattern: PatternsOpt = None,
    combine: CombineOpt = Combine.BUDGET,
    metric: RunMetricOpt = None,
    method: MethodOpt = Method.SPARSELLM,
    quick: QuickOpt = False,
    max_params: MaxParamsOpt = None,
    max_effective_params: MaxEffectiveOpt = None,
    max_latency_ratio: MaxLatencyOpt = None,
    max_ppl_ratio: MaxPplOpt = None,
    source: RunSourceOpt = None,
    samples: RunSamplesOpt = None,
    seq_len: RunSeqLenOpt = None,
    chat_template: RunChatTemplateOpt = None,
    ppl: PplOpt = None,
    ppl_seq_len: PplSeqLenOpt = None,
    max_windows: MaxWindowsOpt = None,
    bos: BosOpt = Bos.AUTO,
    tasks: TasksOpt = None,
    lm_eval_include: IncludeOpt = None,
    limit: LimitOpt = None,
    num_fewshot: FewshotOpt = None,
    batch: BatchOpt = None,
    gen: GenOpt = None,
    prompt: PromptOpt = None,
    prefill: PrefillOpt = None,
    repeats: RepeatsOpt = None,
    max_seconds: MaxSecondsOpt = None,
    no_speed: NoSpeedOpt = False,
    device: DeviceOpt = DEVICE,
    dtype: DtypeOpt = Dtype.AUTO,
    memory_budget: MemoryBudgetOpt = None,
    trust_remote_code: RemoteCodeOpt = False,
    check: CheckOpt = True,
    keep: KeepOpt = True,
    verify: VerifyOpt = True,
    run: RunOpt = DEFAULT_RUN,
    force: ForceOpt = False,
    plan: PlanOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Prune and measure a grid of models: blocks removed, zeros, and both; name those worth having."""
    from llmprune.models.compute import choose_compute
    from llmprune.stages.common.intact import Intact
    from llmprune.stages.common.workspace import open_workspace
    from llmprune.stages.sweeping import SweepSettings, choose_best, parse_patterns, parse_targets, plan_sweep
    from llmprune.stages.sweeping import sweep as run_stage

    console = Console(as_json=as_json, quiet=quiet)
    measured = read_bench(
        quick=quick,
        ppl=ppl,
        ppl_seq_len=ppl_seq_len,
        max_windows=max_windows,
        bos=bos,
        tasks=tasks,
        lm_eval_include=lm_eval_include,
        limit=limit,
        num_fewshot=num_fewshot,
        batch=batch,
        gen=gen,
        prompt=prompt,
        prefill=prefill,
        repeats=repeats,
        max_seconds=max_seconds,
        no_speed=no_speed,
    )
    settings = SweepSettings(
        targets=parse_targets(targets),
        patterns=parse_patterns(sparsity, pattern),
        combine=combine,
        method=method,
        metric=metric,
        calibration=read_calibration(source=source, samples=samples, seq_len=seq_len, chat_template=chat_template),
        bench=measured,
        keep=keep,
        limits=read_limits(max_params, max_effective_params, max_latency_ratio, max_ppl_ratio),
        verify=verify,
        force=force,
    )
    compute = choose_compute(device, dtype, memory_budget)
    workspace = open_workspace(
        run,
        model,
        compute=compute,
        progress=console,
        trust_remote_code=trust_remote_code,
        makes_files=not plan,
        intact=Intact(check),
    )
    if plan:
        give_plan(console, plan_sweep(workspace, settings))
        return
    result = run_stage(workspace, settings, on_point=point_teller(console), on_round=round_teller(console))
    best, refusal = choose_best(result, settings.limits)
    data = {**result.model_dump(mode="json"), "best": [{"what": one.what, "point": one.point.name} for one in best]}
    console.result(data, shown=lambda console: show_sweep(console, result, best, settings.limits))
    console.say(f"Every number: {workspace.run.sweep}")
    if refusal is not None:
        raise refusal

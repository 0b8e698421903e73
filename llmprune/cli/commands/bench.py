"""``llmprune bench``."""

from __future__ import annotations

from typing import Any

from llmprune.choices import DEVICE, Bos, DeviceMap, Dtype
from llmprune.cli.console import Console
from llmprune.cli.options.bench import (
    AgreementOpt,
    BaselineOpt,
    BatchOpt,
    BosOpt,
    DraftOpt,
    FailIfOpt,
    FewshotOpt,
    GenOpt,
    IncludeOpt,
    LimitOpt,
    MaxSecondsOpt,
    MaxWindowsOpt,
    MeasuredArg,
    NoPplOpt,
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
from llmprune.cli.options.common import (
    DEFAULT_RUN,
    CheckOpt,
    DeviceMapOpt,
    DeviceOpt,
    DtypeOpt,
    JsonOpt,
    MemoryBudgetOpt,
    PlanOpt,
    QuietOpt,
    RemoteCodeOpt,
    RunOpt,
)
from llmprune.cli.views.bench import show_bench
from llmprune.cli.views.plan import give_plan

EXAMPLES = """
llmprune bench --quick
llmprune bench --ppl wikitext2 --ppl c4 --batch 1,8,64 --gen 128
llmprune bench ./pruned --baseline ./dense --no-speed --fail-if "ppl_ratio>1.5"
llmprune bench --tasks gsm8k --num-fewshot 5 --limit 200 --fail-if "gsm8k_drop>0.05"
"""


def bench(
    model: MeasuredArg = None,
    baseline: BaselineOpt = None,
    quick: QuickOpt = False,
    fail_if: FailIfOpt = None,
    ppl: PplOpt = None,
    ppl_seq_len: PplSeqLenOpt = None,
    max_windows: MaxWindowsOpt = None,
    bos: BosOpt = Bos.AUTO,
    no_ppl: NoPplOpt = False,
    tasks: TasksOpt = None,
    lm_eval_include: IncludeOpt = None,
    limit: LimitOpt = None,
    num_fewshot: FewshotOpt = None,
    agreement: AgreementOpt = None,
    draft: DraftOpt = False,
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
    device_map: DeviceMapOpt = DeviceMap.NONE,
    trust_remote_code: RemoteCodeOpt = False,
    check: CheckOpt = True,
    run: RunOpt = DEFAULT_RUN,
    plan: PlanOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Measure perplexity, accuracy and speed of the newest pruned checkpoint beside its source."""
    from llmprune.artifacts.run import RunDirectory
    from llmprune.models.compute import choose_compute
    from llmprune.stages.benchmark import bench as run_stage
    from llmprune.stages.benchmark import plan_bench, refuse_failed
    from llmprune.stages.common.intact import Intact

    console = Console(as_json=as_json, quiet=quiet)
    settings = read_bench(
        quick=quick,
        fail_if=fail_if,
        ppl=ppl,
        ppl_seq_len=ppl_seq_len,
        max_windows=max_windows,
        bos=bos,
        no_ppl=no_ppl,
        tasks=tasks,
        lm_eval_include=lm_eval_include,
        limit=limit,
        num_fewshot=num_fewshot,
        agreement=agreement,
        draft=draft,
        batch=batch,
        gen=gen,
        prompt=prompt,
        prefill=prefill,
        repeats=repeats,
        max_seconds=max_seconds,
        no_speed=no_speed,
    )
    asked: dict[str, Any] = {
        "model": model,
        "baseline": baseline,
        "settings": settings,
        "compute": choose_compute(device, dtype, memory_budget, device_map),
        "progress": console,
        "trust_remote_code": trust_remote_code,
    }
    if plan:
        give_plan(console, plan_bench(RunDirectory(run), **asked))
        return
    result, path = run_stage(RunDirectory(run), **asked, intact=Intact(check))
    console.result(result.model_dump(mode="json"), shown=lambda console: show_bench(console, result))
    console.say(f"Every repeat and window: {path}")
    refuse_failed(result)

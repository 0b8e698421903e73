"""``llmprune calibrate``."""

from __future__ import annotations

from llmprune.choices import DEVICE, SEED, SOURCE, Bos, Cache, ChatTemplate, Dtype, Sampling
from llmprune.cli.console import Console
from llmprune.cli.options.calibration import (
    CacheOpt,
    ChatTemplateOpt,
    SamplesOpt,
    SamplingOpt,
    SeedOpt,
    SeqLenOpt,
    SourceOpt,
    WindowBosOpt,
)
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
from llmprune.cli.views.calibration import show_calibration
from llmprune.cli.views.plan import give_plan

EXAMPLES = """
llmprune calibrate ./my-model --source wikitext2 --samples 128 --seq-len 2048
llmprune calibrate owner/name --source ./my-text.txt --samples 32 --dtype bfloat16
llmprune calibrate ./my-model --source c4 --run c4-run
llmprune calibrate ./my-model --source wikitext2:64,c4:32,./chat.jsonl:32
"""


def calibrate(
    model: ModelArg = None,
    source: SourceOpt = SOURCE,
    samples: SamplesOpt = None,
    seq_len: SeqLenOpt = None,
    seed: SeedOpt = SEED,
    sampling: SamplingOpt = Sampling.WINDOWS,
    bos: WindowBosOpt = Bos.AUTO,
    chat_template: ChatTemplateOpt = ChatTemplate.AUTO,
    cache: CacheOpt = Cache.NONE,
    device: DeviceOpt = DEVICE,
    dtype: DtypeOpt = Dtype.AUTO,
    memory_budget: MemoryBudgetOpt = None,
    trust_remote_code: RemoteCodeOpt = False,
    check: CheckOpt = True,
    run: RunOpt = DEFAULT_RUN,
    force: ForceOpt = False,
    plan: PlanOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Run the dense model once over calibration text and keep what the other commands need."""
    from llmprune.models.compute import choose_compute
    from llmprune.stages.calibration import CalibrationSettings, plan_calibration
    from llmprune.stages.calibration import calibrate as run_stage
    from llmprune.stages.common.intact import Intact
    from llmprune.stages.common.workspace import open_workspace

    console = Console(as_json=as_json, quiet=quiet)
    settings = CalibrationSettings(
        source=source,
        samples=samples,
        seq_len=seq_len,
        seed=seed,
        sampling=sampling,
        bos=bos,
        cache=cache,
        chat_template=chat_template,
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
        give_plan(console, plan_calibration(workspace, settings, force=force))
        return
    calibration = run_stage(workspace, settings, force=force)
    data = calibration.manifest.model_dump(mode="json")
    console.result(data, shown=lambda console: show_calibration(console, calibration))

"""``llmprune global-prune``."""

from __future__ import annotations

from llmprune.choices import (
    ALPHA,
    BETA,
    BLOCK_SIZE,
    DAMPING,
    DEVICE,
    GAMMA,
    LAYERS,
    PARTS,
    REFIT_STEPS,
    ROUNDS,
    SHARD_SIZE,
    Dtype,
    Method,
    Reference,
)
from llmprune.cli.console import Console
from llmprune.cli.options.calibration import CalibrationOpt, RunSamplesOpt, RunSeqLenOpt
from llmprune.cli.options.checkpoint import OutOpt, ShardSizeOpt, VerifyOpt
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
from llmprune.cli.options.pruning import (
    AlphaOpt,
    BetaOpt,
    BlockSizeOpt,
    DampingOpt,
    ExcludeOpt,
    GammaOpt,
    LayersOpt,
    MethodOpt,
    PartsOpt,
    PatternOpt,
    ReferenceOpt,
    RefitOpt,
    RoundsOpt,
    SparsityOpt,
    read_pattern,
)
from llmprune.cli.options.publishing import PushPrivateOpt, PushToHubOpt, read_push
from llmprune.cli.views.plan import give_plan
from llmprune.cli.views.pruning import block_teller, show_pruning
from llmprune.cli.views.push import describe_push, listing_teller, show_push

EXAMPLES = """
llmprune global-prune --sparsity 70%
llmprune global-prune ./my-model --pattern 2:4 --dtype bfloat16
llmprune global-prune --sparsity 0.5 --method wanda --parts ffn --exclude '*.down_proj'
"""


def global_prune(
    model: ModelArg = None,
    sparsity: SparsityOpt = None,
    pattern: PatternOpt = None,
    method: MethodOpt = Method.SPARSELLM,
    layers: LayersOpt = LAYERS,
    parts: PartsOpt = PARTS,
    exclude: ExcludeOpt = None,
    targets_from: ReferenceOpt = Reference.DENSE,
    refit: RefitOpt = True,
    rounds: RoundsOpt = ROUNDS,
    alpha: AlphaOpt = ALPHA,
    beta: BetaOpt = BETA,
    gamma: GammaOpt = GAMMA,
    damping: DampingOpt = DAMPING,
    block_size: BlockSizeOpt = BLOCK_SIZE,
    samples: RunSamplesOpt = None,
    seq_len: RunSeqLenOpt = None,
    calibration: CalibrationOpt = None,
    device: DeviceOpt = DEVICE,
    dtype: DtypeOpt = Dtype.AUTO,
    memory_budget: MemoryBudgetOpt = None,
    trust_remote_code: RemoteCodeOpt = False,
    check: CheckOpt = True,
    out: OutOpt = None,
    max_shard_size: ShardSizeOpt = SHARD_SIZE,
    verify: VerifyOpt = True,
    push_to_hub: PushToHubOpt = None,
    private: PushPrivateOpt = False,
    run: RunOpt = DEFAULT_RUN,
    force: ForceOpt = False,
    plan: PlanOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Write a checkpoint with zeros in its weights: SparseLLM, SparseGPT, Wanda or magnitude."""
    from llmprune.algorithms.feed_forward.subproblems import Coefficients
    from llmprune.artifacts.files.sizes import parse_size
    from llmprune.models.compute import choose_compute
    from llmprune.stages.common.intact import Intact
    from llmprune.stages.common.workspace import open_workspace
    from llmprune.stages.publishing import push_written
    from llmprune.stages.weight_pruning import PruningSettings, Selection, parse_parts, plan_pruning
    from llmprune.stages.weight_pruning import global_prune as run_stage

    console = Console(as_json=as_json, quiet=quiet)
    settings = PruningSettings(
        pattern=read_pattern(sparsity, pattern),
        method=method,
        selection=Selection(layers, parse_parts(parts), tuple(exclude or ())),
        reference=targets_from,
        coefficients=Coefficients(alpha=alpha, beta=beta, gamma=gamma),
        rounds=rounds,
        damping=damping,
        block_size=block_size,
        refit_steps=REFIT_STEPS if refit else 0,
        samples=samples,
        seq_len=seq_len,
        calibration=calibration,
        out=out,
        max_shard_bytes=parse_size(max_shard_size),
        verify=verify,
        force=force,
    )
    publishing = read_push(push_to_hub, private=private)
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
        give_plan(console, plan_pruning(workspace, settings))
        return
    report = run_stage(workspace, settings, on_block=block_teller(console))
    pushed = push_written(workspace, report.directory, publishing, on_listing=listing_teller(console))

    def show(console: Console) -> None:
        show_pruning(console, report)
        show_push(console, pushed)

    record = report.record.model_dump(mode="json")
    console.result({"directory": str(report.directory), **record, "pushed": describe_push(pushed)}, shown=show)

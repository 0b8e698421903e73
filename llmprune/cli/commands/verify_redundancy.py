"""``llmprune verify-redundancy``."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from llmprune.cli.console import Console
from llmprune.cli.options.common import (
    DEFAULT_RUN,
    DeviceOpt,
    DtypeOpt,
    ForceOpt,
    JsonOpt,
    ModelArg,
    QuietOpt,
    RemoteCodeOpt,
    RunOpt,
)

if TYPE_CHECKING:
    from llmprune.artifacts.records.importance import Importance, RoundRecord

EXAMPLE = "Example: llmprune verify-redundancy --target 20% --search eliminate"


class Search(StrEnum):
    """How the candidates of a round are compared."""

    ELIMINATE = "eliminate"
    EXHAUSTIVE = "exhaustive"


class Metric(StrEnum):
    """What makes a block redundant."""

    SLEB = "sleb"
    BLOCK_INFLUENCE = "block-influence"
    ANGULAR = "angular"


TargetOpt = Annotated[
    str,
    typer.Option(help="Blocks to remove: 20% or 0.2 (rounded up to whole blocks), or a number such as 6."),
]
SearchOpt = Annotated[
    Search,
    typer.Option(help="eliminate drops hopeless blocks early; exhaustive measures all on every window."),
]
MetricOpt = Annotated[
    Metric, typer.Option(help="sleb measures anew after every removal; the others are one-shot scores.")
]
ProtectFirstOpt = Annotated[int, typer.Option(help="Blocks at the start that stay.")]
ProtectLastOpt = Annotated[int, typer.Option(help="Blocks at the end that stay.")]


def verify_redundancy(
    model: ModelArg = None,
    target: TargetOpt = "20%",
    search: SearchOpt = Search.ELIMINATE,
    metric: MetricOpt = Metric.SLEB,
    protect_first: ProtectFirstOpt = 1,
    protect_last: ProtectLastOpt = 1,
    error_rate: Annotated[
        float,
        typer.Option(help="Chance, in one comparison, of dropping a block that is no worse than the leader."),
    ] = 1e-3,
    chunk_windows: Annotated[
        int | None,
        typer.Option(help="Windows that go through the model together. Default: from a memory budget."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Windows in one forward pass of a block. Default: what keeps the device busy."),
    ] = None,
    run: RunOpt = DEFAULT_RUN,
    device: DeviceOpt = "auto",
    dtype: DtypeOpt = "auto",
    force: ForceOpt = False,
    trust_remote_code: RemoteCodeOpt = False,
    as_json: JsonOpt = False,
    quiet: QuietOpt = False,
) -> None:
    """Find the most redundant blocks: skip each, keep the best choice, and measure again."""
    from llmprune.models.compute import choose_compute
    from llmprune.stages.block_search import RedundancySettings
    from llmprune.stages.block_search import verify_redundancy as run_stage
    from llmprune.stages.common.workspace import open_workspace

    console = Console(as_json=as_json, quiet=quiet)
    settings = RedundancySettings(
        target, metric.value, search.value, protect_first, protect_last, error_rate, chunk_windows, batch_size
    )
    workspace = open_workspace(
        run,
        model,
        compute=choose_compute(device, dtype),
        progress=console,
        trust_remote_code=trust_remote_code,
    )
    importance = run_stage(workspace, settings, on_round=round_teller(console), force=force)
    console.result(importance.model_dump(mode="json"), shown=lambda console: _show(console, importance))
    console.say(f"Written to {workspace.run.importance}. Next: llmprune remove-blocks --target {target}")


def round_teller(console: Console) -> Callable[[RoundRecord], None]:
    """Show each round of a search as it is decided."""

    def tell(decided: RoundRecord) -> None:
        dropped = [candidate.tokens for candidate in decided.candidates if not candidate.complete]
        early = f", {len(dropped)} dropped after {_range(dropped)} tokens" if dropped else ""
        console.say(
            f"block {decided.removed:>3} goes: loss {decided.loss:.4f} nats/token, "
            f"{len(decided.candidates)} candidates{early} ({decided.seconds:.0f} s)"
        )

    return tell


def _range(tokens: list[int]) -> str:
    return f"{min(tokens)}" if min(tokens) == max(tokens) else f"{min(tokens)} to {max(tokens)}"


def _show(console: Console, importance: Importance) -> None:
    if importance.scores is not None:
        rows = [[str(block), f"{importance.scores[block]:.4f}"] for block in importance.order]
        console.table(f"Least important by {importance.settings.metric}", ["block", "score"], rows)
        return
    rows = [
        [
            str(number),
            str(decided.removed),
            f"{decided.loss:.4f}",
            f"{decided.loss - importance.dense_loss:+.4f}",
            str(sum(not candidate.complete for candidate in decided.candidates)),
            f"{decided.block_forwards / decided.naive_block_forwards:.0%}",
        ]
        for number, decided in enumerate(importance.rounds, start=1)
    ]
    columns = ["round", "block", "loss", "above dense", "dropped early", "of naive forwards"]
    console.table(f"Removal order (dense loss {importance.dense_loss:.4f} nats/token)", columns, rows)
    console.line(
        f"{importance.block_forwards} block forwards; skipping each block in a full forward pass takes "
        f"{importance.naive_block_forwards}."
    )

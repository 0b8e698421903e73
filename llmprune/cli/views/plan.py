"""How a plan is shown: a row for each step, and what remains unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmprune.cli.console import Console

if TYPE_CHECKING:
    from llmprune.stages.common.plans import Estimate, Plan


def give_plan(console: Console, plan: Plan) -> None:
    """Print a plan, for people or as JSON."""
    console.result(plan.as_json(), shown=lambda console: _show(console, plan))


def _show(console: Console, plan: Plan) -> None:
    from llmprune.artifacts.files.sizes import format_size

    columns = ["step", "memory", "on the device", "disk", "kept", "read", "written", "time"]
    rows = [_row(one) for one in (*plan.steps, plan.total)]
    if not any(one.device for one in plan.steps):
        del columns[2]
        rows = [[*row[:2], *row[3:]] for row in rows]
    several = plan.processes > 1
    among = f", each of {plan.processes} processes" if several else ""
    console.table(f"llmprune {plan.command}, {plan.device}, {plan.dtype}{among}: expected", columns, rows)
    console.line(
        f"Of the total's memory, {format_size(plan.base)} are Python and its libraries. Time is from one block, "
        "measured now. Nothing was made."
    )
    if several:
        console.line(
            f"Memory, what is read and time are those of one of {plan.processes} processes; disk and what is "
            "written are of all. What is not divided, such as writing a checkpoint, is done by the first."
        )
    for remark in plan.remarks:
        console.line(f"Note: {remark}.")


def _row(one: Estimate) -> list[str]:
    from llmprune.artifacts.files.sizes import format_size
    from llmprune.stages.common.plans import spell_seconds

    sizes = (one.host, one.device, one.disk, one.kept, one.read, one.written)
    seconds = "not known" if one.seconds is None else spell_seconds(one.seconds)
    return [one.step, *(format_size(size) for size in sizes), seconds]

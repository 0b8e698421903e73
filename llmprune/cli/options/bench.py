"""Options of ``llmprune bench``. Without a value of its own each has the default that its help names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from llmprune.stages.benchmark import BenchSettings

BaselineOpt = Annotated[
    str | None, typer.Option(help="What to compare with. Default: the run's dense model.", show_default=False)
]
PplOpt = Annotated[
    list[str] | None,
    typer.Option(
        help="Text source of the perplexity, as calibrate's --source; may be repeated. Default: auto.",
        show_default=False,
    ),
]
SeqLenOpt = Annotated[
    int | None,
    typer.Option(help="Tokens in a perplexity window. Default: 2048, or all of a shorter model's.", show_default=False),
]
MaxWindowsOpt = Annotated[
    int | None,
    typer.Option(help="At most so many perplexity windows of each text. Default: all; c4: 256.", show_default=False),
]
NoPplOpt = Annotated[bool, typer.Option("--no-ppl", help="Leave out perplexity.")]
TasksOpt = Annotated[
    str | None, typer.Option(help="Zero-shot tasks by lm-eval's names: piqa,winogrande.", show_default=False)
]
IncludeOpt = Annotated[
    Path | None, typer.Option(help="A folder with lm-eval task files of your own.", show_default=False)
]
LimitOpt = Annotated[
    int | None, typer.Option(help="Only so many first items of each task. Default: all.", show_default=False)
]
BatchOpt = Annotated[
    str | None,
    typer.Option(help="Sequences generated together: 64, or sizes in turn: 1,8,64. Default: 64.", show_default=False),
]
GenOpt = Annotated[int | None, typer.Option(help="New tokens for each. Default: 128.", show_default=False)]
PromptOpt = Annotated[int | None, typer.Option(help="Prompt tokens of each. Default: 64.", show_default=False)]
PrefillOpt = Annotated[
    int | None,
    typer.Option(
        help="Tokens of the single long prompt. Default: 2048, or all of a shorter model's.", show_default=False
    ),
]
RepeatsOpt = Annotated[
    int | None,
    typer.Option(help="Timed repeats at least, baseline and model in turn. Default: 5.", show_default=False),
]
MaxSecondsOpt = Annotated[
    float | None,
    typer.Option(
        help="More repeats, until the ratio is known within 5%, for at most so long. Default: 120.", show_default=False
    ),
]
NoSpeedOpt = Annotated[bool, typer.Option("--no-speed", help="Leave out speed.")]
QuickOpt = Annotated[
    bool,
    typer.Option(
        "--quick",
        help="Other defaults, for a minute's answer: batch 8, gen 32, prefill 512, 3 repeats, 20 s, 8 windows of "
        "512 tokens.",
    ),
]
FailIfOpt = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CONDITION",
        help='Exit with 3, once all is written, if it holds: "ppl_ratio>1.5". May be repeated.',
        show_default=False,
    ),
]


def read_settings(typed: Mapping[str, Any]) -> BenchSettings:
    """The settings that options, by their names, ask for; what was not typed has its default.

    Raises:
        TargetError: an option out of range, or one that cannot be read.
    """
    from llmprune.stages.benchmark import QUICK, BenchSettings, parse_batches, parse_tasks

    names = {field.name for field in fields(BenchSettings)}
    given = {name: value for name, value in typed.items() if name in names and value is not None}
    given |= {name: tuple(given[name]) for name in ("ppl", "fail_if") if name in given}
    given |= {"batch": parse_batches(typed["batch"])} if typed["batch"] else {}
    given |= {"tasks": parse_tasks(typed["tasks"]), "bos": typed["bos"].value, "speed": not typed["no_speed"]}
    given |= {"ppl": ()} if typed["no_ppl"] else {}
    return replace(QUICK if typed["quick"] else BenchSettings(), **given)

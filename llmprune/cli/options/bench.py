"""Options about measuring. What is not typed is as usual, or as ``--quick`` has it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmprune.choices import QUICK, USUAL, Bos
from llmprune.cli.options.common import MODEL, typed_or

if TYPE_CHECKING:
    from llmprune.stages.benchmark import BenchSettings

PERPLEXITY = "Perplexity"
TASKS = "Tasks"
WRITING = "Writing as the dense model does"
SPEED = "Speed"
_TOKENS = f"{USUAL.tokens}, with --quick {QUICK.tokens}, or all positions of a shorter model"

MeasuredArg = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help=MODEL,
        show_default="the run's newest pruned checkpoint, else its own model, else the demo model",
    ),
]
BaselineOpt = Annotated[
    str | None, typer.Option(metavar="MODEL", help="What to compare with.", show_default="the run's dense model")
]
QuickOpt = Annotated[
    bool,
    typer.Option(
        "--quick",
        help="Measure less, for an answer in about a minute: the defaults named below.",
    ),
]
FailIfOpt = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CONDITION",
        help='Exit with code 3, once everything is written, if it holds: "ppl_ratio>1.5". May be repeated.',
        show_default=False,
    ),
]
PplOpt = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT",
        help="Text to measure perplexity on, as for calibrate's --source. May be repeated.",
        show_default="auto",
        rich_help_panel=PERPLEXITY,
    ),
]
PplSeqLenOpt = Annotated[
    int | None,
    typer.Option(help="Tokens in a perplexity window.", show_default=_TOKENS, rich_help_panel=PERPLEXITY),
]
MaxWindowsOpt = Annotated[
    int | None,
    typer.Option(
        help="At most so many windows of each text.",
        show_default=f"all, of c4 256, with --quick {QUICK.max_windows}",
        rich_help_panel=PERPLEXITY,
    ),
]
BosOpt = Annotated[
    Bos,
    typer.Option(
        help="Start perplexity windows and task items with the BOS token; auto: as the tokenizer does by itself.",
        rich_help_panel=PERPLEXITY,
    ),
]
NoPplOpt = Annotated[bool, typer.Option("--no-ppl", help="Leave out perplexity.", rich_help_panel=PERPLEXITY)]
TasksOpt = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Tasks by lm-eval's names: piqa,gsm8k.",
        show_default="none",
        rich_help_panel=TASKS,
    ),
]
IncludeOpt = Annotated[
    Path | None,
    typer.Option(
        "--lm-eval-include",
        metavar="FOLDER",
        help="A folder with lm-eval task files of your own.",
        show_default=False,
        rich_help_panel=TASKS,
    ),
]
LimitOpt = Annotated[
    int | None,
    typer.Option(help="Only so many first items of each task.", show_default="all", rich_help_panel=TASKS),
]
FewshotOpt = Annotated[
    int | None,
    typer.Option(
        "--num-fewshot",
        help="Solved examples before each item.",
        show_default="as many as the task asks for",
        rich_help_panel=TASKS,
    ),
]
AgreementOpt = Annotated[
    int | None,
    typer.Option(
        metavar="PROMPTS",
        help="Compare the models' greedy choices behind so many prompts; 0: leave it out.",
        show_default=f"{USUAL.agreement}, with --quick {QUICK.agreement}",
        rich_help_panel=WRITING,
    ),
]
DraftOpt = Annotated[
    bool,
    typer.Option(
        "--draft",
        help="Measure the model as a draft for the dense one: how many of its tokens are taken, and the speed.",
        rich_help_panel=WRITING,
    ),
]
BatchOpt = Annotated[
    str | None,
    typer.Option(
        metavar="SIZES",
        help="Sequences generated together: 64, or several sizes in turn: 1,8,64.",
        show_default=f"{USUAL.batch}, with --quick {QUICK.batch}",
        rich_help_panel=SPEED,
    ),
]
GenOpt = Annotated[
    int | None,
    typer.Option(
        help="New tokens of each sequence.",
        show_default=f"{USUAL.gen}, with --quick {QUICK.gen}",
        rich_help_panel=SPEED,
    ),
]
PromptOpt = Annotated[
    int | None,
    typer.Option(help="Prompt tokens of each sequence.", show_default=f"{USUAL.prompt}", rich_help_panel=SPEED),
]
PrefillOpt = Annotated[
    int | None,
    typer.Option(help="Tokens of the single long prompt.", show_default=_TOKENS, rich_help_panel=SPEED),
]
RepeatsOpt = Annotated[
    int | None,
    typer.Option(
        help="Timed repeats at least, baseline and model in turn.",
        show_default=f"{USUAL.repeats}, with --quick {QUICK.repeats}",
        rich_help_panel=SPEED,
    ),
]
MaxSecondsOpt = Annotated[
    float | None,
    typer.Option(
        help="Begin more repeats, until the ratio is known within 5%, for at most so many seconds.",
        show_default=f"{USUAL.max_seconds:.0f}, with --quick {QUICK.max_seconds:.0f}",
        rich_help_panel=SPEED,
    ),
]
NoSpeedOpt = Annotated[bool, typer.Option("--no-speed", help="Leave out speed.", rich_help_panel=SPEED)]


def read_bench(
    *,
    quick: bool,
    fail_if: list[str] | None = None,
    ppl: list[str] | None,
    ppl_seq_len: int | None,
    max_windows: int | None,
    bos: Bos,
    no_ppl: bool = False,
    tasks: str | None,
    lm_eval_include: Path | None,
    limit: int | None,
    num_fewshot: int | None = None,
    agreement: int | None = None,
    draft: bool = False,
    batch: str | None,
    gen: int | None,
    prompt: int | None,
    prefill: int | None,
    repeats: int | None,
    max_seconds: float | None,
    no_speed: bool,
) -> BenchSettings:
    """What to measure; None is what was not typed.

    Raises:
        TargetError: an option out of range, or one that cannot be read.
    """
    from llmprune.stages.benchmark import settings

    usual = settings.QUICK if quick else settings.BenchSettings()
    return settings.BenchSettings(
        ppl=() if no_ppl else tuple(ppl or usual.ppl),
        usual=usual.usual,
        ppl_seq_len=ppl_seq_len,
        max_windows=typed_or(max_windows, usual.max_windows),
        bos=bos,
        tasks=settings.parse_tasks(tasks),
        lm_eval_include=lm_eval_include,
        limit=limit,
        num_fewshot=num_fewshot,
        agreement=typed_or(agreement, usual.agreement),
        draft=draft,
        speed=not no_speed,
        batch=usual.batch if batch is None else settings.parse_batches(batch),
        gen=typed_or(gen, usual.gen),
        prompt=typed_or(prompt, usual.prompt),
        prefill=prefill,
        repeats=typed_or(repeats, usual.repeats),
        max_seconds=typed_or(max_seconds, usual.max_seconds),
        fail_if=tuple(fail_if or ()),
    )

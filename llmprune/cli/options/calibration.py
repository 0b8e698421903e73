"""Options about calibration text: how ``calibrate`` draws it, and what other commands take of the run's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmprune.choices import SAMPLES, SEQ_LEN, SOURCE, Bos, Cache, ChatTemplate, Sampling
from llmprune.cli.options.common import typed_or

if TYPE_CHECKING:
    from llmprune.stages.calibration import CalibrationSettings

CALIBRATION = "Calibration"
_SOURCE = (
    "Calibration text: wikitext2, c4, ptb, python-docs, self (the model writes it), a Hub data set "
    "(owner/name:config:split:column), a local .txt, .jsonl or .parquet file, or wikitext2:FILE for a local copy; "
    "auto: wikitext2, else python-docs. A mixture names the windows of each: wikitext2:64,c4:32,./chat.jsonl:32."
)
_SAMPLES = "Number of calibration windows; a mixture has counts of its own."
_CHAT_TEMPLATE = (
    "Conversations (a column of messages): auto: as the tokenizer's own chat template writes them; off: their contents "
    "as plain text."
)
_SEQ_LEN = "Tokens in a calibration window."
_USUAL = f"{SEQ_LEN}, or all positions of a shorter model"

SourceOpt = Annotated[str, typer.Option(metavar="TEXT", help=_SOURCE)]
SamplesOpt = Annotated[int | None, typer.Option(help=_SAMPLES, show_default=str(SAMPLES))]
SeqLenOpt = Annotated[int | None, typer.Option(help=_SEQ_LEN, show_default=_USUAL)]
SeedOpt = Annotated[int, typer.Option(help="Seed of the random drawing.")]
SamplingOpt = Annotated[
    Sampling,
    typer.Option(help="windows: at random positions of the text; rows: random rows, as in SLEB's published code."),
]
WindowBosOpt = Annotated[
    Bos, typer.Option("--bos", help="Start windows with the BOS token; auto: as the tokenizer does by itself.")
]
ChatTemplateOpt = Annotated[ChatTemplate, typer.Option(help=_CHAT_TEMPLATE)]
CacheOpt = Annotated[
    Cache,
    typer.Option(
        help="Keep the dense model's hidden states, which heal and global-prune then need not compute: those of all "
        "blocks, or of as many as take a tenth of the free disk (auto)."
    ),
]

# For commands that take the run's calibration where it has one.
RunSourceOpt = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="TEXT",
        help="Calibration text, as for llmprune calibrate.",
        show_default=f"the run's calibration, else {SOURCE}",
        rich_help_panel=CALIBRATION,
    ),
]
RunSamplesOpt = Annotated[
    int | None,
    typer.Option(
        "--samples",
        help=_SAMPLES,
        show_default=f"all of the run's calibration, else {SAMPLES}",
        rich_help_panel=CALIBRATION,
    ),
]
RunSeqLenOpt = Annotated[
    int | None,
    typer.Option(
        "--seq-len",
        help=_SEQ_LEN,
        show_default=f"the run's calibration, else {_USUAL}",
        rich_help_panel=CALIBRATION,
    ),
]
RunChatTemplateOpt = Annotated[
    ChatTemplate | None,
    typer.Option(
        "--chat-template",
        help=_CHAT_TEMPLATE,
        show_default=f"the run's calibration, else {ChatTemplate.AUTO}",
        rich_help_panel=CALIBRATION,
    ),
]
CalibrationOpt = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Use this calibration artifact.",
        show_default="the run's own",
        rich_help_panel=CALIBRATION,
    ),
]


def read_calibration(
    *, source: str | None, samples: int | None, seq_len: int | None, chat_template: ChatTemplate | None
) -> CalibrationSettings | None:
    """How to calibrate; None where nothing was typed about it.

    Raises:
        TargetError: a number out of range.
    """
    from llmprune.stages.calibration import CalibrationSettings

    if source is None and samples is None and seq_len is None and chat_template is None:
        return None
    return CalibrationSettings(
        source=typed_or(source, SOURCE),
        samples=samples,
        seq_len=seq_len,
        chat_template=typed_or(chat_template, ChatTemplate.AUTO),
    )

"""How the papers take their calibration and evaluation text from WikiText-2, C4 and the Penn Treebank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Purpose = Literal["calibration", "evaluation"]

PARQUET_BRANCH = "refs/convert/parquet"
"""Where the Hub keeps its conversion of every public data set."""


@dataclass(frozen=True)
class Split:
    """One split of a published protocol.

    Attributes:
        label: its name.
        file: the Hub file that holds it.
        num_rows: how many rows of it count.
        max_windows: how many windows of the joined rows count; None: all.
    """

    label: str
    file: str
    num_rows: int
    max_windows: int | None = None


@dataclass(frozen=True)
class Protocol:
    """How the papers take their text from a data set; the splits stand under what they serve for."""

    repo: str
    column: str
    separator: str
    splits: Mapping[Purpose, Split]
    row_of_line: Callable[[str], str] | None
    config: str | None = None


def _wikitext_row(line: str) -> str:
    return line if line.strip() else ""


PROTOCOLS: Mapping[str, Protocol] = {
    "wikitext2": Protocol(
        repo="Salesforce/wikitext",
        column="text",
        separator="\n\n",
        splits={
            "calibration": Split("train", "wikitext-2-raw-v1/train-00000-of-00001.parquet", 36_718),
            "evaluation": Split("test", "wikitext-2-raw-v1/test-00000-of-00001.parquet", 4_358),
        },
        row_of_line=_wikitext_row,
    ),
    # The papers draw 128 of the 356,317 documents in the first shard, and evaluate on the first 1,100 of
    # validation, cut to 256 windows. 5,000 documents are 2.4 million tokens: plenty to draw from, in seconds.
    "c4": Protocol(
        repo="allenai/c4",
        column="text",
        separator=" ",
        splits={
            "calibration": Split("train", "en/c4-train.00000-of-01024.json.gz", 5_000),
            "evaluation": Split("validation", "en/c4-validation.00000-of-00008.json.gz", 1_100, max_windows=256),
        },
        row_of_line=None,
    ),
    # A data set with a script, which nothing runs any longer: its Parquet branch is what is left of it.
    "ptb": Protocol(
        repo="ptb-text-only/ptb_text_only",
        column="sentence",
        separator=" ",
        splits={
            "calibration": Split("train", PARQUET_BRANCH, 42_068),
            "evaluation": Split("test", PARQUET_BRANCH, 3_761),
        },
        row_of_line=str.strip,
        config="penn_treebank",
    ),
}

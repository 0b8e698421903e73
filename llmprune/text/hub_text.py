"""Rows of text out of Hub data sets.

Files are fetched with huggingface_hub and read with pyarrow rather than through `datasets.load_dataset`: one
request with a short time limit says at once whether the Hub can be reached, the cache answers when it cannot,
1,100 documents of C4 are read without unpacking its 356,000, and the revision is known. The Hub converts
every public data set to Parquet on a branch of its own, laid out as CONFIG/SPLIT/0000.parquet, whatever the
format or script of the original: that branch serves all data sets that have no protocol here. Only where it
is missing (private or fresh data sets), `datasets` does the work.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmprune.errors import CorpusError
from llmprune.hub.files import (
    OFFLINE,
    OFFLINE_HELP,
    HubUnreachableError,
    Remote,
    commit_of,
    fetch,
    probe,
)
from llmprune.quiet import quiet
from llmprune.text.local_text import Kind, choose_column, iter_rows, row_column, take

PARQUET_BRANCH = "refs/convert/parquet"
MAX_CHARS = 16 * 2**20
"""Reading a data set of unknown size stops here: four million tokens, sixteen default calibrations."""

_SHARD = re.compile(r"(?P<config>[^/]+)/(?:partial-)?(?P<split>[^/]+)/\d+\.parquet")
# The branch's layout before 2023, kept where nothing was converted since: CONFIG/NAME-SPLIT.parquet.
_OLD_SHARD = re.compile(r"(?P<config>[^/]+)/[^/]*?-(?P<split>[^/-]+)(?:-\d+-of-\d+)?\.parquet")


@dataclass(frozen=True)
class HubText:
    """Rows of one column of one split, and where they come from.

    `spec` is the whole name, `owner/name:config:split:column`; `truncated` says that the split goes on.
    """

    rows: tuple[str, ...]
    spec: str
    origin: str
    truncated: bool


@dataclass(frozen=True)
class _Wanted:
    """The arguments of read_hub_dataset."""

    repo: str
    config: str | None
    splits: Sequence[str]
    column: str | None
    max_chars: int | None


def read_hub_file(repo: str, file: str, *, kind: Kind, column: str, max_rows: int | None = None) -> HubText:
    """Read the first `max_rows` rows (None: all) of one known file on the data set's main branch.

    Raises:
        CorpusError: no such repository or file, or gated.
        HubUnreachableError: not in the cache, and the Hub does not answer.
    """
    with quiet():
        remote = probe(repo, "main")
        if remote is None:
            raise CorpusError(f"The Hub data set {repo} has no branch 'main'. {OFFLINE_HELP}")
        path = fetch(remote, file)
    rows, truncated = take(iter_rows(path, kind, column), max_rows=max_rows)
    first = f" first {len(rows):,} rows" if truncated else ""
    return HubText(rows, repo, f"Hub {repo} {file}{first} @{commit_of(path)}", truncated)


def read_hub_dataset(
    repo: str,
    *,
    config: str | None,
    splits: Sequence[str],
    column: str | None,
    max_chars: int | None = MAX_CHARS,
) -> HubText:
    """Read one column of one split of any data set.

    Args:
        repo: `owner/name`.
        config: None for `default`, or for the only one there is.
        splits: names in order of preference; the first that exists is read.
        column: None for `text`, or for the only column of strings.
        max_chars: stop after the row that reaches this many characters; None for all.

    Raises:
        CorpusError: no such repository, config, split or column, or gated. The message names what there is.
        HubUnreachableError: not in the cache, and the Hub does not answer.
    """
    wanted = _Wanted(repo, config, splits, column, max_chars)
    with quiet():
        remote = probe(repo, PARQUET_BRANCH, with_files=True)
        # With HF_HUB_OFFLINE set, `datasets` may still have the data set in a cache of its own.
        if remote is None or (not remote.files and remote.reason == OFFLINE):
            return _read_with_datasets(wanted, reason=remote.reason if remote else None)
        return _read_parquet_branch(wanted, remote)


def _read_parquet_branch(wanted: _Wanted, remote: Remote) -> HubText:
    tables = _tables(remote.files)
    if not tables:
        raise HubUnreachableError(wanted.repo, remote.reason or "the Hub has no Parquet files of it")
    config = _pick_config(wanted, list(dict.fromkeys(name for name, _ in tables)))
    split = _pick_split(wanted, config, [split for name, split in tables if name == config])
    shards = tables[config, split]
    first = fetch(remote, shards[0])
    column = row_column(first, "parquet", wanted.column)
    rows, truncated = take(_shard_rows(remote, shards, column), max_chars=wanted.max_chars)
    origin = f"Hub {wanted.repo} {config} {split} {remote.revision}@{commit_of(first)}"
    return HubText(rows, f"{wanted.repo}:{config}:{split}:{column}", origin, truncated)


def _tables(files: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """Group the Parquet branch's files: (config, split) -> shards in order."""
    tables: dict[tuple[str, str], list[str]] = {}
    for file in sorted(files):
        if found := _SHARD.fullmatch(file) or _OLD_SHARD.fullmatch(file):
            tables.setdefault((found["config"], found["split"]), []).append(file)
    return tables


def _pick_config(wanted: _Wanted, there: Sequence[str]) -> str:
    if wanted.config is None and len(there) == 1:
        return there[0]
    if (wanted.config or "default") in there:
        return wanted.config or "default"
    problem = f"has no config '{wanted.config}'" if wanted.config else "has several configs and no default"
    raise CorpusError(f"{wanted.repo} {problem}; it has {_shortened(there)}. Type --source {wanted.repo}:{there[0]}.")


def _pick_split(wanted: _Wanted, config: str, there: Sequence[str]) -> str:
    for split in wanted.splits:
        if split in there:
            return split
    raise CorpusError(
        f"{wanted.repo} has no split '{wanted.splits[0]}' in config '{config}'; it has {_shortened(there)}. "
        f"Type --source {wanted.repo}:{config}:{there[0]}."
    )


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _shard_rows(remote: Remote, shards: Sequence[str], column: str) -> Iterator[str]:
    for shard in shards:
        yield from iter_rows(fetch(remote, shard), "parquet", column)


def _read_with_datasets(wanted: _Wanted, *, reason: str | None) -> HubText:
    """`reason`: why the Hub did not answer, None if it did."""
    builder = _prepared_builder(wanted, reason)
    config = builder.config.name
    split = _pick_split(wanted, config, list(builder.info.splits))
    table = builder.as_dataset(split=split)
    strings = {name: _holds_strings(feature) for name, feature in table.features.items()}
    column = choose_column(strings, wanted.column, where=wanted.repo)
    present = (row for row in table[column] if row is not None)
    rows, truncated = take(present, max_chars=wanted.max_chars)
    origin = f"Hub {wanted.repo} {config} {split} @{builder.hash}"
    return HubText(rows, f"{wanted.repo}:{config}:{split}:{column}", origin, truncated)


def _prepared_builder(wanted: _Wanted, reason: str | None) -> Any:
    import datasets  # noqa: PLC0415 - a second of imports, for the few data sets that need it

    had_bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with quiet():  # again: its import has just set the log levels anew
            builder = datasets.load_dataset_builder(wanted.repo, wanted.config)
            builder.download_and_prepare()
    except Exception as error:  # a dozen kinds, from YAML's to Arrow's: the first line says what is the matter
        said = (str(error).splitlines() or [type(error).__name__])[0]
        if reason is not None or isinstance(error, ConnectionError):
            raise HubUnreachableError(wanted.repo, reason or said) from error
        raise CorpusError(f"The Hub data set {wanted.repo} cannot be read: {said}") from error
    finally:
        if had_bars:
            datasets.enable_progress_bars()
    return builder


def _holds_strings(feature: object) -> bool:
    return getattr(feature, "dtype", None) in ("string", "large_string")

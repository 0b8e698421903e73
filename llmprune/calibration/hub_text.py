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

from llmprune.calibration.hub_access import (
    OFFLINE_HELP,
    HubUnreachableError,
    Remote,
    commit_of,
    fetch,
    probe,
    quiet,
)
from llmprune.calibration.local_text import Kind, choose_column, iter_rows, row_column, take
from llmprune.errors import CorpusError

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
    with quiet():
        remote = probe(repo, PARQUET_BRANCH, with_files=True)
        # With HF_HUB_OFFLINE set, `datasets` may still have the data set in a cache of its own.
        if remote is None or (not remote.files and remote.reason == "HF_HUB_OFFLINE is set"):
            return _read_with_datasets(repo, config, splits, column, max_chars)
        return _read_parquet_branch(remote, config, splits, column, max_chars)


def _read_parquet_branch(
    remote: Remote, config: str | None, splits: Sequence[str], column: str | None, max_chars: int | None
) -> HubText:
    tables = _tables(remote.files)
    if not tables:
        raise HubUnreachableError(remote.repo, remote.reason or "the Hub has no Parquet files of it")
    config = _pick_config(remote.repo, list(dict.fromkeys(name for name, _ in tables)), config)
    split = _pick_split(remote.repo, config, [split for name, split in tables if name == config], splits)
    shards = tables[config, split]
    first = fetch(remote, shards[0])
    column = row_column(first, "parquet", column)
    rows, truncated = take(_shard_rows(remote, shards, column), max_chars=max_chars)
    origin = f"Hub {remote.repo} {config} {split} {remote.revision}@{commit_of(first)}"
    return HubText(rows, f"{remote.repo}:{config}:{split}:{column}", origin, truncated)


def _tables(files: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """Group the Parquet branch's files: (config, split) -> shards in order."""
    tables: dict[tuple[str, str], list[str]] = {}
    for file in sorted(files):
        if found := _SHARD.fullmatch(file) or _OLD_SHARD.fullmatch(file):
            tables.setdefault((found["config"], found["split"]), []).append(file)
    return tables


def _pick_config(repo: str, there: Sequence[str], wanted: str | None) -> str:
    if wanted is None and len(there) == 1:
        return there[0]
    if (wanted or "default") in there:
        return wanted or "default"
    problem = f"has no config '{wanted}'" if wanted else "has several configs and no default"
    raise CorpusError(f"{repo} {problem}; it has {_shortened(there)}. Type --source {repo}:{there[0]}.")


def _pick_split(repo: str, config: str, there: Sequence[str], preferred: Sequence[str]) -> str:
    for split in preferred:
        if split in there:
            return split
    raise CorpusError(
        f"{repo} has no split '{preferred[0]}' in its config '{config}'; it has {_shortened(there)}. "
        f"Type --source {repo}:{config}:{there[0]}."
    )


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _shard_rows(remote: Remote, shards: Sequence[str], column: str) -> Iterator[str]:
    for shard in shards:
        yield from iter_rows(fetch(remote, shard), "parquet", column)


def _read_with_datasets(
    repo: str, config: str | None, splits: Sequence[str], column: str | None, max_chars: int | None
) -> HubText:
    builder = _prepared_builder(repo, config)
    config = builder.config.name
    split = _pick_split(repo, config, list(builder.info.splits), splits)
    table = builder.as_dataset(split=split)
    strings = {
        name: getattr(kind, "dtype", "") in ("string", "large_string")
        for name, kind in table.features.items()
    }
    column = choose_column(strings, column, where=repo)
    rows, truncated = take((row for row in table[column] if row is not None), max_chars=max_chars)
    return HubText(
        rows, f"{repo}:{config}:{split}:{column}", f"Hub {repo} {config} {split} @{builder.hash}", truncated
    )


def _prepared_builder(repo: str, config: str | None) -> Any:  # noqa: ANN401 - `datasets` has no types
    import datasets  # noqa: PLC0415 - a second of imports, for the few data sets that need it

    had_bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        builder = datasets.load_dataset_builder(repo, config)
        builder.download_and_prepare()
    except ConnectionError as error:
        raise HubUnreachableError(repo, str(error).splitlines()[0]) from error
    except (
        Exception
    ) as error:  # a dozen kinds, from YAML's to Arrow's: the first line says what is the matter
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CorpusError(f"The Hub data set {repo} cannot be read: {reason}") from error
    finally:
        if had_bars:
            datasets.enable_progress_bars()
    return builder

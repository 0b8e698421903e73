"""Rows of text out of Hub data sets: huggingface_hub fetches files into its cache, `datasets` reads them there.

They are streamed from the cached files: nothing is copied to a cache of `datasets`' own, 1,100 documents of C4 are
read without unpacking its 356,000, and what was read once is there without a network.

The Hub converts every public data set to Parquet on a branch of its own, laid out as CONFIG/SPLIT/0000.parquet,
whatever the format or script of the original. That branch serves all data sets that have no protocol here: its files
are small, so that reading stops early. Where it is missing (private or fresh data sets), `datasets` finds configs,
splits and files in the repository itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from llmprune.errors import CorpusError, HubUnreachableError, LlmpruneError
from llmprune.hub.failures import Failure, Problem
from llmprune.hub.files import Remote, cached, commit_of, fetch, probe
from llmprune.quiet import first_sentence, quiet
from llmprune.spelling import listed
from llmprune.text.columns import Holds, choose_column, take
from llmprune.text.conversations import written
from llmprune.text.protocols import PARQUET_BRANCH
from llmprune.text.tables import Repository, Table, config_names, find_copy, find_repository, open_table

if TYPE_CHECKING:
    from llmprune.text.chat_writer import ChatWriter

MAX_CHARS = 16 * 2**20
"""Reading a data set of unknown size stops here: four million tokens, sixteen default calibrations."""

# Read by hand: `datasets` would take every folder here whose name begins with "train" for the one split `train`.
_SHARD = re.compile(r"(?P<config>[^/]+)/(?:partial-)?(?P<split>[^/]+)/\d+\.parquet")
# The branch's layout before 2023, kept where nothing was converted since: CONFIG/NAME-SPLIT.parquet.
_OLD_SHARD = re.compile(r"(?P<config>[^/]+)/[^/]*?-(?P<split>[^/-]+)(?:-\d+-of-\d+)?\.parquet")


@dataclass(frozen=True)
class HubText:
    """Rows of one column of one split, and where they come from.

    `spec` is the whole name, `owner/name:config:split:column`; `truncated` says that the split goes on, and `holds`
    what the rows were before they were written as text.
    """

    rows: tuple[str, ...]
    spec: str
    origin: str
    truncated: bool
    holds: Holds = Holds.STRINGS


@dataclass(frozen=True)
class _Wanted:
    """The arguments of read_hub_dataset."""

    repo: str
    config: str | None
    splits: Sequence[str]
    column: str | None
    max_chars: int | None
    chat: ChatWriter | None


def read_hub_file(repo: str, file: str, *, column: str, max_rows: int | None = None) -> HubText:
    """Read the first `max_rows` rows (None: all) of one known file on the data set's main branch.

    Raises:
        CorpusError: no such repository or file, or gated, or damaged.
        HubUnreachableError: not in the cache, and the Hub does not answer.
    """
    with _explained(repo):
        path = fetch(_main_branch(repo), file)
        table = open_table(path, "parquet" if file.endswith(".parquet") else "json")
        rows, truncated = take(written(table.rows(column), None, where=repo), max_rows=max_rows)
    first = f" first {len(rows):,} rows" if truncated else ""
    return HubText(rows, repo, f"Hub {repo} {file}{first} @{commit_of(path)}", truncated)


def read_hub_dataset(
    repo: str,
    *,
    config: str | None,
    splits: Sequence[str],
    column: str | None,
    max_chars: int | None = MAX_CHARS,
    chat: ChatWriter | None = None,
) -> HubText:
    """Read one column of one split of any data set.

    Args:
        repo: `owner/name`.
        config: None for `default`, or for the only one there is.
        splits: names in order of preference; the first that exists is read.
        column: None for `text`, for conversations in `messages`, or for the only column of strings.
        max_chars: stop after the row that reaches this many characters; None for all.
        chat: writes conversations; None: they are refused.

    Raises:
        CorpusError: no such repository, config, split or column, or gated, or damaged. The message names what there is.
        HubUnreachableError: not in the cache, and the Hub does not answer.
    """
    wanted = _Wanted(repo, config, splits, column, max_chars, chat)
    with _explained(repo):
        branch = probe(repo, PARQUET_BRANCH, with_files=True)
        if branch is not None and (shards := _shards(branch.files)):
            return _read_parquet_branch(wanted, branch, shards)
        return _read_repository(wanted, _main_branch(repo, branch.failure if branch else None))


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Silence the libraries, and turn what they say about a damaged or unusable data set into one sentence."""
    try:
        with quiet():
            yield
    except LlmpruneError:
        raise
    except Exception as error:  # a dozen kinds, from YAML's to Arrow's
        said = f"{first_sentence(error):.300}"
        raise CorpusError(f"The Hub data set {repo} cannot be read: {said}") from error


def _main_branch(repo: str, known: Failure | None = None) -> Remote:
    """The main branch; where the Hub is `known` not to answer, it is not asked again."""
    remote = cached(repo, "main", known) if known else probe(repo, "main")
    if remote is None:
        raise CorpusError(f"The Hub data set {repo} has no branch 'main'; give another `source`.")
    return remote


def _read_parquet_branch(wanted: _Wanted, remote: Remote, shards: Mapping[tuple[str, str], Sequence[str]]) -> HubText:
    config = _pick_config(wanted, list(dict.fromkeys(name for name, _ in shards)))
    split = _pick_split(wanted, config, [split for name, split in shards if name == config])
    tables = (open_table(fetch(remote, shard), "parquet") for shard in shards[config, split])
    return _read_tables(wanted, config, split, tables, f"{remote.revision}@{remote.commit}")


def _shards(files: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """Group the Parquet branch's files: (config, split) -> shards in order."""
    shards: dict[tuple[str, str], list[str]] = {}
    for file in sorted(files):
        if found := _SHARD.fullmatch(file) or _OLD_SHARD.fullmatch(file):
            shards.setdefault((found["config"], found["split"]), []).append(file)
    return shards


def _read_repository(wanted: _Wanted, remote: Remote) -> HubText:
    """From the data set's own files: on the Hub, in the Hub's cache, or copied in the cache of `datasets`."""
    found = _find_repository(wanted, remote)
    split = _pick_split(wanted, found.config, found.splits)
    address = f"hf://datasets/{wanted.repo}@{remote.commit}/"

    def local(file: str) -> Path:
        return Path(file) if remote.folder else fetch(remote, file.removeprefix(address))

    version = f"@{remote.commit or found.version}"
    return _read_tables(wanted, found.config, split, found.tables(split, local), version)


def _find_repository(wanted: _Wanted, remote: Remote) -> Repository:
    if remote.failure and not remote.folder:
        return _find_copy(wanted, remote.failure)
    source = str(remote.folder or wanted.repo)
    try:
        return find_repository(source, wanted.config, revision=remote.commit)
    except ValueError:
        _pick_config(wanted, config_names(source, revision=remote.commit))  # that it is not there, perhaps
        raise


def _find_copy(wanted: _Wanted, failure: Failure) -> Repository:
    """Of `datasets`' own, asked only where it will not ask the Hub once more."""
    try:
        if failure.problem is Problem.OFFLINE:
            return find_copy(wanted.repo, wanted.config)
    except Exception as error:
        raise HubUnreachableError(wanted.repo, failure.why) from error
    raise HubUnreachableError(wanted.repo, failure.why)


def _pick_config(wanted: _Wanted, there: Sequence[str]) -> str:
    if wanted.config is None and len(there) == 1:
        return there[0]
    if (wanted.config or "default") in there:
        return wanted.config or "default"
    problem = f"has no config '{wanted.config}'" if wanted.config else "has several configs and no default"
    raise CorpusError(f"{wanted.repo} {problem}; it has {listed(there, 12)}. Type `source={wanted.repo}:{there[0]}`.")


def _pick_split(wanted: _Wanted, config: str, there: Sequence[str]) -> str:
    for split in wanted.splits:
        if split in there:
            return split
    raise CorpusError(
        f"{wanted.repo} has no split '{wanted.splits[0]}' in config '{config}'; it has {listed(there, 12)}. "
        f"Type `source={wanted.repo}:{config}:{there[0]}`."
    )


def _read_tables(wanted: _Wanted, config: str, split: str, tables: Iterator[Table], version: str) -> HubText:
    """One after the other, so that no more files are fetched than are read."""
    first = next(tables)
    columns = first.columns()
    column = choose_column(columns, wanted.column, where=wanted.repo)
    rows = (row for table in chain([first], tables) for row in table.rows(column))
    kept, truncated = take(written(rows, wanted.chat, where=wanted.repo), max_chars=wanted.max_chars)
    spec = f"{wanted.repo}:{config}:{split}:{column}"
    return HubText(kept, spec, f"Hub {wanted.repo} {config} {split} {version}", truncated, columns[column])

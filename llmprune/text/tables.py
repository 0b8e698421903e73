"""Columns of strings in the files of data sets, as `datasets` finds and streams them."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import datasets

from llmprune.errors import CorpusError
from llmprune.text.columns import Holds, what_is
from llmprune.text.conversations import MESSAGE, Row, is_conversation

# What holds text and cannot run code; images, archives of samples and the like are left alone.
_MODULES = ("parquet", "json", "csv", "text", "arrow")
_STRINGS = ("string", "large_string", "string_view")
_LOOK = 100  # rows that tell the columns where nothing else does
_BATCH = 1_000  # rows of Parquet in memory at a time; `datasets` would take a row group, of any size


class Table:
    """Rows that `datasets` streams.

    Args:
        stream: called with the columns that are wanted (None: all); it may give more.
        name: of the file, for errors.
    """

    def __init__(self, stream: Callable[[list[str] | None], datasets.IterableDataset], name: str) -> None:
        self._stream, self._name = stream, name

    def columns(self) -> dict[str, Holds]:
        """Name -> what it holds."""
        dataset = self._stream(None)
        if dataset.features is not None:
            return {name: _what_holds(kind) for name, kind in dataset.features.items()}
        # Of CSV, of plain text and of one JSON list `datasets` does not read the types beforehand.
        columns: dict[str, Holds] = {}
        for row in islice(dataset, _LOOK):
            for name, value in row.items():
                if columns.get(name, Holds.OTHER) is Holds.OTHER:
                    columns[name] = what_is(value)
        return columns

    def rows(self, column: str) -> Iterator[Row]:
        """The strings or conversations of one column in order; rows without a value are left out.

        Raises:
            CorpusError: a row holds something else.
        """
        for number, row in enumerate(self._stream([column]).select_columns([column]), start=1):
            value = row[column]
            if isinstance(value, str) or is_conversation(value):
                yield value
            elif value is not None:
                kind = type(value).__name__
                raise CorpusError(f"{self._name}, row {number}: expected a string in '{column}', found one {kind}.")


def _what_holds(feature: Any) -> Holds:
    if getattr(feature, "dtype", None) in _STRINGS:
        return Holds.STRINGS
    message = getattr(feature, "feature", None)  # of a list
    return Holds.CONVERSATIONS if isinstance(message, dict) and message.keys() >= set(MESSAGE) else Holds.OTHER


def open_table(path: Path, module: str, **options: Any) -> Table:
    """Open a file on this machine with one of the readers of `datasets`.

    Args:
        path: of the file.
        module: the reader: ``parquet``, ``json``, ``csv``, ``text``, ``arrow``.
        options: of that reader, such as the separator of a CSV file.
    """

    def stream(columns: list[str] | None) -> datasets.IterableDataset:
        # Only Parquet can leave columns out, such as images, without reading them.
        dataset = opened(columns=columns, batch_size=_BATCH) if module == "parquet" else opened()
        if module == "json" and dataset.features is None:
            # Else one number among a list's strings has all of them written as JSON, between quotes.
            dataset = opened(on_mixed_types=None)
        return dataset

    def opened(**some: Any) -> datasets.IterableDataset:
        with _nothing_written() as unused:
            files = {"train": [glob.escape(str(path))]}
            builder = datasets.load_dataset_builder(module, data_files=files, cache_dir=unused, **options | some)
            return builder.as_streaming_dataset("train")

    return Table(stream, path.name)


class Repository:
    """One config of a data set, as `datasets` found it in the files of the data set itself.

    Args:
        builder: what `datasets` made of it.
    """

    def __init__(self, builder: datasets.DatasetBuilder) -> None:
        self._builder = builder
        self.config = str(builder.config.name)
        self.version = str(builder.hash)

    @property
    def splits(self) -> list[str]:
        """Their names."""
        return [str(name) for name in self._builder.config.data_files or self._builder.info.splits or ()]

    def tables(self, split: str, local: Callable[[str], Path]) -> Iterator[Table]:
        """The files of a split, one after the other, each opened when it is asked for.

        Args:
            split: one of `splits`.
            local: called with a file's path or address, as `datasets` writes it; gives where it is on this machine.
        """
        if self._builder.config.data_files is None:  # a copy in `datasets`' own cache, which somebody made before
            yield Table(lambda _: self._builder.as_streaming_dataset(split), self._builder.dataset_name)
            return
        usual = {known.name for known in fields(datasets.BuilderConfig)}
        own = {known.name for known in fields(self._builder.config)} - usual
        options = {name: getattr(self._builder.config, name) for name in own}
        for file in self._builder.config.data_files[split]:
            yield open_table(local(file), self._builder.name, **options)


def find_repository(source: str, config: str | None, *, revision: str | None) -> Repository:
    """Let `datasets` find configs, splits and files.

    Args:
        source: `owner/name`, or a folder.
        config: None for the default one.
        revision: the commit of `owner/name`.

    Raises:
        CorpusError: its files are of a kind that holds no text.
        Exception: what `datasets` raises, from YAML's errors to Arrow's; ValueError where there is no such config.
    """
    with _nothing_written() as unused:
        builder = datasets.load_dataset_builder(source, config, revision=revision, cache_dir=unused)
    if builder.name not in _MODULES:
        raise CorpusError(f"{source} is made of {builder.name} files; expected one of {', '.join(_MODULES)}.")
    return Repository(builder)


def config_names(source: str, *, revision: str | None) -> list[str]:
    """The configs that there are; see `find_repository`."""
    with _nothing_written():
        return [str(name) for name in datasets.get_dataset_config_names(source, revision=revision)]


def find_copy(repo: str, config: str | None) -> Repository:
    """What `datasets` has in its own cache, because somebody loaded it before (HF_HUB_OFFLINE must be set).

    Raises:
        Exception: what `datasets` raises where it has nothing.
    """
    return Repository(datasets.load_dataset_builder(repo, config))


@contextmanager
def _nothing_written() -> Iterator[str]:
    """A folder for the locks of `datasets`, whose own cache may not be writable; and no request that counts its use.

    It sends that request, and waits for it, even before it opens a file on this machine.
    """
    counts = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        with tempfile.TemporaryDirectory() as unused:
            yield unused
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counts

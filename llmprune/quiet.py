"""Other libraries: silenced while they work for us, and what they say where they fail."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType

from llmprune.errors import LlmpruneError

# Libraries written in Rust (safetensors, tokenizers) put the number of the system's error in their message only, and
# torch behind its words. An exception of Python's that safetensors raises may have none at all.
_ERRNO_IN_TEXT = re.compile(r"\(os error ([0-9]{1,4})\)")
_WORDS_AND_ERRNO = re.compile(r": ([^:]+) \(([0-9]{1,4})\)$")
_ERRNO_OF_KIND: Mapping[type[BaseException], int] = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES}
_STDERR = 2  # its descriptor
_LOGGERS = ("huggingface_hub", "datasets", "transformers", "lm_eval")


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, log lines, warnings and advice of other libraries: the console is ours.

    A library that is imported inside sets its own log level anew, so import it before.
    """
    with warnings.catch_warnings(), ExitStack() as undo:
        warnings.simplefilter("ignore")
        undo.callback(_set_levels, {name: logging.getLogger(name).level for name in _LOGGERS})
        _set_levels(dict.fromkeys(_LOGGERS, logging.CRITICAL))
        for disable, enable in _progress_bars():
            undo.callback(enable)
            disable()
        yield


@contextmanager
def panics_unseen() -> Iterator[None]:
    """Nothing on stderr, whoever writes there: Rust code that gives up says so by itself, and then raises."""
    if sys.stderr is None:  # closed: nobody sees anything, and the descriptor may be another file's
        yield
        return
    kept = os.dup(_STDERR)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), _STDERR)
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)


@contextmanager
def no_bars_in(module: ModuleType) -> Iterator[None]:
    """No progress bars of a ``module`` that draws them with ``tqdm`` and has no setting against it."""
    drawn = module.tqdm
    module.tqdm = partial(drawn, disable=True)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.tqdm = drawn  # type: ignore[attr-defined]


def first_sentence(error: BaseException) -> str:
    """The gist of another library's message: its first line, and the next where that one only announces it.

    Backticks become quotes: in our messages they mark an argument (``spelling``).
    """
    lines = [line.strip().replace("`", "'") for line in str(error).splitlines() if line.strip()]
    if isinstance(error, KeyError) or not lines:
        return " ".join([type(error).__name__, *lines[:1]])
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


@contextmanager
def failures_as(explain: Callable[[BaseException], Exception]) -> Iterator[None]:
    """Turn whatever another library raises inside, panics of Rust code included, into an error of ours.

    Args:
        explain: makes it of what was raised. An error of ours passes as it is, and so does an interruption.
    """
    try:
        yield
    except LlmpruneError:
        raise
    except Exception as error:
        raise explain(error) from error
    except BaseException as error:
        if not is_panic(error):
            raise
        raise explain(error) from error


def is_panic(error: BaseException) -> bool:
    """Whether Rust code gave up. What it raises is no ``Exception``, and its class cannot be imported."""
    return type(error).__name__ == "PanicException"


def system_errno(error: BaseException) -> int | None:
    """The number of the operating system's error that an exception tells of, by itself or in its text alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    if (match := _ERRNO_IN_TEXT.search(text)) is not None:
        return int(match[1])
    match = _WORDS_AND_ERRNO.search(text)
    if match is not None and os.strerror(int(match[2])) == match[1]:
        return int(match[2])
    return _ERRNO_OF_KIND.get(type(error))


def _set_levels(levels: Mapping[str, int]) -> None:
    """Set the levels of some loggers, and let the thousand loggers of these libraries forget once what they log."""
    for name, level in levels.items():
        logger = logging.getLogger(name)
        logger.level = level
    logger.setLevel(level)


def _progress_bars() -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """How bars that may be on now are turned off, and back, for each library that has a switch.

    The switch of transformers turns that of huggingface_hub too, so that one comes first here: it is undone last.
    """
    # By its full name, for the package gives the name `tqdm` to a class; and 0.3 s that a local text need not pay.
    hub = importlib.import_module("huggingface_hub.utils.tqdm")
    yield hub.disable_progress_bars, _restorer(hub)
    if (datasets := sys.modules.get("datasets")) is not None:
        yield datasets.disable_progress_bars, _restorer(datasets)
    if (own := sys.modules.get("transformers.utils.logging")) is not None and own.is_progress_bar_enabled():
        yield own.disable_progress_bar, own.enable_progress_bar


def _restorer(library: ModuleType) -> Callable[[], object]:
    """What sets the switch of ``library`` to where it is now."""
    off = library.are_progress_bars_disabled()
    switch: Callable[[], object] = library.disable_progress_bars if off else library.enable_progress_bars
    return switch

"""How any error becomes one sentence and an exit code."""

from __future__ import annotations

import errno
import os

from llmprune.errors import LlmpruneError, UserError
from llmprune.quiet import first_sentence, is_panic, system_errno

_OUT_OF_MEMORY = ("can't allocate memory", "cannot allocate memory", "out of memory", "not enough memory")


def known_error(error: BaseException) -> LlmpruneError | None:
    """What is to be said of an error; None: of no kind that an input or a machine leads to."""
    if isinstance(error, LlmpruneError):
        return error
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not loaded for this
        return LlmpruneError(
            "The device ran out of memory, and what ran there cannot run in parts; type `memory_budget=SIZE` with less "
            "than it has, fewer `samples` or a smaller `seq_len`, or `device=cpu`."
        )
    number = system_errno(error)
    if number == errno.ENOMEM or isinstance(error, MemoryError) or _is_out_of_memory(error):
        return LlmpruneError(
            "This machine has not enough memory for that. Type smaller numbers (samples, lengths, batches), or let it "
            "run on a machine with more; what was finished is kept."
        )
    if number is not None:
        return _of_the_system(error, number)
    if is_panic(error):
        return LlmpruneError(f"A library gave up on what it was given ({_gist(error)}); get intact files of the model.")
    if isinstance(error, RecursionError):
        return UserError("Something in the files that were given is nested too deep to be read; get intact copies.")
    return None


def _of_the_system(error: BaseException, number: int) -> LlmpruneError:
    name = getattr(error, "filename", None)
    if number == errno.ENAMETOOLONG:
        return UserError(f"The path '{name!s:.100}...' is longer than the file system allows; type a shorter one.")
    where = f" at '{os.fsdecode(name)}'" if isinstance(name, str | bytes) else ""
    return LlmpruneError(
        f"The operating system refused a file{where}: {os.strerror(number)}. What was finished is kept: see that the "
        "disk works and that the file may be used, then type the same command again."
    )


def _is_out_of_memory(error: BaseException) -> bool:
    if not isinstance(error, RuntimeError):  # torch's own is one
        return False
    return any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def _gist(error: BaseException) -> str:
    return f"{first_sentence(error):.200}"

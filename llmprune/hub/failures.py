"""What an error of the Hub's client means, read in one place; every room says what to do about it in its own words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from huggingface_hub import get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")


class Problem(Enum):
    """What is the matter."""

    NAME = auto()  # no name that the Hub allows
    REPOSITORY = auto()  # no such repository, or a private one
    REVISION = auto()
    FILE = auto()
    GATED = auto()
    TOKEN = auto()  # the Hub does not know the token of this machine
    RIGHTS = auto()  # the Hub knows it, and it may not do this
    STATUS = auto()  # another HTTP status
    OFFLINE = auto()  # HF_HUB_OFFLINE is set
    CONNECTION = auto()  # no answer
    OTHER = auto()


@dataclass(frozen=True)
class Failure:
    """An error of the Hub's client.

    Attributes:
        error: the one that tells what happened, whatever was wrapped around it.
        problem: what is the matter.
        status: the HTTP status; None where the Hub did not answer.
        said: the Hub's own words about it, or the client's, on one line, without any token; perhaps empty.
    """

    error: BaseException
    problem: Problem
    status: int | None
    said: str

    @property
    def why(self) -> str:
        """Why the Hub did not give what was asked for, to go on after "and": for a text or model that may be cached."""
        match self.problem:
            case Problem.OFFLINE:
                return "HF_HUB_OFFLINE is set"
            case Problem.TOKEN:
                return "the Hub does not accept the token of this machine (for another one, type: hf auth login)"
            case Problem.CONNECTION:
                return f"the Hub cannot be reached ({self.said:.200})"
            case Problem.OTHER:
                return f"the Hub's client failed ({self.said:.200})"
            case _:
                return f"the Hub answered with HTTP status {self.status}"


def read_failure(error: BaseException) -> Failure:
    """Read an error that huggingface_hub, or the HTTP library under it, raised."""
    root = _root(error)
    status = root.response.status_code if isinstance(root, HfHubHTTPError) else None
    said = (root.server_message or "") if isinstance(root, HfHubHTTPError) else str(root) or type(root).__name__
    return Failure(root, _problem(root, status), status, redact(" ".join(said.split())))


def redact(text: str) -> str:
    """``text`` without anything that is, or looks like, an access token of the Hub."""
    own = get_token()
    if own:
        text = text.replace(own, "***")
    return _TOKEN.sub("***", text)


def _problem(error: BaseException, status: int | None) -> Problem:
    kinds: tuple[tuple[type[BaseException], Problem], ...] = (
        (HFValidationError, Problem.NAME),
        (GatedRepoError, Problem.GATED),  # before RepositoryNotFoundError, of which it is one
        (RevisionNotFoundError, Problem.REVISION),
        (RemoteEntryNotFoundError, Problem.FILE),
        (OfflineModeIsEnabled, Problem.OFFLINE),
    )
    for kind, problem in kinds:
        if isinstance(error, kind):
            return problem
    # What the Hub hides is a 401 without a token; the client takes every 401 for "not found", at https alone.
    if status == 401:
        return Problem.TOKEN if get_token() else Problem.REPOSITORY
    if isinstance(error, RepositoryNotFoundError):
        return Problem.REPOSITORY
    if status is not None:
        return Problem.RIGHTS if status == 403 else Problem.STATUS
    # Which HTTP library says that nothing answered changes with the client; its word for it does not.
    broken = any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
    return Problem.CONNECTION if broken else Problem.OTHER


def _root(error: BaseException) -> BaseException:
    """The error that tells what happened: the client wraps it, for uploads and where its cache has no file either."""
    while error.__cause__ is not None and (type(error) is RuntimeError or isinstance(error, LocalEntryNotFoundError)):
        error = error.__cause__
    return error

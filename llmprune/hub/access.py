"""Sending to the Hub: its errors as sentences that never show a token, and calls that are repeated when it is busy."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from huggingface_hub import get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from llmprune.errors import AccessError, HubError, LlmpruneError, TargetError
from llmprune.hub.failures import Failure, Problem, read_failure, redact

T = TypeVar("T")

_SENDABLE = re.compile(r"[!-~]+")
_BUSY = {408, 429, 500, 502, 503, 504}
_TRIES = 5
_LOG_IN = "type `hf auth login`, or set HF_TOKEN"
_AGAIN = "What was sent is kept there: type the same command again to go on."


def check_repo_id(repo_id: str) -> None:
    """See that ``repo_id`` is a name that the Hub allows, with its owner.

    Raises:
        TargetError: it is not.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise TargetError(f"'{repo_id:.100}' is no name that the Hub allows; type owner/name.") from error
    if repo_id.count("/") != 1:
        raise TargetError(f"'{repo_id:.100}' names no owner; type owner/name, with your user or organisation name.")


def require_login() -> None:
    """See that there is a token to send.

    Raises:
        AccessError: nobody is logged in.
    """
    token = get_token()
    if token is None:
        raise AccessError(f"Nobody is logged in to the Hub here; {_LOG_IN} to a token that may write.")
    if _SENDABLE.fullmatch(token) is None:  # the HTTP library would show it in its complaint
        raise AccessError(f"The Hub token of this machine holds characters that no token has; {_LOG_IN} to another.")


@contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Turn whatever the Hub's client raises inside into an error that says what to do.

    Raises:
        AccessError: the token is missing, unknown or may not write there.
        HubError: the Hub cannot be reached, failed, or objects to something.
    """
    try:
        yield
    except LlmpruneError:
        raise
    except Exception as error:  # its own errors, the HTTP library's, and RuntimeError around either
        # A traceback would show the whole chain: where the token is in it, it ends here.
        told = _explain(repo_id, read_failure(error))
        raise told from (None if _shows_token(error) else error)


def patiently(call: Callable[[], T], *, say: Callable[[str], None] = lambda _: None) -> T:
    """Call, and again when the Hub is busy or the connection breaks, as long as it asks to wait or twice as long.

    Only for calls that may be repeated. The client itself repeats uploads and listings, but not these.
    """
    for attempt in range(1, _TRIES):
        try:
            return call()
        except HfHubHTTPError as error:
            if error.response.status_code not in _BUSY:
                raise
            asked = error.response.headers.get("Retry-After", "")
            wait = int(asked) if asked.isdigit() else 2 ** (attempt - 1)
            say(f"The Hub answered with HTTP status {error.response.status_code}; trying again in {wait} s.")
        except Exception as error:
            if read_failure(error).problem is not Problem.CONNECTION:
                raise
            wait = 2 ** (attempt - 1)
            say(f"The connection to the Hub broke; trying again in {wait} s.")
        time.sleep(wait)
    return call()


def _explain(repo_id: str, failure: Failure) -> LlmpruneError:
    if failure.problem is Problem.OFFLINE:
        return AccessError("HF_HUB_OFFLINE is set, so nothing can be sent; unset it and type the same command again.")
    if failure.status is not None:
        return _explain_answer(repo_id, failure.status, f" (it says: {failure.said:.200})" if failure.said else "")
    if failure.problem is Problem.CONNECTION:
        return HubError(f"The Hub cannot be reached ({failure.said:.200}). {_AGAIN}")
    if isinstance(failure.error, ValueError):
        return HubError(f"The Hub does not take this for {repo_id}: {failure.said:.400}")
    return HubError(f"Talking to the Hub failed ({type(failure.error).__name__}: {failure.said:.300}). {_AGAIN}")


def _explain_answer(repo_id: str, status: int, said: str) -> LlmpruneError:
    match status:
        case 401:
            return AccessError(f"The Hub does not accept the token of this machine{said}; {_LOG_IN} to another one.")
        case 403:
            return AccessError(
                f"The Hub does not let you write to {repo_id}{said}; take a repository of your own, or {_LOG_IN} to "
                "a token with the right to write there."
            )
        case 404:
            return AccessError(f"The Hub has no {repo_id} that you may see{said}; check the name, or {_LOG_IN}.")
        case 409 | 412:
            return HubError(f"{repo_id} was changed by somebody else meanwhile{said}; look at it and try again.")
        case 429:
            return HubError(f"The Hub asks for fewer requests{said}; wait some minutes. {_AGAIN}")
        case _:
            return HubError(f"The Hub answered with HTTP status {status}{said}. {_AGAIN}")


def _shows_token(error: BaseException | None) -> bool:
    while error is not None:
        if redact(str(error)) != str(error):
            return True
        error = error.__cause__ or error.__context__
    return False

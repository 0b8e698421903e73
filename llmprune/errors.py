"""Every error that llmprune raises on purpose.

LlmpruneError                 message for people; the command line exits with 1
├── UserError                 the input is wrong; exits with 2, nothing was written
│   ├── ModelError            no such model, not a causal LM, config and weights disagree
│   ├── CheckpointError       shards missing, truncated, or not what their index says
│   │   └── ChangedError      a checkpoint that is not what llmprune wrote
│   ├── CorpusError           a text source that cannot be had, or is too short
│   │   └── HubUnreachableError  neither the Hub nor its cache on this machine can give it
│   ├── TargetError           a removal target, sparsity, pattern or option out of range
│   ├── TaskError             a zero-shot task that cannot be had
│   ├── ArtifactError         an artifact of another model, data or version, or unreadable
│   ├── SharedFolderError     a process of several does not see the run directory
│   ├── MissingExtraError     a package that an extra brings, and that is not installed
│   ├── AccessError           the Hub does not know the user, or does not let them
│   └── OutputExistsError     the output path or the repository holds something else
├── HubError                  the Hub cannot be reached, or failed; what was sent is kept
├── GateError                 a benchmark beyond its --fail-if limits; exits with 3, all was written
├── JoinError                 the processes of one command do not find one another
├── LostRankError             another process of the same command has died
├── VerificationError         a written checkpoint does not compute what it should
└── NumericalError            NaN, infinity, or a factorisation that failed after damping
    └── UnseenInputsError     a layer whose inputs were all zero

A message is one sentence or two: what was found, what was expected, what to type next. What it quotes of files and of
the command line cannot command a terminal.
"""

from llmprune.escaping import for_terminal

_LONGEST = 1_500  # characters: a message is read by people, whatever is quoted in it


class LlmpruneError(Exception):
    """Base of every deliberate error. The message is written for the user, on one line."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        text = for_terminal(message)
        super().__init__(text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}")

    def __reduce__(self) -> tuple[object, ...]:
        return _made_again, (type(self), self.args, vars(self))


def _made_again(kind: type[LlmpruneError], args: tuple[object, ...], attributes: dict[str, object]) -> LlmpruneError:
    """An error as another process raised it, whatever its class is made from."""
    error = kind.__new__(kind)
    error.args = args
    vars(error).update(attributes)
    return error


class UserError(LlmpruneError):
    """The input is wrong. Nothing was written."""

    exit_code = 2


class ModelError(UserError):
    """The model cannot be found, is not a causal LM, or disagrees with its own weights."""


class CheckpointError(UserError):
    """Checkpoint files are missing, truncated, or not what their index says."""


class ChangedError(CheckpointError):
    """A checkpoint is not what llmprune wrote: it was damaged or changed since.

    Attributes:
        found: the sentence's first part, without what to do about it.
    """

    def __init__(self, found: str, *, advice: str) -> None:
        super().__init__(f"{found}; {advice}")
        self.found = found


class CorpusError(UserError):
    """A text source cannot be had, or is too short for what was asked."""


class HubUnreachableError(CorpusError):
    """Neither the Hub nor its cache on this machine can give a data set.

    Attributes:
        reason: why the Hub does not.
    """

    def __init__(self, repo: str, reason: str) -> None:
        super().__init__(
            f"{repo} is not in the Hub's cache here, and {reason}. Without the Hub, go on with `source=python-docs` or "
            "a local file (`source=FILE.txt`)."
        )
        self.reason = reason


class TargetError(UserError):
    """A removal target, sparsity, pattern or option is out of range."""


class TaskError(UserError):
    """A zero-shot task is unknown, or it cannot be had, or lm-eval is not installed."""


class ArtifactError(UserError):
    """An artifact belongs to another model, data or version, or cannot be read."""


class MissingExtraError(UserError):
    """What was asked for needs a package that is not installed. The message names the extra that brings it."""


class AccessError(UserError):
    """The Hub does not know the user, or does not let them do what they want."""


class OutputExistsError(UserError):
    """The output path, or the repository on the Hub, already holds something else."""


class SharedFolderError(UserError):
    """A process of several does not see the run directory."""


class HubError(LlmpruneError):
    """The Hub cannot be reached, or it failed. What was sent before is kept there."""


class GateError(LlmpruneError):
    """A benchmark is beyond its limits. Everything was measured and written."""

    exit_code = 3


class VerificationError(LlmpruneError):
    """A written checkpoint does not compute what the pruned model computes."""


class NumericalError(LlmpruneError):
    """NaN, infinity, or a factorisation that failed after damping."""


class JoinError(LlmpruneError):
    """The processes of one command do not find one another."""


class LostRankError(LlmpruneError):
    """Another process of the same command has died.

    Attributes:
        speaks: whether it is this process that tells so; of several that notice, one does.
    """

    def __init__(self, message: str, *, speaks: bool) -> None:
        super().__init__(message)
        self.speaks = speaks


class UnseenInputsError(NumericalError):
    """All inputs of a layer were zero, so that nothing tells what its weights do."""

"""What a benchmark is to measure, checked before any model is opened."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from llmprune import choices
from llmprune.choices import USUAL, Bos
from llmprune.errors import TargetError
from llmprune.stages.benchmark.gate import Condition, parse_condition
from llmprune.stages.common.checks import read_numbers, require_at_least, require_positions
from llmprune.text.windows import TokenWindows


@dataclass(frozen=True)
class BenchSettings:
    """What to measure, and how.

    Attributes:
        ppl: text sources for perplexity; empty: it is not measured.
        usual: tokens where ``ppl_seq_len`` or ``prefill`` is None, at most the models' positions.
        windows: texts for perplexity that are cut into windows already.
        ppl_seq_len: tokens in a perplexity window; None: ``usual``.
        max_windows: largest number of windows of each text; None: that of its published protocol, or all.
        bos: whether windows and the items of tasks start with BOS; ``auto``: as the tokenizer does.
        tasks: tasks by lm-eval's names.
        lm_eval_include: a folder with more task files.
        limit: how many items of each task, from the first on; None: all.
        num_fewshot: solved examples before each item; None: as many as the task itself asks for.
        agreement: prompts behind which a model's greedy choices are held against the dense model's; 0: none.
        draft: measure the model as a draft for the dense model.
        speed: measure speed.
        batch: batch sizes, each measured separately.
        gen: new tokens for each sequence.
        prompt: prompt tokens of each sequence.
        prefill: tokens of the single long prompt; None: ``usual``.
        repeats: least number of timed repeats.
        max_seconds: the time within which further repeats begin, until the ratio is known within 5%.
        fail_if: conditions on the metrics, such as ``ppl_ratio>1.5``.

    Raises:
        TargetError: a number out of range, nothing to measure, or an invalid condition.
    """

    ppl: tuple[str, ...] = ("auto",)
    usual: int = USUAL.tokens
    windows: tuple[TokenWindows, ...] = ()
    ppl_seq_len: int | None = None
    max_windows: int | None = USUAL.max_windows
    bos: Bos = Bos.AUTO
    tasks: tuple[str, ...] = ()
    lm_eval_include: Path | None = None
    limit: int | None = None
    num_fewshot: int | None = None
    agreement: int = USUAL.agreement
    draft: bool = False
    speed: bool = True
    batch: tuple[int, ...] = (USUAL.batch,)
    gen: int = USUAL.gen
    prompt: int = USUAL.prompt
    prefill: int | None = None
    repeats: int = USUAL.repeats
    max_seconds: float = USUAL.max_seconds
    fail_if: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_at_least(2, ppl_seq_len=self.ppl_seq_len)
        require_at_least(1, batch=min(self.batch), gen=self.gen, prompt=self.prompt, prefill=self.prefill)
        require_at_least(1, batch=max(self.batch), repeats=self.repeats, max_windows=self.max_windows, limit=self.limit)
        require_at_least(0, num_fewshot=self.num_fewshot, agreement=self.agreement)
        if self.draft and not self.agreement:
            raise TargetError("`draft` uses the prompts of `agreement`, and `agreement=0`; type a number of prompts.")
        if not 0 <= self.max_seconds < math.inf:
            raise TargetError(f"`max_seconds={self.max_seconds:g}` is out of range; type 0 or more.")
        self.require_something(compared=True)
        of_tasks = (self.lm_eval_include, self.limit, self.num_fewshot)
        if not self.tasks and any(one is not None for one in of_tasks):
            raise TargetError("`lm_eval_include`, `limit` and `num_fewshot` are about tasks; type `tasks` with them.")
        _ = self.conditions

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The parsed ``fail_if``."""
        return tuple(parse_condition(text) for text in self.fail_if)

    def lengths(self, positions: int) -> tuple[int, int]:
        """Tokens of a perplexity window and of the long prompt, for a model of ``positions``.

        Raises:
            TargetError: a length is beyond them.
        """
        usual = min(self.usual, positions)
        seq_len, prefill = self.ppl_seq_len or usual, self.prefill or usual
        if self.ppl:
            require_positions(positions, ppl_seq_len=seq_len)
        for windows in self.windows:
            require_positions(positions, seq_len=windows.seq_len)
        if self.speed:
            require_positions(positions, prefill=prefill)
            if self.prompt + self.gen > positions:
                raise TargetError(
                    f"`prompt={self.prompt}` and `gen={self.gen}` together are beyond the model's {positions} "
                    "positions; type smaller numbers."
                )
        return seq_len, prefill

    def require_something(self, *, compared: bool) -> None:
        """Refuse to measure nothing.

        Args:
            compared: whether a model is compared with another.

        Raises:
            TargetError: perplexity, tasks, speed and greedy agreement are all left out.
        """
        if not (self.ppl or self.windows or self.tasks or self.speed or (compared and self.agreement)):
            raise TargetError(
                "Without perplexity, tasks and speed there is nothing to measure; leave out `ppl=None` or "
                "`speed=False`."
            )

    def written(self, positions: int) -> tuple[int, int]:
        """Tokens of a prompt and of the text behind it, where the models write: at most all ``positions``."""
        prompt = min(self.prompt, max(1, positions // 2))
        return prompt, min(self.gen, positions - prompt)


QUICK = BenchSettings(
    usual=choices.QUICK.tokens,
    max_windows=choices.QUICK.max_windows,
    batch=(choices.QUICK.batch,),
    gen=choices.QUICK.gen,
    prompt=choices.QUICK.prompt,
    agreement=choices.QUICK.agreement,
    repeats=choices.QUICK.repeats,
    max_seconds=choices.QUICK.max_seconds,
)


def parse_batches(text: str) -> tuple[int, ...]:
    """Read ``--batch``: ``64``, or several sizes, ``1,8,64``.

    Raises:
        TargetError: it is neither, or it names a size twice.
    """
    try:
        sizes = read_numbers(text)
    except ValueError:
        raise TargetError(f"`batch='{text:.60}'` is not a size or a list of sizes; type 64 or 1,8,64.") from None
    if len(set(sizes)) < len(sizes):
        raise TargetError(f"`batch='{text:.60}'` names a size twice; type every size once.")
    return sizes


def parse_tasks(text: str | None) -> tuple[str, ...]:
    """Read ``--tasks``: names between commas.

    Raises:
        TargetError: there is an empty name.
    """
    if text is None:
        return ()
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if not all(names):
        raise TargetError(f"`tasks='{text:.60}'` has an empty name; type for example `tasks=piqa,winogrande`.")
    return names

"""Where a pruned model still chooses the tokens that its dense model chooses."""

from __future__ import annotations

from llmprune.artifacts.records.estimates import Estimate, Repeats
from llmprune.artifacts.records.provenance import Record
from llmprune.choices import TextKind


class AgreementProtocol(Record):
    """How greedy choices were compared: on what the dense model wrote greedily behind prompts.

    Attributes:
        source: the text whose windows begin with the prompts; ``self``: the dense model wrote them, by sampling.
        prompts: their number.
        prompt_tokens: tokens of each.
        new_tokens: tokens that the dense model wrote behind each.
    """

    source: str
    prompts: int
    prompt_tokens: int
    new_tokens: int

    def __str__(self) -> str:
        source = "sampled by itself" if self.source == TextKind.SELF else f"from {self.source}"
        return (
            f"{self.new_tokens} tokens that the dense model writes greedily behind each of {self.prompts} prompts of "
            f"{self.prompt_tokens} tokens, {source}"
        )


class AgreementResult(Record):
    """How often a model chooses what its dense model wrote, given all that stands before.

    Up to where the two part, this is what the model would write by itself.

    Attributes:
        share: share of the dense model's tokens that the model chooses too; the interval is over prompts.
        length: tokens until the first that it does not choose; of those that never part, all.
        shares: the share behind every prompt.
        lengths: the length behind every prompt.
    """

    share: Estimate
    length: Estimate
    shares: tuple[float, ...]
    lengths: tuple[int, ...]


class DraftResult(Record):
    """A model as a draft for its dense model, by transformers' assisted generation, one sequence at a time.

    Attributes:
        alone: tokens/s of the dense model, a value a prompt.
        assisted: tokens/s of the dense model with the draft, on the same prompts, in turn.
        speedup: the ratio of the two; the interval is over prompts.
        proposed: tokens that the draft proposed behind every prompt.
        accepted: how many of these the dense model took.
    """

    alone: Repeats
    assisted: Repeats
    speedup: Estimate
    proposed: tuple[int, ...]
    accepted: tuple[int, ...]

    @property
    def acceptance(self) -> float:
        """Share of the proposed tokens that were taken."""
        return sum(self.accepted) / max(1, sum(self.proposed))

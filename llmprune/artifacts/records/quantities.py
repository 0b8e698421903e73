"""What a benchmark measures: names, labels and units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["count", "perplexity", "accuracy", "repeated", "agreement"]


@dataclass(frozen=True)
class Quantity:
    """Something that a benchmark measures.

    Attributes:
        key: its name among the metrics.
        label: what people read, with the unit.
        meaning: one line for the documentation.
        kind: what a value is made from: a count, losses of windows, scores of items, repeats, or the pruned model's
            agreement with the dense one, which the dense one has none of.
        unit: what one of the label's unit is, in the unit that is stored.
        lower_is_better: whether of several texts, tasks or batch sizes the highest is the worst.
        compared: whether the two models' values are set against each other.
    """

    key: str
    label: str
    meaning: str
    kind: Kind = "count"
    unit: float = 1.0
    lower_is_better: bool = False
    compared: bool = True

    @property
    def comparison(self) -> str:
        """What the metric of the comparison is called: ``ppl_ratio``, ``acc_diff``."""
        return f"{self.key}_{'diff' if self.kind == 'accuracy' else 'ratio'}"


QUANTITIES: Mapping[str, Quantity] = {
    one.key: one
    for one in (
        Quantity("sparsity", "share of zeros", "share of the stored weights that are zero", compared=False),
        Quantity("blocks", "blocks", "transformer blocks"),
        Quantity("params", "parameters", "weights stored, tied ones once"),
        Quantity("effective_params", "not zero", "those that are not zero"),
        Quantity("bytes", "MB on disk", "of the weights on disk", unit=1e6),
        Quantity(
            "load_seconds",
            "s to load",
            "from files to a model in memory; one run, so no ratio",
            "repeated",
        ),
        Quantity("peak_bytes", "peak MB", "weights, and the most memory in use above them", unit=1e6),
        Quantity("ppl", "perplexity", "perplexity on a text", "perplexity", lower_is_better=True),
        Quantity(
            "acc",
            "accuracy",
            "accuracy on a task, and by any other name (`acc_norm`) that lm-eval gives a metric",
            "accuracy",
        ),
        Quantity(
            "agreement",
            "greedy agreement",
            "share of the tokens that the dense model writes which the pruned one chooses too",
            "agreement",
            compared=False,
        ),
        Quantity(
            "agreed_tokens",
            "tokens until they part",
            "tokens until the pruned model's own greedy text is another than the dense model's",
            "agreement",
            compared=False,
        ),
        Quantity(
            "draft_acceptance",
            "accepted as a draft",
            "share of the tokens that the pruned model proposes as a draft which the dense one takes",
            "agreement",
            compared=False,
        ),
        Quantity(
            "draft_speedup",
            "speed-up as a draft",
            "tokens/s of the dense model with the pruned one as its draft, over those without",
            "agreement",
            compared=False,
        ),
        Quantity(
            "prompt", "prompt tokens/s", "prompt tokens/s of the single long prompt, median of the repeats", "repeated"
        ),
        Quantity(
            "generation",
            "generated tokens/s",
            "generated tokens/s at a batch size, median of the repeats",
            "repeated",
        ),
        Quantity(
            "first_token",
            "first token, ms",
            "ms until every sequence of the batch has its first new token, median of the repeats",
            "repeated",
            lower_is_better=True,
        ),
        Quantity(
            "joules",
            "J/token",
            "joules a generated token at a batch size, where the device counts energy",
            "repeated",
            lower_is_better=True,
        ),
    )
}
"""Every quantity by its key, in the order in which it is shown."""


def accuracy_by(metric: str) -> Quantity:
    """Accuracy by one of lm-eval's metrics."""
    return Quantity(metric, metric, QUANTITIES["acc"].meaning, "accuracy")

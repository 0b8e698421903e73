"""``--fail-if "ppl_ratio>1.5"``: limits on the metrics, for pipelines that stop when a model is too bad."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from llmprune.artifacts.records.bench import BenchResult, GateCheck
from llmprune.artifacts.records.estimates import Estimate
from llmprune.errors import GateError, TargetError

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_CONDITION = re.compile(
    r"\s*(?P<metric>[^\s<>=]+)\s*(?P<operator>[<>]=?)\s*(?P<limit>[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)\s*", re.ASCII
)


@dataclass(frozen=True)
class Condition:
    """METRIC OPERATOR NUMBER. Where it holds, the benchmark fails.

    Attributes:
        text: as typed.
        metric: its name.
        operator: ``>``, ``>=``, ``<`` or ``<=``.
        limit: the number.
    """

    text: str
    metric: str
    operator: str
    limit: float

    def check(self, metrics: Mapping[str, Estimate]) -> GateCheck:
        """Compare the metric's value, not its interval, with the limit."""
        value = metrics[self.metric].value
        return GateCheck(condition=self.text, value=value, failed=_OPERATORS[self.operator](value, self.limit))


def parse_condition(text: str) -> Condition:
    """Read a condition.

    Raises:
        TargetError: it is not a condition.
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise TargetError(
            f"`fail_if='{text:.60}'` is not of the form METRIC>NUMBER (or <, >=, <=); "
            'type for example `fail_if="ppl_ratio>1.5"`.'
        )
    return Condition(text.strip(), found["metric"], found["operator"], float(found["limit"]))


def require_metrics(conditions: Iterable[Condition], names: Collection[str]) -> None:
    """Check, before anything is measured, that every condition names a metric that will be measured.

    Raises:
        TargetError: a condition does not; the message lists the metrics.
    """
    for condition in conditions:
        if condition.metric not in names:
            near = difflib.get_close_matches(condition.metric, names, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise TargetError(
                f"`fail_if`: this benchmark measures no '{condition.metric:.60}'.{hint} It measures {', '.join(names)}."
            )


def refuse_failed(result: BenchResult) -> None:
    """Raise an error if a condition holds, once everything is measured and written.

    Raises:
        GateError: at least one condition holds.
    """
    failed = [check for check in result.gate if check.failed]
    if failed:
        said = "; ".join(f"{check.condition} (measured: {check.value:.6g})" for check in failed)
        raise GateError(f"{result.model.name} is beyond its limits: {said}.")

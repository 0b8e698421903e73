"""The model card of a pruned checkpoint: a pure function of what is known about it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from huggingface_hub import ModelCard
from jinja2 import Environment, StrictUndefined, Template

from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.figures import Figure, Reading, only_choices
from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.artifacts.records.zeros_counted import SparsityReport
from llmprune.errors import ArtifactError
from llmprune.escaping import as_markdown_code, for_markdown, for_terminal
from llmprune.models.architecture import auto_class_name
from llmprune.publishing.citations import papers
from llmprune.publishing.description import counts_groups, describe_pattern, describe_step
from llmprune.publishing.history import base_name, base_on_hub, expert_counts, patterns, removed_blocks, steps
from llmprune.publishing.licence import Licence
from llmprune.publishing.measured import qualities, speeds
from llmprune.publishing.metadata import card_metadata
from llmprune.quiet import quiet

# The last line of a card has a hash of the rest, which tells whether somebody edited the card.
_SEAL = re.compile(r"<!-- written by llmprune; SHA-256 of all above: ([0-9a-f]{64}) -->\n\Z")


@dataclass(frozen=True)
class CardFacts:
    """What a card is made from.

    Attributes:
        record: the checkpoint's ``llmprune.json``.
        licence: the licence that the base model states; None: not known.
        results: benchmarks of this checkpoint.
        zeros: the zeros in its files; None: not counted.
        repo_id: the repository that it is published in; None: not published yet.
        base_model: the base model's Hub id, where the record does not have it.
        attachments: files published beside the weights.
    """

    record: PruningRecord
    licence: Licence | None = None
    results: tuple[BenchResult, ...] = ()
    zeros: SparsityReport | None = None
    repo_id: str | None = None
    base_model: str | None = None
    attachments: tuple[str, ...] = ()


def model_card(facts: CardFacts) -> str:
    """README.md of a checkpoint: metadata, what was done, what was measured, how to load it, what to expect."""
    record = facts.record
    base_model = facts.base_model or base_on_hub(record)
    measured = qualities(facts.results)
    name = facts.base_model.split("/")[1] if facts.base_model else base_name(record)
    title = _title(record, name)
    commands = [for_terminal(step.made_by) for step in steps(record)]
    text = _template().render(
        metadata=card_metadata(
            record,
            model_name=facts.repo_id.split("/")[1] if facts.repo_id else title,
            base_model=base_model,
            licence=facts.licence,
            measures=measured,
        ),
        title=for_markdown(title),
        record=record,
        described=[f"{mark}{describe_step(step)}" for mark, step in _numbered(steps(record))],
        commands=commands,
        fence=_fence(commands),
        first=steps(record)[0].source,
        base_name=name,
        base_model=base_model,
        removed=removed_blocks(record),
        experts=expert_counts(record),
        any_zeros=bool(patterns(record)),
        any_healed=any(step.healing for step in steps(record)),
        any_groups=any(map(counts_groups, patterns(record))),
        any_calibration=any(
            chosen.calibration for step in steps(record) for chosen in (step.removal, step.experts) if chosen
        ),
        zeros=facts.zeros,
        qualities=measured,
        speeds=speeds(facts.results),
        only_choices=only_choices(facts.results),
        compared_with=_compared_with(facts.results),
        repo_id=facts.repo_id,
        auto_class=auto_class_name(record.source.model_type),
        attachments=facts.attachments,
        licence=facts.licence,
        papers=papers(record),
    )
    return _sealed(re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n\n")


def is_as_written(card: str) -> bool:
    """Whether a card is as llmprune wrote it."""
    found = _SEAL.search(card)
    return found is not None and _digest(card[: found.start()]) == found[1]


def check_card(card: str) -> None:
    """Check, offline, that the Hub's library can read the card's metadata, results included.

    Raises:
        ArtifactError: there are no metadata, or they are broken; the message says what is wrong.
    """
    try:
        with quiet():  # that a card has no metadata is said below
            kept = ModelCard(card).data.to_yaml().strip()
    except Exception as error:  # whatever a broken YAML may lead to
        reason = " ".join(str(error).split())
        raise ArtifactError(f"The metadata of README.md are broken: {reason:.300}") from error
    if kept in {"", "{}"}:
        raise ArtifactError("README.md has no metadata; delete it, and llmprune writes a new one when it pushes.")


def _template() -> Template:
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # noqa: S701 (Markdown)
    environment.globals |= {"percent": _percent, "value": _value, "change": _change}
    environment.filters |= {"text": for_markdown, "code": as_markdown_code}
    return environment.from_string(files("llmprune.publishing").joinpath("card.md.jinja").read_text("utf-8"))


def _numbered(chain: tuple[PruningRecord, ...]) -> list[tuple[str, PruningRecord]]:
    """Steps with their numbers, where there are several."""
    return [(f"{number}. " if len(chain) > 1 else "", step) for number, step in enumerate(chain, start=1)]


def _title(record: PruningRecord, base: str) -> str:
    """What the model is, in a few words."""
    first = steps(record)[0].source
    removed = len(removed_blocks(record))
    what = [f"{removed} of {first.num_blocks} blocks removed"] if removed else []
    if (experts := expert_counts(record)) is not None:
        what.append(f"{experts[0] - experts[1]} of {experts[0]} experts removed")
    what += [f"weights pruned to {describe_pattern(pattern)}" for pattern in patterns(record)]
    what += ["healed"] if any(step.healing for step in steps(record)) else []
    return f"{base}, {' and '.join(what)}"


def _compared_with(results: tuple[BenchResult, ...]) -> str:
    names = {result.baseline.name.rsplit("/", 1)[-1] for result in results if result.baseline}
    return for_markdown(names.pop()) if len(names) == 1 else "base"


def _percent(share: float) -> str:
    return f"{share:.2%}"


def _value(one: Reading | None) -> str:
    """One model's value; of an accuracy without its interval, for the difference has a standard error."""
    if one is None:
        return ""
    if one.interval is None or one.quantity.kind == "accuracy":
        return f"{_short(one.shown)} (one run)" if one.is_one_run else _short(one.shown)
    return f"{_short(one.shown)} ({_short(one.interval[0])} to {_short(one.interval[1])})"


def _change(figure: Figure) -> str:
    """The pruned model against the base, and how well that is known; nothing where there was none to compare with."""
    if figure.against is None:
        return ""
    if figure.quantity.kind == "accuracy":
        return f"{figure.against.value:+.3f} ± {figure.stderr or 0:.3f}"
    if not figure.is_clear:
        return "unclear"
    ends = figure.against.interval
    return f"x {figure.against.value:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")


def _short(value: float) -> str:
    """At most four significant digits, with commas between thousands."""
    digits = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1 if abs(value) < 1000 else 0
    return f"{value:,.{digits}f}"


def _fence(lines: Sequence[str]) -> str:
    """What stands before and behind lines of code: more backticks than any of them has."""
    longest = max((len(marks) for line in lines for marks in re.findall("`+", line)), default=0)
    return "`" * max(3, longest + 1)


def _sealed(text: str) -> str:
    return f"{text}<!-- written by llmprune; SHA-256 of all above: {_digest(text)} -->\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

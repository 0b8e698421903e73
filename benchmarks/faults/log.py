"""What was tried, a line of JSON each, so that an interrupted trial goes on; and its summary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path


class Verdict(StrEnum):
    """How a trial ended. All but the last are as they should be."""

    SURVIVED = "survived"  # the same command went on and ended with the same bytes
    HARMLESS = "harmless"  # nothing was to be seen of it
    DETECTED = "detected"  # one sentence, exit code 1 or 2
    REFUSED = "refused"  # the same command refuses to go on, in one sentence, and nothing of the user's is lost
    FAULT = "fault"


@dataclass(frozen=True)
class Finding:
    """How one trial ended, and why that is a fault or not."""

    verdict: Verdict
    why: str = ""


@dataclass(frozen=True)
class Trial:
    """One thing to try.

    Attributes:
        kind: kill, failure, corruption or input.
        name: which one; unique, and the same in every run with the same seed.
        command: the command that meets it.
        judge: tries it.
        number: how many it counts for, as so many fuzzed inputs.
    """

    kind: str
    name: str
    command: str
    judge: Callable[[], Finding]
    number: int = 1


@dataclass(frozen=True)
class Entry:
    """A line of the log. ``number`` counts what was tried together, as with fuzzed inputs."""

    kind: str
    name: str
    command: str
    verdict: str
    why: str = ""
    number: int = 1


def read_log(path: Path) -> list[Entry]:
    """The entries of a log; a last line that is not whole is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [Entry(**json.loads(line)) for line in lines]


def try_all(trials: Iterable[Trial], path: Path) -> Iterator[Entry]:
    """Try what the log does not have, and note it there; yields every new entry."""
    done = {entry.name for entry in read_log(path)}
    if path.exists():
        whole = path.read_bytes()
        path.write_bytes(whole[: whole.rfind(b"\n") + 1])
    with path.open("a", encoding="utf-8") as file:
        for trial in trials:
            if trial.name in done:
                continue
            found = trial.judge()
            entry = Entry(trial.kind, trial.name, trial.command, found.verdict, found.why, trial.number)
            file.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")
            file.flush()
            yield entry


def table(entries: Sequence[Entry]) -> str:
    """Markdown: for every kind of trial and command, how many ended how."""
    verdicts = [verdict.value for verdict in Verdict]
    lines = [
        f"| what | command | tried | {' | '.join(verdicts)} |",
        f"|---|---|---:|{'---:|' * len(verdicts)}",
    ]
    kinds = list(dict.fromkeys(entry.kind for entry in entries))
    for kind in kinds:
        of_kind = [entry for entry in entries if entry.kind == kind]
        commands = sorted({entry.command for entry in of_kind})
        rows = [[one for one in of_kind if one.command == command] for command in commands]
        lines += [_row(kind, command, row, verdicts) for command, row in zip(commands, rows, strict=True)]
        lines.append(_row(f"**{kind}**", "all", of_kind, verdicts))
    return "\n".join(lines)


def _row(kind: str, command: str, entries: Sequence[Entry], verdicts: Sequence[str]) -> str:
    counts: Counter[str] = Counter()
    for entry in entries:
        counts[entry.verdict] += entry.number
    return f"| {kind} | {command} | {counts.total():,} | " + " | ".join(f"{counts[one]:,}" for one in verdicts) + " |"


def faults(entries: Sequence[Entry]) -> str:
    """Every fault, and every refusal to go on, by what is said of it: how often, and the first one."""
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        if entry.verdict in {Verdict.FAULT, Verdict.REFUSED}:
            groups.setdefault((entry.kind, entry.verdict, entry.why), []).append(entry)
    lines = [
        f"{kind}, {verdict}, {len(group)} times, first at {group[0].name!r}: {why}"
        for (kind, verdict, why), group in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]
    return "\n".join(lines)

"""Makes docs/bench-schema.md from the records and their docstrings: python docs/bench_schema.py > docs/bench-schema.md.

A test compares the page with what this gives, so the two cannot drift apart.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator

from pydantic import BaseModel

from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.quantities import QUANTITIES

HEAD = f"""# The JSON of `llmprune bench`

Made by `python docs/bench_schema.py`; do not edit. This is schema {BenchResult.SCHEMA} of `{BenchResult.KIND}`: a file
under `bench/` of the run directory, and what `llmprune bench --json` prints. The schema number changes whenever a
reader of the old files would misread the new ones; llmprune refuses files of another number. In Python,
`llmprune.Run(path).benchmarks` reads and checks the files of a run, and
`BenchResult.model_json_schema()` is the same as below as JSON Schema.
"""

METRICS = """## Metrics

The names under `metrics`, which `--fail-if` takes. A figure of one text, task or batch size is called FIGURE.WHICH
(`ppl.wikitext2`, `acc.piqa`, `generation.64`); FIGURE alone is the worst of them. Against a baseline, FIGURE_ratio is
the model's over the baseline's (`ppl_ratio`, `ppl_ratio.wikitext2`, `prompt_ratio`), and for accuracies FIGURE_diff the
model's less the baseline's (`acc_diff.piqa`). TASK_drop is the accuracy that a task lost (`gsm8k_drop`), by
the metric that lost most. Conditions compare the value, not its interval.

| figure | what it is |
|---|---|
"""


def page() -> str:
    """The whole page."""
    records = list(dict.fromkeys(_records(BenchResult)))
    figures = "".join(f"| `{one.key}` | {one.meaning} |\n" for one in QUANTITIES.values())
    return "\n".join([HEAD, *map(_section, records), METRICS + figures])


def _records(record: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A record and all that are in it, each before its parts."""
    yield record
    for field in record.model_fields.values():
        for part in _parts(field.annotation):
            yield from _records(part)


def _parts(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _parts(inner)


def _section(record: type[BaseModel]) -> str:
    text = inspect.getdoc(record) or ""
    text = text.replace("``", "`").replace("None", "null")
    meanings = dict(re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", text, re.MULTILINE))
    rows = [
        f"| `{name}` | {_spelled(field.annotation)} | {' '.join(meanings[name].split())} |"
        for name, field in record.model_fields.items()
    ]
    return (
        f"## {record.__name__}\n\n{text.splitlines()[0]}\n\n| field | type | |\n|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def _spelled(annotation: object) -> str:
    """A type as the JSON has it: a tuple of any length is a list, None is null."""
    spelled = (
        annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    )
    for pattern, word in (
        (r"typing\.|llmprune\.[a-z_.]+\.|pathlib\.", ""),
        (r"Literal\['([^']+)'\]", r'"\1"'),
        (r"tuple\[([^\[\]]+), \.\.\.\]", r"list of \1"),
        (r"tuple\[([^\[\]]+)\]", r"list [\1]"),
        (r"dict\[str, (\w+)\]", r"object of \1"),
        (r"NoneType|\bNone\b", "null"),
        (r" \| ", " or "),
    ):
        spelled = re.sub(pattern, word, spelled)
    return spelled


if __name__ == "__main__":
    sys.stdout.write(page())

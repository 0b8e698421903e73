"""The model card of a pruned checkpoint: a pure function of its record."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from llmprune.artifacts.pruning_record import PruningRecord


def model_card(record: PruningRecord) -> str:
    """README.md of a checkpoint: YAML metadata, what was removed and why, how to load it, what to expect."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # noqa: S701 (Markdown)
    template = environment.from_string(files("llmprune.hub").joinpath("card.md.jinja").read_text("utf-8"))
    name = record.source.name
    return template.render(
        record=record,
        base_name=name.split("@")[0].rsplit("/", 1)[-1],
        hub_id=name.split("@")[0] if "/" in name else None,  # a local model's name is never a path
        removed=sorted(record.removal.removed) if record.removal else [],
    )

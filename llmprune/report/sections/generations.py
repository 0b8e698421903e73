"""What the models write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmprune.report.parts import Generation, Generations, Missing, Section
from llmprune.report.wording import label_of

if TYPE_CHECKING:
    from llmprune.report.contents import RunContents


def generations_section(contents: RunContents) -> Section:
    """Continuations of the same prompts, side by side."""
    kept, title = contents.generations, "What they write"
    if kept is None:
        missing = Missing(
            "No model was asked to write anything yet.", 'llmprune report --prompt "The most important thing about"'
        )
        return Section("samples", title, missing=(missing,))
    penalty = "" if kept.repetition_penalty == 1 else f", repetition penalty {kept.repetition_penalty:g}"
    lead = (
        f"The likeliest next token each time (greedy), at most {kept.new_tokens} tokens{penalty}, {kept.dtype}. "
        "A few sentences show what kind of mistakes a model makes; they measure nothing."
    )
    prompts = tuple(
        Generations(
            prompt,
            tuple(
                Generation(label_of(contents, one.name), contents.role_of(one.name), one.texts[index])
                for one in kept.models
            ),
        )
        for index, prompt in enumerate(kept.prompts)
    )
    return Section("samples", title, (lead,), generations=prompts)

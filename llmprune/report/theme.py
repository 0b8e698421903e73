"""Colours by what they stand for. One palette for the page and all charts, told apart by colour-blind eyes, too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

HEAT_STEPS = 8
Role = Literal["dense", "blocks", "weights", "both"]
"""What was done to a model: nothing, blocks removed, weights pruned, or both; also the name of its colour."""


@dataclass(frozen=True)
class Theme:
    """A colour for every role, as ``#rrggbb``.

    Attributes:
        ink: text.
        muted: axes, ticks and remarks.
        line: rules and grids.
        page: behind everything.
        card: behind charts and tables.
        dense: the dense model.
        blocks: models without some of their blocks, and these blocks.
        weights: models with zeros in their weights.
        both: models with both.
        heat: of heat maps, from little to much; HEAT_STEPS of them.
    """

    ink: str
    muted: str
    line: str
    page: str
    card: str
    dense: str
    blocks: str
    weights: str
    both: str
    heat: tuple[str, ...]

    def roles(self) -> Iterator[tuple[str, str]]:
        """Every role's CSS name and its colour: ``ink``, ..., ``heat-0``, ``heat-1``, ..."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str):
                yield field.name, value
            else:
                yield from ((f"{field.name}-{step}", colour) for step, colour in enumerate(value))


LIGHT = Theme(
    ink="#16191d",
    muted="#57606b",
    line="#dde1e6",
    page="#f6f7f9",
    card="#ffffff",
    dense="#707985",
    blocks="#0069a8",
    weights="#b8480a",
    both="#00735a",
    heat=("#dce8f3", "#c5daed", "#a9c9e6", "#86b5dc", "#5b9acb", "#377db5", "#1d6099", "#0b4474"),
)
DARK = Theme(
    ink="#e9ecef",
    muted="#a5aeb9",
    line="#343b44",
    page="#101317",
    card="#191d22",
    dense="#9aa4b0",
    blocks="#5cb8ee",
    weights="#f2a04b",
    both="#42cfa5",
    heat=("#2b3b4b", "#2b4761", "#2a5a80", "#2f6e9f", "#4088bd", "#60a4d6", "#8bc2ea", "#c2e1f8"),
)


def _sentinels() -> Theme:
    """Colours that no drawing would use otherwise, so that they can be replaced in its text."""
    names = [field.name for field in fields(Theme) if field.name != "heat"]
    plain = {name: f"#0101{number:02x}" for number, name in enumerate(names, start=0xA0)}
    return Theme(**plain, heat=tuple(f"#0102{step:02x}" for step in range(HEAT_STEPS)))


SENTINELS = _sentinels()


def style_sheet() -> str:
    """CSS that gives every role a variable, for light and for dark screens."""
    light, dark = ("".join(f"--{role}:{colour};" for role, colour in theme.roles()) for theme in (LIGHT, DARK))
    return (
        f":root{{color-scheme:light dark;{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
        f"@media print{{:root{{{light}}}}}\n"
    )


def with_variables(text: str) -> str:
    """An SVG that was drawn in ``SENTINELS``, its colours now CSS variables."""
    for role, colour in SENTINELS.roles():
        text = text.replace(colour, f"var(--{role})")
    return text

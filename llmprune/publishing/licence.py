"""The licence of a model, as its card or config states it. It is never guessed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CardData, HfApi, ModelCard

from llmprune.artifacts.files.reading import parse_json, read_small
from llmprune.quiet import quiet


@dataclass(frozen=True)
class Licence:
    """A licence as in the metadata of a card.

    Attributes:
        name: the Hub's name for it, such as ``apache-2.0``, or ``other``.
        own_name: the name of an ``other`` licence.
        link: the address of an ``other`` licence.
    """

    name: str
    own_name: str | None = None
    link: str | None = None


def licence_of(directory: Path) -> Licence | None:
    """The licence that a model's ``README.md`` states, else its ``config.json``; None where neither does."""
    return _of_card(directory / "README.md") or _of_config(directory / "config.json")


def licence_on_hub(repo_id: str) -> Licence | None:
    """The licence that a Hub model's card states; None where it states none, or the Hub does not say."""
    try:
        with quiet():
            data = HfApi().model_info(repo_id, expand=["cardData"]).card_data
    except Exception:  # gated, private, gone, no network: a card without a licence says so
        return None
    return _of_data(data) if data is not None else None


def _of_card(path: Path) -> Licence | None:
    try:
        with quiet():
            data = ModelCard(read_small(path).decode(), ignore_metadata_errors=True).data
    except Exception:  # a card that is missing, or whose metadata is broken in any way, states nothing
        return None
    return _of_data(data)


def _of_data(data: CardData) -> Licence | None:
    name, own_name, link = (_text(data.get(key)) for key in ("license", "license_name", "license_link"))
    return Licence(name, own_name, link) if name else None


def _of_config(path: Path) -> Licence | None:
    try:
        content = parse_json(read_small(path))
    except (OSError, ValueError):
        return None
    name = _text(content.get("license")) if isinstance(content, dict) else None
    return Licence(name) if name else None


def _text(value: object) -> str | None:
    """A metadata value as one line. Of a list, which old cards have, the first entry."""
    if isinstance(value, list) and value:
        value = value[0]
    return " ".join(value.split()) or None if isinstance(value, str) else None

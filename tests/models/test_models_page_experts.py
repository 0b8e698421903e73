"""docs/models.md says of each type of mixture what its experts allow; a few of them are tried here."""

import re
from pathlib import Path

import pytest

from tests.zoo import CAUSAL_LM_TYPES

ROOT = Path(__file__).parents[2]
# Stored one by one, as one tensor with an activation of its own, not to be removed, not to be told apart.
TRIED = ("qwen3_moe", "gpt_oss", "inkling_text", "llama4_text")


def told() -> dict[str, str]:
    """What the page says of each type."""
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    section = page.partition("## Mixtures of experts\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([a-zA-Z, ]+) \| (`.*`) \|$", section, flags=re.MULTILINE)
    return {name: what for what, names in rows for name in re.findall(r"`(\w+)`", names)}


def test_every_type_is_one_of_transformers():
    assert len(told()) > 50
    assert set(told()) <= set(CAUSAL_LM_TYPES)


@pytest.mark.parametrize("model_type", TRIED)
def test_the_page_tells_what_the_commands_do(model_type, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import families

    tried = families.experts_alone(model_type, tmp_path, num_hidden_layers=2)
    assert tried.partition(":")[0] == told()[model_type]

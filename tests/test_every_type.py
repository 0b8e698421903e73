"""Every causal-LM type does what docs/models.md says of it, and none ends in an unexpected error."""

import json
import re
from pathlib import Path

import pytest
import transformers

from benchmarks.families import Tried, page, try_type
from tests.zoo import CAUSAL_LM_TYPES

ROOT = Path(__file__).parents[1]
KNOWN = json.loads((ROOT / "benchmarks" / "families.json").read_text(encoding="utf-8"))
TRIED = [Tried(**{**one, "cuts": tuple(one["cuts"])}) for one in KNOWN["types"]]
# Whatever is refused or works in part, and some of the others: benchmarks/families.py takes minutes for all.
PLAIN = [one for one in TRIED if one.works]
IN_PART = [one for one in TRIED if not one.works and one.reason is None]
WALKED = [*(one for one in TRIED if one.reason is not None), *IN_PART[::2], *PLAIN[::80]]


def test_the_page_of_models_is_up_to_date():
    assert (ROOT / "docs" / "models.md").read_text(encoding="utf-8") == page(TRIED, KNOWN["versions"])


def test_every_type_of_the_installed_transformers_was_tried():
    assert KNOWN["versions"] == f"transformers {transformers.__version__}"
    assert [one.model_type for one in TRIED] == sorted(CAUSAL_LM_TYPES)


def test_most_work_and_none_ends_in_an_unexpected_error():
    assert len(PLAIN) >= 150
    assert not [one.model_type for one in TRIED if "nexpected" in f"{one.reason}{one.cuts}{one.zeros}"]


def said(one: Tried) -> list[str]:
    """Everything in words, without how large a difference was: that is the machine's."""
    return [re.sub(r"\(by [^)]*\)", "", text) for text in (*one.cuts, one.zeros, one.experts, str(one.reason))]


@pytest.mark.parametrize("tried", WALKED, ids=lambda one: one.model_type)
def test_a_type_does_what_the_page_says(tried, tmp_path):
    found = try_type(tried.model_type, tmp_path)
    assert said(found) == said(tried)
    assert found.works == tried.works

"""Refusals name the settings that differ."""

import pytest

from llmprune.artifacts.records.differences import differences
from llmprune.artifacts.records.provenance import ModelIdentity

MODEL = {"fingerprint": "0" * 64, "model_type": "llama", "num_blocks": 4, "num_parameters": 9}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, None),
        ({"scope": "all"}, "scope cut, not all"),
        ({"dtype": "bfloat16", "windows": 9}, "dtype float32, not bfloat16; windows 8, not 9"),
        ({"ridges": (0.5,)}, "ridges 0.01, 0.1, not 0.5"),
        ({"origins": ()}, "origins 0, 1, 3, not none"),
        ({"origins": tuple(range(40))}, "origins 0, 1, 3, not 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,..."),
        ({"windows_fingerprint": "b" * 64}, "windows fingerprint aaaaaaaa..., not bbbbbbbb..."),
        (
            {"scope": "all", "dtype": "x", "windows": 9, "held_back": 3, "seq_len": 3, "corpus": "c"},
            "scope cut, not all; dtype float32, not x; windows 8, not 9; held back 2, not 3; 2 more",
        ),
    ],
)
def test_settings_that_differ_are_named(asked, words):
    found = {
        "scope": "cut", "origins": (0, 1, 3), "ridges": (0.01, 0.1), "dtype": "float32", "windows": 8, "held_back": 2,
        "seq_len": 64, "corpus": "text", "windows_fingerprint": "a" * 64,
    }  # fmt: skip
    assert differences(found, found | asked) == words


def test_what_is_a_record_itself_is_another_one():
    mine, yours = (ModelIdentity(name=name, **MODEL) for name in ("mine", "yours"))
    assert differences(mine, yours) == "name mine, not yours"
    assert differences({"teacher": mine, "sources": ()}, {"teacher": yours, "sources": (yours,)}) == (
        "other teacher; other sources"
    )

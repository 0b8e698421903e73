"""heal on the command line: what it says, and how it refuses what is no pruned checkpoint of the run's model."""

import json

import pytest

from tests.cli.world import refused
from tests.edits import content_of
from tests.tiny import save_tiny_llama


@pytest.fixture
def smaller(world, llmprune):
    """A checkpoint of the run's model without two blocks."""
    out = world.folder / "smaller"
    assert llmprune("remove-blocks", "--blocks", "2,3", "--run", world.run, "--out", out, "-q").exit_code == 0
    return out


def test_it_tells_what_it_did(world, smaller, llmprune):
    result = llmprune("heal", smaller, "--run", world.run)
    assert result.exit_code == 0, result.stderr
    assert "of 6 layers that were solved, in" in result.stdout
    assert "Loss on the 3 windows held back: " in result.stdout
    assert "Solved on 21 x 32 tokens of " in result.stdout
    assert "Verified in float32: logits differ by at most" in result.stdout
    assert f"Written to {world.run / 'smaller-healed-all'}" in result.stdout
    assert "block   1: " in result.stderr and "held-back loss" in result.stderr


def test_json_is_the_record_and_where_it_lies(world, smaller, llmprune):
    out = world.folder / "healed"
    words = ["heal", smaller, "--scope", "cut", "--run", world.run, "--out", out, "--no-verify", "--json"]
    data = json.loads(llmprune(*words).stdout)
    assert (data.pop("directory"), data.pop("pushed")) == (str(out), None)
    assert data == content_of(out / "llmprune.json")
    assert [block["block"] for block in data["healing"]["blocks"]] == [1]
    assert "Not verified (--no-verify)." in llmprune(*words[:-1]).stdout


def test_blocks_are_removed_and_healed_at_once(world, llmprune):
    result = llmprune("remove-blocks", "--blocks", "2,3", "--heal", "cut", "--run", world.run)
    assert result.exit_code == 0, result.stderr
    assert "Removed blocks 2, 3: 6 -> 4 blocks." in result.stdout
    assert "of 2 layers that were solved" in result.stdout
    assert f"Written to {world.run / 'tiny-4of6-2-3-heal-cut'}" in result.stdout


def _other(world):
    return save_tiny_llama(world.folder / "other", seed=1)


BROKEN = {
    "no checkpoint": (lambda world, smaller: world.folder / "nowhere", "There is no model at"),
    "a checkpoint without a record": (lambda world, smaller: _other(world), "llmprune.json is missing"),
    "the model itself": (lambda world, smaller: world.intact, "llmprune.json is missing"),
    "a record of another model": (
        lambda world, smaller: _of_another(world, smaller),
        "was made from another, not from",
    ),
}


def _of_another(world, smaller):
    record = json.loads((smaller / "llmprune.json").read_text())
    source = {**record["source"], "name": "another", "fingerprint": "0" * 64}
    world.edit_json(smaller / "llmprune.json", source=source)
    return smaller


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_fit_is_one_sentence_and_leaves_nothing(case, world, smaller, llmprune):
    make, words = BROKEN[case]
    given = make(world, smaller)
    complaint = refused(llmprune, world.folder, ["heal", given, "--run", world.run, "--out", world.folder / "new"])
    assert words in complaint


def test_one_window_is_refused(world, smaller, llmprune):
    complaint = refused(llmprune, world.folder, ["heal", smaller, "--run", world.run, "--samples", 1])
    assert "--samples 1 is out of range; type 2 or more" in complaint

"""prune on the command line: one command, what it says, and how it refuses."""

import json

import pytest

import llmprune as package
from tests.cli.world import refused


@pytest.fixture
def words(world):
    return ["prune", "--ppl", world.text, "--ppl-seq-len", 64, "--max-windows", 2, "--no-verify", "--run", world.run]


def test_it_tells_what_it_chose_and_what_stands_beside_it(world, words, llmprune):
    result = llmprune(*words, "--size", "75%")
    assert result.exit_code == 0, result.stderr
    for said in ("dense", "1 block removed", "2 blocks removed (chosen)", "3 blocks removed", "Not verified"):
        assert said in result.stdout
    assert "Steps: 1 round of search, without healing; remove, heal and measure this many" in result.stderr
    again = json.loads(llmprune(*words, "--size", "75%", "--json").stdout)
    assert again["chosen"] == "2 blocks removed"
    pruned = package.prune(
        world.intact, size="75%", ppl=str(world.text), ppl_seq_len=64, max_windows=2, verify=False, run=world.run
    )
    assert str(pruned.directory) == again["directory"]
    assert "2 blocks removed (chosen)" in repr(pruned)
    assert repr(pruned).splitlines()[0] == again["directory"]


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ([], "Give one budget: a size such as --size 70%"),
        (["--size", "70%", "--speed-up", "1.2"], "Give one budget"),
        (["--speed-up", "0.5"], "--speed-up 0.5 is out of range"),
        (["--size", "1%"], "the most that can go, leaves"),
        (["--size", "many"], "is no number of weights"),
    ],
)
def test_budgets_that_cannot_be_are_refused(budget, said, world, words, llmprune):
    assert said in refused(llmprune, world.folder, [*words, *budget])


def test_a_place_is_needed_from_python(world):
    with pytest.raises(package.errors.TargetError, match="Where is the checkpoint to be"):
        package.prune(world.intact, size="75%")

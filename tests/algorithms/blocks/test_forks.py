"""Where tails fork: each passes by its own candidate, and begins with the block before it where that is healed."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from llmprune.algorithms.blocks.evaluator import WindowLosses
from llmprune.algorithms.blocks.forks import walk
from llmprune.algorithms.blocks.search import forked_forwards, forked_losses


class Diary:
    """States note what ran on them: 1 for a block as it is, 2 for a block as it is healed."""

    def __init__(self, depth):
        self.num_blocks, self.ran = depth, 0

    def entering(self, _):
        return torch.zeros(1, 1, self.num_blocks)

    def apply_block(self, block, states, _, *, healed=()):
        for how, some in [(1, states), *((2, tail.states) for tail in healed)]:
            assert not some[..., block:].any(), "blocks run in order, and none runs twice on a state"
            some[..., block] = how
            self.ran += len(some)
        assert all(tail.candidate > block for tail in healed)

    def losses(self, states, _):
        return WindowLosses(states[:, 0, 0], 1)


@given(st.integers(2, 9), st.data())
def test_each_tail_passes_by_its_candidate_behind_the_block_that_is_healed_for_it(depth, data):
    remaining = sorted(data.draw(st.sets(st.integers(0, depth - 1), min_size=2)))
    candidates = sorted(data.draw(st.sets(st.sampled_from(remaining), min_size=1)))
    healed = data.draw(st.frozensets(st.sampled_from(candidates))) - {remaining[0]}
    diary = Diary(depth)
    told = forked_losses(diary, 0, remaining=remaining, candidates=candidates, healed=healed).sums
    for row, candidate in zip(told, candidates, strict=True):
        expected = [1.0 if block in remaining and block != candidate else 0.0 for block in range(depth)]
        if candidate in healed:
            expected[remaining[remaining.index(candidate) - 1]] = 2.0
        assert row.tolist() == expected
    assert diary.ran == forked_forwards(remaining, candidates, healed)
    assert forked_forwards(remaining, candidates, healed) == forked_forwards(remaining, candidates) + sum(
        # a tail begins one block earlier; the prefix ends one earlier where it is the last
        1 - (candidate == candidates[-1])
        for candidate in healed
    )


def test_the_prefix_ends_where_nobody_needs_it():
    steps = list(walk([0, 1, 2, 3], [2], healed={2}))
    assert [(step.block, step.running, [fork.healed for fork in step.forks]) for step in steps] == [
        (0, range(1), []),
        (1, range(1, 1), [True]),
        (2, range(1, 1), []),
        (3, range(1, 2), []),
    ]

"""The forked search against the naive definition, and what it costs."""

from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmprune.algorithms.blocks.elimination import EliminationRule
from llmprune.algorithms.blocks.evaluator import WindowLosses
from llmprune.algorithms.blocks.search import (
    ChunkDone,
    forked_forwards,
    greedy_rounds,
)
from llmprune.errors import NumericalError, TargetError
from llmprune.models.loading import open_decoder
from llmprune.stages.block_search.evaluator import WindowEvaluator
from tests.reference_search import baseline_losses, naive_search
from tests.tiny_models import DEPTH, random_tokens, tiny_model

TOKENS = random_tokens(5, 14)
FAMILIES = ["mistral", "gemma2", "bloom"]
NEVER_WRONG = EliminationRule(error_rate=1e-13)


class Ledger:
    """An evaluator whose states record which blocks ran on them, and whose losses are looked up by who did not.

    A block adds 1 to its own component of the state; ``losses_without`` gives (windows,) mean
    losses for a set of skipped blocks. Every window has 4 tokens, ``room`` states of windows fit in memory.
    """

    def __init__(self, depth, num_windows, losses_without, *, room=10**9):
        self.num_blocks, self.num_windows, self._room = depth, num_windows, room
        self._losses_without = losses_without
        self.ran, self.walks, self.expected = 0, [], []

    def fitting(self, states, windows):
        return min(windows, max(1, self._room // states))

    def expect(self, blocks):
        self.expected = list(blocks)

    def entering(self, windows):
        self.walks.append(windows)
        return torch.zeros(len(windows), 1, self.num_blocks)

    def apply_block(self, block, states, windows, *, healed=()):
        assert not healed
        assert not states[..., block:].any(), "blocks run in order, and none runs twice on a state"
        assert block in self.expected
        assert states.shape[1] == len(windows)
        states[..., block] += 1
        self.ran += states.shape[0] * states.shape[1]

    def losses(self, states, windows):
        skipped = [frozenset((state[0].flatten() == 0).nonzero().flatten().tolist()) for state in states]
        part = slice(windows.start, windows.stop)
        sums = torch.stack([4 * self._losses_without(blocks)[part] for blocks in skipped])
        return WindowLosses(sums, 4)


def random_losses(seed, windows, *, spread=1.0):
    """Seeded losses of any set of skipped blocks: a mean of its own, and noise that is partly everyone's."""

    @cache
    def without(skipped):
        own = torch.Generator().manual_seed(seed + sum(7 ** (block + 1) for block in skipped) % 2**31)
        common = torch.Generator().manual_seed(seed)
        noise = torch.randn(windows, generator=own, dtype=torch.float64)
        text = torch.randn(windows, generator=common, dtype=torch.float64)
        mean = spread * torch.rand(1, generator=own, dtype=torch.float64)
        return 10 + mean + 0.3 * noise + text

    return without


def evaluator_of(directory, **options):
    return WindowEvaluator(open_decoder(directory, device=torch.device("cpu")), TOKENS, **options)


@cache
def naive(family, protected):
    return naive_search(tiny_model(family), TOKENS, count=3, protected=protected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("chunk_windows", "batch_size", "protected"),
    [(5, 5, ()), (2, 3, (0, 5)), (3, 2, ()), (1, 4, (0, 5)), (64, 7, ())],
)
def test_exhaustive_search_is_the_naive_definition(checkpoint, family, chunk_windows, batch_size, protected):
    evaluator = evaluator_of(checkpoint(family), chunk_windows=chunk_windows, batch_size=batch_size)
    rounds = list(greedy_rounds(evaluator, count=3, protected=frozenset(protected)))
    expected = naive(family, protected)
    assert [decided.removed for decided in rounds] == [min(losses, key=losses.get) for losses in expected]
    for decided, losses in zip(rounds, expected, strict=True):
        assert {c.block: c.loss for c in decided.candidates} == pytest.approx(losses, abs=1e-4, rel=0)
        assert decided.loss == min(c.loss for c in decided.candidates)
        assert all(c.complete and c.tokens == 5 * 13 for c in decided.candidates)
        assert max(losses.values()) - min(losses.values()) > 0.01, "candidates must differ, or the test says nothing"


@pytest.mark.parametrize(("chunk_windows", "batch_size"), [(2, 3), (5, 5), (3, 2)])
def test_arguments_that_depend_on_the_tokens_go_to_the_windows_of_these_tokens(checkpoint, chunk_windows, batch_size):
    family = "gemma4-embedding-per-block"  # every block is passed embeddings of the tokens for itself
    evaluator = evaluator_of(checkpoint(family), chunk_windows=chunk_windows, batch_size=batch_size)
    (decided,) = greedy_rounds(evaluator, count=1)
    expected = naive_search(tiny_model(family), TOKENS, count=1)[0]
    assert {c.block: c.loss for c in decided.candidates} == pytest.approx(expected, abs=1e-4, rel=0)


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize(("chunk_windows", "batch_size"), [(2, 3), (5, 1), (4, 64)])
def test_counted_block_forwards_are_the_ones_that_ran(checkpoint, chunk_windows, batch_size, resident):
    told, ran = [], []
    decoder = open_decoder(checkpoint("llama"), device=torch.device("cpu"))
    if resident:
        decoder.keep(device=10**9, host=0)
    evaluator = WindowEvaluator(
        decoder, TOKENS, chunk_windows=chunk_windows, batch_size=batch_size, on_forwards=told.append
    )
    for block in decoder.blocks:
        block.self_attn.register_forward_hook(lambda module, args, output: ran.append(len(output[0])))
    rounds = list(greedy_rounds(evaluator, count=2, protected=frozenset({0})))
    assert sum(ran) == sum(told) == sum(decided.block_forwards for decided in rounds)
    assert max(ran) <= batch_size
    # 6 blocks: the prefix runs 5, the tails 4 + 3 + 2 + 1; then 5 blocks, the first still protected.
    assert [decided.block_forwards for decided in rounds] == [5 * (5 + 10), 5 * (4 + 6)]
    assert [decided.naive_block_forwards for decided in rounds] == [5 * 5 * 5, 5 * 4 * 4]


def test_continuing_a_search_is_one_long_search(checkpoint):
    options = {"chunk_windows": 2, "batch_size": 3}
    long = list(greedy_rounds(evaluator_of(checkpoint("gemma2"), **options), count=4))
    first = [decided.removed for decided in long[:2]]
    rest = list(greedy_rounds(evaluator_of(checkpoint("gemma2"), **options), count=4, removed=first))
    assert rest == long[2:]
    assert list(greedy_rounds(evaluator_of(checkpoint("gemma2"), **options), count=2, removed=first)) == []


def test_baseline_skips_only_what_is_gone(checkpoint):
    evaluator = evaluator_of(checkpoint("bloom"), chunk_windows=5, batch_size=2)
    rounds = list(greedy_rounds(evaluator, count=1))
    losses = baseline_losses(
        evaluator, range(5), remaining=[block for block in range(DEPTH) if block != rounds[0].removed]
    )
    assert float(losses.sums.mean() / losses.tokens) == pytest.approx(rounds[0].loss, abs=1e-6)


@given(st.integers(2, 9), st.integers(0, 10**6), st.data())
def test_any_search_is_greedy_and_runs_what_it_counts(depth, seed, data):
    protected = data.draw(st.frozensets(st.integers(0, depth - 1), max_size=depth - 2))
    removed = data.draw(st.lists(st.sampled_from([b for b in range(depth) if b not in protected]), max_size=1))
    count = data.draw(st.integers(1, depth - len(protected) - 1))
    losses = random_losses(seed, 16)
    ledger = Ledger(depth, 16, losses, room=data.draw(st.integers(1, 200)))
    gone = list(removed)
    for decided in greedy_rounds(ledger, count=count, removed=removed, protected=protected):
        expected = {
            block: float(losses(frozenset([*gone, block])).mean())
            for block in range(depth)
            if block not in gone and block not in protected
        }
        assert {c.block: c.loss for c in decided.candidates} == pytest.approx(expected)
        assert [c.block for c in decided.candidates] == sorted(expected)
        assert decided.removed == min(expected, key=expected.get)
        assert decided.block_forwards == ledger.ran
        ledger.ran = 0
        gone.append(decided.removed)
    assert len(gone) == max(count, len(removed))


@given(st.sets(st.integers(0, 40), min_size=1, max_size=12), st.data())
def test_no_block_runs_twice_on_the_same_state(remaining, data):
    blocks = sorted(remaining)
    candidates = sorted(data.draw(st.sets(st.sampled_from(blocks), min_size=1)))
    histories = set()  # every different sequence of blocks that some candidate's state goes through
    for candidate in candidates:
        path = [block for block in blocks if block != candidate]
        histories |= {tuple(path[:length]) for length in range(1, len(path) + 1)}
    assert forked_forwards(blocks, candidates) == len(histories)


@pytest.mark.parametrize(("blocks", "forwards"), [(2, 2), (6, 20), (30, 464), (32, 527)])
def test_block_forwards_are_about_half_of_the_naive_ones(blocks, forwards):
    everything = list(range(blocks))
    assert forked_forwards(everything, everything) == (blocks - 1) * (blocks + 2) // 2 == forwards


@given(st.integers(3, 7), st.integers(0, 10**6))
def test_elimination_that_is_never_wrong_chooses_as_exhaustive_search(depth, seed):
    def search(rule):
        return list(greedy_rounds(Ledger(depth, 48, random_losses(seed, 48)), count=depth - 1, rule=rule))

    exhaustive, eliminating = search(None), search(NEVER_WRONG)
    for full, early in zip(exhaustive, eliminating, strict=True):
        assert (early.removed, early.loss) == (full.removed, full.loss)
        assert early.block_forwards <= full.block_forwards
        assert early.naive_block_forwards == full.naive_block_forwards
        survivors = {c for c in early.candidates if c.complete}
        assert survivors <= set(full.candidates), "what saw every window has its exact loss"


def test_hopeless_candidates_are_dropped_with_what_they_saw():
    means = torch.tensor([5.0, 1.0, 9.0, 1.01], dtype=torch.float64)
    noise = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def losses(skipped):
        (block,) = skipped
        wobble = torch.randn(40, generator=torch.Generator().manual_seed(block), dtype=torch.float64)
        return 5 + means[block] + noise + 0.2 * wobble

    ledger, told = Ledger(4, 40, losses), []
    (decided,) = greedy_rounds(ledger, count=1, rule=EliminationRule(), on_chunk=told.append)
    assert EliminationRule.looks(40) == (12, 22)
    seen = {c.block: (c.complete, c.tokens) for c in decided.candidates}
    assert seen == {0: (False, 48), 1: (True, 160), 2: (False, 48), 3: (True, 160)}
    for candidate in decided.candidates:
        expected = losses([candidate.block])[: candidate.tokens // 4].mean()
        assert candidate.loss == pytest.approx(float(expected))
    assert told == [ChunkDone(12, 12, 40, 4), ChunkDone(10, 22, 40, 2), ChunkDone(18, 40, 40, 2)]
    # All four on the first windows: 3 + 6; afterwards only 1 and 3: the prefix runs 3, the tail of 1 runs 2.
    assert decided.block_forwards == ledger.ran == 12 * 9 + 28 * 5


@given(st.integers(3, 7), st.integers(5, 60), st.integers(0, 10**6), st.integers(1, 400))
def test_a_round_is_the_same_whatever_fits_into_memory(depth, windows, seed, room):
    losses = random_losses(seed, windows, spread=3.0)
    rounds = [
        list(greedy_rounds(Ledger(depth, windows, losses, room=size), count=2, rule=EliminationRule()))
        for size in (room, 10**9)
    ]
    assert rounds[0] == rounds[1]


@pytest.mark.parametrize("windows", [5, 8, 16, 32, 128])
def test_where_memory_has_room_a_round_walks_over_the_model_at_most_three_times(windows):
    ledger = Ledger(5, windows, random_losses(0, windows))
    list(greedy_rounds(ledger, count=1, rule=EliminationRule()))
    assert [walk.stop for walk in ledger.walks] == [*EliminationRule.looks(windows), windows]
    assert len(ledger.walks) <= 3


def test_chunks_grow_as_candidates_are_dropped():
    means = torch.tensor([9.0, 1.0, 8.0, 7.0, 1.0], dtype=torch.float64)
    losses = random_losses(0, 32, spread=0.0)
    ledger = Ledger(5, 32, lambda skipped: losses(skipped) + 9 * means[list(skipped)].sum(), room=24)
    (decided,) = greedy_rounds(ledger, count=1, rule=EliminationRule())
    assert sum(c.complete for c in decided.candidates) == 2
    # Six states of a window: 4 windows together; then three states: 8.
    assert [len(walk) for walk in ledger.walks] == [4, 4, 3, 8, 8, 5]
    assert ledger.expected == [0, 1, 2, 3, 4]


def test_nothing_is_dropped_after_the_last_window():
    means, told = torch.tensor([1.0, 100.0, 1.0], dtype=torch.float64), []
    ledger = Ledger(3, 4, lambda skipped: means[list(skipped)] + torch.arange(4) / 100)
    (decided,) = greedy_rounds(ledger, count=1, rule=EliminationRule(), on_chunk=told.append)
    assert all(candidate.complete for candidate in decided.candidates)
    assert told == [ChunkDone(4, 4, 4, 3)]


def test_a_dropped_candidate_that_only_saw_easy_text_is_not_chosen():
    text = torch.cat([torch.zeros(8), torch.full((8,), 50.0)]).double()
    means = torch.tensor([1.0, 5.0], dtype=torch.float64)
    ledger = Ledger(2, 16, lambda skipped: text + means[list(skipped)])
    (decided,) = greedy_rounds(ledger, count=1, rule=EliminationRule())
    assert [(c.loss, c.complete) for c in decided.candidates] == [(26.0, True), (5.0, False)]
    assert (decided.removed, decided.loss) == (0, 26.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_told_with_its_block(bad):
    def losses(skipped):
        return torch.tensor([1.0] * 5 + [bad if 2 in skipped else 1.0] + [1.0] * 2, dtype=torch.float64)

    with pytest.raises(NumericalError, match="block 2 skipped"):
        list(greedy_rounds(Ledger(4, 8, losses), count=1))


def test_only_blocks_that_may_go_after_the_others_are_measured():
    means = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)

    def losses(skipped):
        return means[list(skipped)].sum() + torch.zeros(8, dtype=torch.float64)

    def not_beside(gone, block):
        return not any(abs(block - other) == 1 for other in gone)

    rounds = list(greedy_rounds(Ledger(5, 8, losses), count=3, may_go=not_beside))
    assert [decided.removed for decided in rounds] == [0, 2, 4]
    assert [[c.block for c in decided.candidates] for decided in rounds] == [[0, 1, 2, 3, 4], [2, 3, 4], [4]]
    with pytest.raises(TargetError, match=r"When blocks 0, 2, 4 are gone no other .* type `target=3` or less"):
        list(greedy_rounds(Ledger(5, 8, losses), count=4, may_go=not_beside))

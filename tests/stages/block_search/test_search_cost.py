"""What a search is expected to take: no single sample decides it."""

from itertools import pairwise

import pytest
import torch

from llmprune.algorithms.blocks.elimination import EliminationRule
from llmprune.algorithms.blocks.search import ChunkDone
from llmprune.models import residency
from llmprune.models.compute import Compute
from llmprune.models.loading import open_decoder
from llmprune.models.residency import Residency
from llmprune.stages.block_search import estimate, plan_search, verify_redundancy
from llmprune.stages.block_search.cost import SearchCost, WindowCost, divide_memory, measure_window_cost
from llmprune.stages.block_search.evaluator import WindowEvaluator, whole_batches
from llmprune.stages.block_search.settings import RedundancySettings
from llmprune.stages.common.block_times import time_block

TOKENS = torch.randint(128, (6, 16), generator=torch.Generator().manual_seed(0))
BLOCK, HEAD = 0.25, 0.125  # seconds of every run


@pytest.fixture
def decoder(checkpoint):
    return open_decoder(checkpoint("llama"), device=torch.device("cpu"), dtype=None)


@pytest.fixture
def machine(monkeypatch):
    """A clock that passes by runs; ``stalls`` has extra seconds by the number of the run."""

    class Machine:
        now, runs, stalls = 0.0, 0, {}

        def slow(self, owner, name, seconds):
            original = getattr(owner, name)

            def run(*args, **kwargs):
                self.now += seconds + self.stalls.get(self.runs, 0.0)
                self.runs += 1
                return original(*args, **kwargs)

            monkeypatch.setattr(owner, name, run)

    machine = Machine()
    monkeypatch.setattr("llmprune.models.timing.now", lambda device: machine.now)
    return machine


@pytest.mark.parametrize("stalled", [None, *range(8)])
def test_a_stall_and_a_cold_start_change_no_estimate_of_a_search(decoder, machine, stalled):
    machine.slow(WindowEvaluator, "apply_block", BLOCK)
    machine.slow(WindowEvaluator, "losses", HEAD)
    machine.stalls = {stalled: 60.0}
    cost = measure_window_cost(WindowEvaluator(decoder, TOKENS, batch_size=4))
    assert (cost.block, cost.head) == (BLOCK / 4, HEAD / 4)
    assert machine.runs >= 8


def test_the_evaluator_is_as_before(decoder):
    evaluator = WindowEvaluator(decoder, TOKENS, batch_size=3)
    states = evaluator.entering(range(3))[None].clone()
    evaluator.apply_block(0, states, range(3))
    expected = evaluator.losses(states, range(3)).sums
    cost = measure_window_cost(evaluator)
    assert min(cost.block, cost.head) > 0
    states = evaluator.entering(range(3))[None].clone()
    evaluator.apply_block(0, states, range(3))
    assert torch.equal(evaluator.losses(states, range(3)).sums, expected)


@pytest.mark.parametrize("stalled", [None, *range(8)])
def test_a_stall_and_a_cold_start_change_no_time_of_a_block(decoder, machine, stalled):
    machine.slow(decoder.runner, "forward_block", BLOCK)
    machine.slow(decoder.runner, "logits", HEAD)
    machine.stalls = {stalled: 60.0}
    with decoder.block(0):
        times = time_block(decoder, 0, TOKENS[:1, :5])
    assert (times.block, times.head) == (BLOCK, HEAD)


@pytest.mark.parametrize(
    ("reading", "seconds"),
    # A window takes 9 block forwards (all four blocks may go) and 4 heads: 0.25 * 9 + 0.125 * 4. Chunks of 3, 3 and 1.
    [(0.0, 7 * 2.75), (2.0, 7 * 2.75), (5.0, 2 * 3 * 2.75 + 5.0), (10.0, 3 * 10.0)],
)
def test_reading_counts_where_it_takes_longer_than_computing(reading, seconds):
    cost = SearchCost(
        (0, 1, 2, 3),
        frozenset(),
        rounds=1,
        windows=7,
        eliminates=False,
        fitting=lambda states, windows: min(3, windows),
    )
    assert cost.seconds(WindowCost(BLOCK, HEAD, reading), typical=False) == pytest.approx(seconds)
    assert ("reading the blocks" in cost.announcement(WindowCost(BLOCK, HEAD, reading))) == (reading > 0)


@pytest.mark.parametrize(("windows", "eliminates"), [(32, True), (7, True), (3, True), (7, False)])
def test_the_steps_of_all_chunks_are_those_of_a_round(windows, eliminates):
    cost = SearchCost(tuple(range(10)), frozenset({0}), rounds=1, windows=windows, eliminates=eliminates)
    ends = [*(EliminationRule.looks(windows) if eliminates else ()), windows]
    chunks = [ChunkDone(stop - start, stop, windows, 1) for start, stop in pairwise((0, *ends))]
    assert sum(map(cost.step, chunks)) == cost.steps


@pytest.mark.parametrize("batch", [1, 4, 5, 16])
@pytest.mark.parametrize("windows", [8, 12, 32, 128])
def test_a_round_reads_the_model_three_times_where_the_states_fit(monkeypatch, windows, batch):
    depth, size = 32, 10**6  # of blocks that do not fit beside the states
    monkeypatch.setattr(Compute, "free_bytes", lambda self: 25 * size)
    window, settings = 10_000, RedundancySettings("1")
    division = divide_memory(
        [size] * depth, window, windows, settings, solved_on=0, compute=Compute(torch.device("cpu"))
    )
    cost = SearchCost(
        tuple(range(depth)),
        frozenset({0, depth - 1}),
        rounds=1,
        windows=windows,
        eliminates=True,
        fitting=lambda states, left: whole_batches(left, division.states // (states * window), batch=batch),
    )
    assert cost.walks(0) == 3
    assert division.states < 25 * size // 4, "more than the states need is left to the blocks"


@pytest.mark.parametrize("heal", [False, True])
def test_a_streamed_search_reads_what_was_planned(workspace, monkeypatch, heal):
    settings, read, fetch = RedundancySettings("2", heal=heal), [], Residency._fetch

    def fetched(self, index, reads):
        before = self.bytes_read
        blocks = fetch(self, index, reads)
        read.append(self.bytes_read - before)
        return blocks

    for module in (residency, estimate):
        monkeypatch.setattr(module, "blocks_that_fit", lambda sizes, room, *, first=0: first)  # none
    planned = plan_search(workspace, settings, force=True).total.read
    monkeypatch.setattr(Residency, "_fetch", fetched)
    verify_redundancy(workspace, settings, force=True)
    assert planned == pytest.approx(sum(read), rel=0.15)

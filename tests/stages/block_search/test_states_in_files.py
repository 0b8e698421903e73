"""A search whose memory has no room for the states of one batch keeps them in a file, and decides the same."""

from functools import partial

import pytest
import torch

from llmprune.algorithms.blocks.elimination import EliminationRule
from llmprune.algorithms.blocks.search import greedy_rounds, losses_without
from llmprune.artifacts.files.rows import FileRows
from llmprune.models.compute import Compute
from llmprune.models.loading import open_decoder
from llmprune.stages.block_search import RedundancySettings, verify_redundancy
from llmprune.stages.block_search.batch_states import BatchStates
from llmprune.stages.block_search.cost import divide_memory
from llmprune.stages.block_search.evaluator import WindowEvaluator
from tests.tiny_models import random_tokens

CPU = torch.device("cpu")
TOKENS = random_tokens(7, 12)


@pytest.fixture
def files(monkeypatch):
    """The files that states went to."""
    made, init = [], FileRows.__init__

    def counted(self, folder, rows, like):
        made.append((folder, rows, like.nbytes))
        init(self, folder, rows, like)

    monkeypatch.setattr(FileRows, "__init__", counted)
    return made


@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize("rule", [None, EliminationRule(0.2)])
def test_the_rounds_are_the_same_to_the_last_bit(checkpoint, tmp_path, files, batch_size, rule):
    def rounds(**options):
        decoder = open_decoder(checkpoint("llama"), device=CPU)
        evaluator = WindowEvaluator(decoder, TOKENS, batch_size=batch_size, **options)
        measure = partial(losses_without, evaluator, stack=evaluator.stack)
        return list(greedy_rounds(evaluator, count=2, rule=rule, measure=measure))

    usual = rounds(chunk_windows=batch_size)
    assert not files
    assert rounds(state_bytes=1, scratch=tmp_path) == usual
    assert files
    assert {folder for folder, _, _ in files} == {tmp_path}
    assert not list(tmp_path.iterdir())  # they have no names


@pytest.mark.parametrize("heal", [False, True])
def test_a_search_within_a_small_budget_decides_the_same(workspace, files, heal, monkeypatch):
    settings = RedundancySettings("2", heal=heal)
    usual = verify_redundancy(workspace, settings)
    assert not files
    monkeypatch.setattr(Compute, "free_bytes", lambda self: 20_000)
    found = verify_redundancy(workspace, settings, force=True)
    assert [replace_seconds(one) for one in found.rounds] == [replace_seconds(one) for one in usual.rounds]
    assert found.order == usual.order
    assert {folder for folder, _, _ in files} == {workspace.run.path}


def replace_seconds(decided):
    return decided.model_copy(update={"seconds": 0.0})


@pytest.mark.parametrize(("free", "beside"), [(10**6, 8_000), (10_000, 5_000), (0, 0)])
def test_healing_takes_half_of_what_is_free_at_most(monkeypatch, free, beside):
    monkeypatch.setattr(Compute, "free_bytes", lambda self: free)
    division = divide_memory([100] * 4, 1000, 8, RedundancySettings("1", heal=True), solved_on=4, compute=Compute(CPU))
    assert division.beside == beside
    assert division.beside + 2 * division.states + division.device <= max(free, 0)


@pytest.mark.parametrize("most", [None, 0])
def test_batches_of_states_are_what_was_put_last(tmp_path, files, most):
    batches = [torch.randn(size, 3, 2) for size in (2, 2, 1)]
    states = BatchStates(iter(batches), [2, 2, 1], most=most, folder=tmp_path)
    assert len(files) == (most is not None)
    assert all(torch.equal(states[place], batch) for place, batch in enumerate(batches))
    states[1] = batches[0] * 2
    assert torch.equal(states[1], batches[0] * 2)
    assert torch.equal(states[2], batches[2])
    assert torch.equal(states[0], batches[0])


def test_rows_of_a_file_are_those_of_a_tensor(tmp_path):
    rows, tensor = FileRows(tmp_path, 5, torch.zeros(2, 3, dtype=torch.bfloat16)), torch.randn(5, 2, 3).bfloat16()
    for row, value in enumerate(tensor):
        rows[row] = value
    assert rows.shape == tensor.shape
    assert torch.equal(torch.stack(list(rows[1:])), tensor[1:])
    part = rows[2:4]
    part[0] = tensor[0]
    assert torch.equal(rows[2], tensor[0])
    assert torch.equal(rows.read(0, 2), tensor[:2])
    assert len(rows[5:]) == 0

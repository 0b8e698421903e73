"""How often a block runs while it is pruned, and what is recorded of a factorisation that failed."""

import pytest
import torch
from torch.nn import functional

from llmprune.algorithms.weights.patterns import Unstructured
from llmprune.choices import Method, Reference
from llmprune.stages.weight_pruning import PruningSettings, Selection, global_prune

HALF = Unstructured(0.5)


@pytest.mark.parametrize(
    ("method", "reference", "runs"),
    [
        (Method.SPARSEGPT, Reference.PRUNED, 1 + 1 + 1),
        (Method.SPARSELLM, Reference.PRUNED, 1 + 1 + 1),
        (Method.SPARSELLM, Reference.DENSE, 1 + 2 + 2),  # the dense block beside, from the first pruned one on
    ],
)
def test_attention_runs_once_a_block_and_once_for_the_dense_model(method, reference, runs, workspace, monkeypatch):
    attend, batches = functional.scaled_dot_product_attention, []

    def counted(query, *others, **named):
        if len(query) > 1:  # a batch, and not the window at which the block is looked at
            batches.append(1)
        return attend(query, *others, **named)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", counted)
    settings = PruningSettings(
        HALF, method, Selection("1-2"), reference=reference, rounds=1, refit_steps=0, verify=False
    )
    global_prune(workspace, settings)
    assert len(batches) == runs


def test_a_factorisation_that_the_device_fails_at_is_recorded(workspace, monkeypatch):
    work = torch.linalg.cholesky_ex

    def failing(matrix, *, upper, out):
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("no convergence")
        return work(matrix, upper=upper, out=out)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", failing)
    settings = PruningSettings(HALF, Method.SPARSEGPT, Selection("1", frozenset({"attention"})), verify=False)
    remarks = global_prune(workspace, settings).record.sparsity.remarks
    assert "model.layers.1.self_attn.q_proj.weight: its Gram matrix was factored in float64 on the CPU" in remarks

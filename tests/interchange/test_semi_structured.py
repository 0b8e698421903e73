"""2:4 checkpoints in torch's semi-structured format: the packing everywhere, the kernels where a GPU has them."""

import pytest
import torch
from torch.sparse import to_sparse_semi_structured
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)
from transformers import AutoModelForCausalLM

from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.artifacts.records.pruning import RECORD_NAME, PruningRecord

HAS_KERNELS = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def pruned_names(directory):
    return PruningRecord.read(directory / RECORD_NAME).pruned_tensors


def test_every_pruned_matrix_is_packed_without_loss_and_no_other_is(sparse):
    checkpoint = open_checkpoint(sparse)
    names = pruned_names(sparse)
    matrices = checkpoint.load(name for name, entry in checkpoint.tensors.items() if len(entry.shape) == 2)
    exact = set()
    for name, weight in matrices.items():
        half = weight.bfloat16()
        packed = sparse_semi_structured_to_dense_cutlass(*sparse_semi_structured_from_dense_cutlass(half))
        if torch.equal(packed, half):
            exact.add(name)
    assert exact == set(names)
    assert matrices.keys() > exact


@pytest.mark.skipif(HAS_KERNELS, reason="this machine has the kernels")
def test_where_no_gpu_has_the_kernels_torch_says_so(sparse):
    (name, *_) = pruned_names(sparse)
    weight = open_checkpoint(sparse).load([name])[name].half()
    with pytest.raises((RuntimeError, NotImplementedError)):
        to_sparse_semi_structured(weight)


@pytest.mark.skipif(not HAS_KERNELS, reason="needs an NVIDIA GPU of compute capability 8.0 or more")
@pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor is in prototype stage")
def test_sparse_kernels_compute_what_dense_ones_do(sparse, tokens):
    model = AutoModelForCausalLM.from_pretrained(sparse, dtype=torch.float16).eval().cuda()
    with torch.inference_mode():
        expected = model(tokens.cuda()).logits
    for name in pruned_names(sparse):
        module = model.get_submodule(name.removesuffix(".weight"))
        module.weight = torch.nn.Parameter(to_sparse_semi_structured(module.weight.detach()), requires_grad=False)
    with torch.inference_mode():
        found = model(tokens.cuda()).logits
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)

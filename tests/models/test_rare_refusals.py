"""What models of no usual kind are refused for, and what is done on other devices and systems."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.errors import ModelError
from llmprune.models import architecture, config, memory, requirements
from llmprune.models.architecture import empty_model
from llmprune.models.compute import Compute
from llmprune.models.expert_surgery import ExpertCut, _cut_axis, _cut_tensors, _per_token, config_with_experts
from llmprune.models.halving import Halving
from llmprune.models.loading import stored_dtype
from llmprune.models.open_experts import routing_of
from llmprune.models.removability import RemovalCheck
from llmprune.models.resident import model_decoder, with_weights_of
from tests.tiny import save_tiny_llama

TINY = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, vocab_size=16)


def test_a_file_too_large_for_its_kind(tmp_path, monkeypatch):
    model = save_tiny_llama(tmp_path / "model")
    monkeypatch.setattr(config, "_MAX_READ_WHOLE", 10)
    with pytest.raises(ModelError, match="too much for its kind"):
        config._refuse_special_files(model)


def test_a_model_of_too_many_parts(monkeypatch):
    monkeypatch.setattr(architecture, "_MAX_PARTS", 3)
    with pytest.raises(ModelError, match="more than 3 modules and weights"):
        empty_model(TINY, dtype=torch.float32)


def test_weights_of_no_floating_dtype(tmp_path):
    save_file({"a": torch.arange(4)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="no floating-point weights"):
        stored_dtype(open_checkpoint(tmp_path))


def test_a_block_that_changes_the_shape_of_hidden_states():
    runner = SimpleNamespace(
        learn_returned=lambda tokens: None,
        entries=lambda tokens: [(torch.zeros(1, 2, 8), None)],
        forward_block=lambda index, hidden, call: torch.zeros(1, 2, 4),
    )
    decoder = SimpleNamespace(runner=runner, model=LlamaForCausalLM(TINY), device=torch.device("cpu"))
    with pytest.raises(ModelError, match="a block could not be left out"):
        requirements._require_plain_chain(decoder)


def test_a_model_that_runs_its_blocks_otherwise(monkeypatch):
    runner = model_decoder(LlamaForCausalLM(TINY)).runner
    monkeypatch.setattr(runner, "_forward", lambda tokens: None)
    for run in (runner.entries, runner.embed):
        with pytest.raises(ModelError, match="of its"):
            run(torch.zeros(1, 2, dtype=torch.int64))


def test_a_model_that_needs_a_weight_that_is_not_there():
    model = LlamaForCausalLM(TINY).eval()
    with pytest.raises(ModelError, match="which the model does not have"):
        with_weights_of(model, empty_model(model.config, dtype=torch.float32), {"lm_head.weight": "lm_head.weight"})


def test_experts_that_cannot_be_cut():
    assert _cut_axis((2, 3), None, 2, 1) is None
    with pytest.raises(ModelError, match="no expert can be told apart"):
        _cut_tensors(ExpertCut(), "experts", [], 0, [0])
    with pytest.raises(ModelError, match="how many experts a token is sent to"):
        _per_token(SimpleNamespace(num_experts_per_tok="two"), "Mixture")
    with pytest.raises(ModelError, match="no field that says it has 7 experts"):
        config_with_experts(TINY.to_dict(), TINY, before=7, left=5)


def test_an_experts_module_that_is_given_something_else():
    assert routing_of((torch.zeros(1, 8),)) is None


def test_outputs_of_another_shape_differ_by_any_amount():
    assert RemovalCheck._differ(None, torch.zeros(2), torch.zeros(3)) == float("inf")


def test_half_a_batch_on_a_device_frees_what_its_allocator_keeps(monkeypatch):
    freed = []
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: freed.append(True))
    halving = Halving()
    halving._halve(4, torch.device("meta"))
    assert (halving.most, freed) == (2, [True])


def test_the_memory_of_the_host_beside_a_gpu():
    assert Compute(torch.device("cuda", 0)).free_host_bytes() > 0
    assert Compute(torch.device("cpu")).free_host_bytes() == 0


def test_freed_memory_of_another_system_is_its_own_matter(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: pytest.fail("not asked"))
    memory.give_back_freed_memory()

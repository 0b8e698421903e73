"""Removing experts from Python: the model in memory and the checkpoint on disk are one result."""

import pytest
import torch

import llmprune
from llmprune.errors import ModelError, TargetError
from llmprune.models.loading import load_whole
from tests.api.conftest import same_tensors, whole
from tests.tiny_models import DEPTH, random_tokens

NAMED = {block: [block % 4] for block in range(DEPTH)}


def test_in_memory_it_is_what_is_written(loaded, checkpoint, tokens, tmp_path):
    ours = llmprune.remove_experts(loaded("mixtral"), target="25%", windows=tokens)
    written = llmprune.remove_experts(checkpoint("mixtral"), target=1, windows=tokens, out=tmp_path / "fewer")
    theirs = whole(written.directory)
    assert same_tensors(ours, theirs)
    assert ours.config.num_local_experts == theirs.config.num_local_experts == 3
    prompt = random_tokens(1, 8)
    with torch.no_grad():
        assert torch.equal(ours(prompt).logits, theirs(prompt).logits)
    assert written.record.experts.metric == "reap"
    assert "3 of 4 experts in each block that has experts" in repr(written)


def test_the_models_weights_stay_and_those_that_are_not_cut_are_shared(loaded):
    model = loaded("mixtral")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cut = llmprune.remove_experts(model, NAMED)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert cut.model.embed_tokens.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    stack = cut.model.layers[2].mlp.experts.down_proj
    assert torch.equal(stack, before["model.layers.2.mlp.experts.down_proj"][[0, 1, 3]])


def test_narrow_models_are_compared_where_experts_do_not_tie(checkpoint):
    narrow = load_whole(checkpoint("mixtral"), device=torch.device("cpu"), dtype=torch.bfloat16)
    cut = llmprune.remove_experts(narrow, NAMED)
    assert cut.dtype is torch.bfloat16
    stack = narrow.model.layers[2].mlp.experts.down_proj
    assert torch.equal(cut.model.layers[2].mlp.experts.down_proj, stack[[0, 1, 3]])


def test_zeros_in_memory_are_those_that_are_written(loaded, checkpoint, tokens, tmp_path):
    ours = llmprune.prune_weights(loaded("mixtral"), tokens, layers="0-1", rounds=1)
    written = llmprune.prune_weights(checkpoint("mixtral"), tokens, layers="0-1", rounds=1, out=tmp_path / "sparse")
    assert same_tensors(ours, whole(written.directory))
    assert int((ours.model.layers[0].mlp.experts.down_proj[1] == 0).sum()) * 2 == 32 * 48


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"experts": NAMED, "target": 1}, "give one"),
        ({"experts": {0: [1]}}, "the blocks with experts are 0, 1, 2, 3, 4, 5"),
        ({"target": 3}, "leaves 1 of 4 experts"),
        ({"target": 1, "metric": "size"}, "reap, frequency"),
    ],
)
def test_what_cannot_be_is_refused(arguments, match, loaded, tokens):
    with pytest.raises(TargetError, match=match):
        llmprune.remove_experts(loaded("mixtral"), windows=tokens, **arguments)


def test_a_model_without_experts_is_refused(loaded, tokens):
    with pytest.raises(ModelError, match="has no experts"):
        llmprune.remove_experts(loaded("llama"), target=1, windows=tokens)


def test_a_run_keeps_what_was_measured_and_says_what_chose_experts_that_are_named(checkpoint, tokens, tmp_path):
    run = tmp_path / "run"
    model = checkpoint("mixtral")
    llmprune.rank_blocks(model, tokens, metric="block-influence", run=run).first(1)  # keeps them as its calibration
    first = llmprune.remove_experts(model, target=1, out=tmp_path / "first", run=run)
    kept = llmprune.Run(run)
    assert len(kept.experts.blocks) == DEPTH
    assert f"experts: measured in {DEPTH} blocks" in repr(kept)
    named = llmprune.remove_experts(model, first.record.experts.removed, out=tmp_path / "second", run=run)
    assert named.record.experts == first.record.experts
    assert named.record.experts.metric == "reap"

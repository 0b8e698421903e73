"""Models in memory: seen as decoders, copied and cut, without a change to the caller's."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from llmprune.stages.block_removal.remove_blocks import RemovalSettings, remove_blocks
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, PreTrainedModel

from llmprune.errors import ModelError
from llmprune.models.loading import load_whole, open_decoder
from llmprune.models.resident import model_decoder, sharing_copy
from llmprune.models.surgery import cut_model
from llmprune.stages.common.workspace import Workspace
from tests.tiny_models import DEPTH, FAMILIES, random_tokens, tiny_model

CPU = torch.device("cpu")
TOKENS = random_tokens(2, 24)
REMOVED = (1, 4)
KEPT = [block for block in range(DEPTH) if block not in REMOVED]


@pytest.fixture(scope="session")
def written(checkpoint: Callable[[str], Path], workspace: Callable[[Path], Workspace]) -> Callable[[str], Path]:
    """A family's checkpoint without two blocks, as the command writes it."""

    @cache
    def written(family: str) -> Path:
        return remove_blocks(workspace(checkpoint(family)), RemovalSettings(blocks=REMOVED)).directory

    return written


def whole(directory: Path) -> PreTrainedModel:
    return load_whole(directory, device=CPU, dtype=torch.float32)


def logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model(TOKENS, use_cache=False).logits


@pytest.mark.parametrize("family", FAMILIES)
class TestEveryFamily:
    def test_a_cut_model_is_the_one_that_the_written_checkpoint_gives(self, family, checkpoint, written):
        ours, theirs = cut_model(whole(checkpoint(family)), KEPT), whole(written(family))
        expected = theirs.state_dict()
        assert ours.state_dict().keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())
        assert torch.equal(logits(ours), logits(theirs))
        assert ours.name_or_path == str(checkpoint(family))
        ours.config.name_or_path = theirs.config.name_or_path
        assert ours.config.to_dict() == theirs.config.to_dict()

    def test_cutting_leaves_the_model_as_it_was_and_takes_no_memory(self, family):
        model = tiny_model(family)
        before, config = logits(model), model.config.to_dict()
        cut = cut_model(model, KEPT)
        assert torch.equal(logits(model), before)
        assert model.config.to_dict() == config
        places = {parameter.data_ptr() for parameter in model.parameters()}
        assert all(parameter.data_ptr() in places for parameter in cut.parameters())

    def test_a_decoder_in_memory_computes_what_the_one_on_files_does(self, family, checkpoint):
        ours = model_decoder(whole(checkpoint(family)))
        theirs = open_decoder(checkpoint(family), device=CPU)
        hidden = ours.runner.embed(TOKENS)
        assert torch.equal(hidden, theirs.runner.embed(TOKENS))
        for block, (mine, other) in enumerate(zip(ours.runner.calls(TOKENS), theirs.runner.calls(TOKENS), strict=True)):
            with ours.block(block), theirs.block(block):
                after = ours.runner.forward_block(block, hidden, mine)
                assert torch.equal(after, theirs.runner.forward_block(block, hidden, other))
                hidden = after
        assert torch.equal(ours.runner.logits(hidden), theirs.runner.logits(hidden))


def test_a_copy_shares_its_weights_and_nothing_else():
    model = tiny_model("llama-tied").train()
    copied = sharing_copy(model).eval()
    assert model.training
    assert copied.lm_head.weight is copied.model.embed_tokens.weight
    assert copied.lm_head.weight.data_ptr() == model.lm_head.weight.data_ptr()
    copied.model.layers[0].mlp.up_proj.weight = nn.Parameter(torch.zeros(48, 32))
    assert model.model.layers[0].mlp.up_proj.weight.any()


def test_a_frozen_parameter_stays_frozen():
    model = tiny_model("llama")
    model.model.layers[2].requires_grad_(False)
    cut = cut_model(model, KEPT)
    frozen = [not parameter.requires_grad for parameter in cut.model.layers[1].parameters()]
    assert all(frozen)
    assert all(parameter.requires_grad for parameter in cut.model.layers[0].parameters())


def test_a_decoder_leaves_the_mode_of_the_model_alone():
    model = tiny_model("llama").train()
    assert not model_decoder(model).model.training
    assert model.training


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Linear(2, 2), "A Linear was given"),
        (
            LlamaModel(LlamaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)),
            "LlamaModel",
        ),
        (tiny_model("llama").to("meta"), "are on meta"),
    ],
    ids=["module", "headless", "meta"],
)
def test_what_is_no_causal_model_in_memory_is_refused(model, words):
    with pytest.raises(ModelError, match=words):
        model_decoder(model)


def test_a_quantized_model_is_refused():
    model = tiny_model("llama")
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(ModelError, match="quantized"):
        model_decoder(model)

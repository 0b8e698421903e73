"""remove-blocks on checkpoints that hold more, or less, than the model uses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llmprune.errors import NumericalError
from llmprune.models.compute import Compute
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from llmprune.stages.common.workspace import open_workspace
from tests.reference_search import skipped_logits
from tests.tiny import Listener
from tests.tiny_models import random_tokens
from tests.zoo import DEPTH, tiny_config

TOKENS = random_tokens(2, 16)
Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


@pytest.fixture
def model_of(tmp_path: Path) -> Callable[..., Path]:
    """A tiny model of a type, in which ``change`` makes other tensors and ``fields`` another config."""

    def make(model_type: str, change: Change = dict, *, dtype=torch.float32, **fields: object) -> Path:
        torch.manual_seed(0)
        directory = tmp_path / "model"
        model = AutoModelForCausalLM.from_config(tiny_config(model_type), dtype=torch.float32)
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.15)
        model.to(dtype).save_pretrained(directory)
        tensors = {name: tensor.contiguous() for name, tensor in change(stored(directory)).items()}
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        (directory / "config.json").write_text(json.dumps({**raw, **fields}), encoding="utf-8")
        return directory

    return make


@pytest.fixture
def cut(tmp_path: Path) -> Callable[..., tuple[Path, Listener]]:
    """The verified checkpoint without some blocks, and what was said on the way to it."""

    def remove(model: Path, *blocks: int) -> tuple[Path, Listener]:
        listener = Listener()
        workspace = open_workspace(
            tmp_path / "run", str(model), compute=Compute(torch.device("cpu")), progress=listener
        )
        return remove_blocks(workspace, RemovalSettings(blocks=blocks)).directory, listener

    return remove


def stored(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def assert_computes_what_is_left(model: Path, cut: Path, *removed: int) -> None:
    whole, left = (AutoModelForCausalLM.from_pretrained(path).eval() for path in (model, cut))
    with torch.no_grad():
        assert torch.equal(left(TOKENS, use_cache=False).logits, skipped_logits(whole, TOKENS, removed))


def with_next_token_block(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    last = {name: tensor for name, tensor in tensors.items() if f".layers.{DEPTH - 1}." in name}
    again = {name.replace(f".{DEPTH - 1}.", f".{DEPTH}.", 1): tensor + 1 for name, tensor in last.items()}
    return {**tensors, **again, f"model.layers.{DEPTH}.eh_proj.weight": torch.randn(32, 64)}


@pytest.mark.parametrize("model_type", ["deepseek_v3", "glm4_moe", "llama"])
def test_a_block_for_predicting_further_tokens_comes_along_behind_the_last(model_of, cut, model_type):
    model = model_of(model_type, with_next_token_block, num_nextn_predict_layers=1)
    directory, listener = cut(model, 2, 3)
    before, after = stored(model), stored(directory)
    extra = {name: tensor for name, tensor in before.items() if f"model.layers.{DEPTH}." in name}
    assert len(extra) > 5
    for name, tensor in extra.items():
        assert torch.equal(after[name.replace(f".{DEPTH}.", f".{DEPTH - 2}.", 1)], tensor)
    raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    assert (raw["num_hidden_layers"], raw["num_nextn_predict_layers"]) == (DEPTH - 2, 1)
    assert listener.heard("hold 1 more than the model's 6 blocks")
    assert_computes_what_is_left(model, directory, 2, 3)


def test_masks_that_overflow_and_tables_that_are_not_used_are_carried_as_they_are(model_of, cut):
    def with_leftovers(tensors):
        masks = {f"gpt_neox.layers.{i}.attention.masked_bias": torch.tensor(-1e9).half() for i in range(DEPTH)}
        return {**tensors, **masks, "gpt_neox.layers.4.attention.rotary_emb.inv_freq": torch.full((2,), torch.nan)}

    model = model_of("gpt_neox", with_leftovers, dtype=torch.float16)
    directory, _ = cut(model, 2)
    after = stored(directory)
    assert after["gpt_neox.layers.4.attention.masked_bias"].isinf()
    assert after["gpt_neox.layers.3.attention.rotary_emb.inv_freq"].isnan().all()
    assert f"gpt_neox.layers.{DEPTH - 1}.attention.masked_bias" not in after
    assert_computes_what_is_left(model, directory, 2)


def test_a_used_weight_that_is_not_finite_is_refused(model_of, cut):
    name = "gpt_neox.layers.4.attention.dense.weight"
    with pytest.raises(NumericalError, match=name):
        cut(model_of("gpt_neox", lambda tensors: {**tensors, name: tensors[name] / 0}), 2)


def test_tied_by_the_config_and_another_head_stored(model_of, cut):
    model = model_of("llama", tie_word_embeddings=True)
    directory, _ = cut(model, 2)
    assert torch.equal(stored(directory)["lm_head.weight"], stored(model)["lm_head.weight"])
    assert_computes_what_is_left(model, directory, 2)


def test_a_checkpoint_of_the_head_alone(model_of, cut):
    def head_alone(tensors):
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
        return tensors

    model = model_of("llama", head_alone, tie_word_embeddings=True)
    directory, _ = cut(model, 2)
    assert "model.embed_tokens.weight" not in stored(directory)
    assert_computes_what_is_left(model, directory, 2)


@pytest.mark.parametrize("named", [["LlamaModel"], ["LLaMAForCausalLM"], [], None])
def test_names_of_the_architecture_that_transformers_takes(model_of, cut, named):
    model = model_of("llama", architectures=named)
    directory, _ = cut(model, 2)
    assert json.loads((directory / "config.json").read_text(encoding="utf-8"))["architectures"] == named
    shutil.rmtree(directory)

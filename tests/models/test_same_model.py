"""The model that runs block by block is the one that plain ``from_pretrained`` gives, whatever the files look like."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from llmprune.errors import CheckpointError
from llmprune.models.checkpoint_decoder import CheckpointDecoder
from llmprune.models.loading import load_whole, open_decoder
from llmprune.models.source import check_model
from llmprune.stages.block_search.evaluator import WindowEvaluator
from tests.tiny_models import FAMILIES, random_tokens
from tests.zoo import tiny_config

CPU = torch.device("cpu")
TOKENS = random_tokens(2, 24)
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
Relaid = Callable[..., Path]


def by_block(decoder: CheckpointDecoder) -> Tensor:
    """Logits of the model that runs block by block."""
    with torch.inference_mode():
        hidden = decoder.runner.embed(TOKENS)
        for block, call in enumerate(decoder.runner.calls(TOKENS)):
            with decoder.block(block):
                hidden = decoder.runner.forward_block(block, hidden, call)
        return decoder.runner.logits(hidden)


def assert_same_model(directory: Path, dtype: torch.dtype = torch.float32) -> Tensor:
    """It is taken, and every logit is the same, to the last bit; returns them."""
    check_model(directory)
    with torch.inference_mode():
        expected = load_whole(directory, device=CPU, dtype=dtype)(TOKENS, use_cache=False).logits
    found = by_block(open_decoder(directory, device=CPU, dtype=dtype))
    assert expected.isfinite().all()
    assert torch.equal(found, expected)
    return found


@pytest.fixture
def relaid(tmp_path: Path, checkpoint: Callable[[str], Path]) -> Relaid:
    """A copy of a family's checkpoint in which ``change`` made other tensors, and ``fields`` another config."""

    def make(family: str, change: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict, **fields: object) -> Path:
        directory = Path(shutil.copytree(checkpoint(family), tmp_path / "model"))
        tensors = {name: tensor.contiguous() for name, tensor in change(_stored(directory)).items()}
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        (directory / "config.json").write_text(json.dumps({**raw, **fields}), encoding="utf-8")
        return directory

    return make


def _stored(directory: Path) -> dict[str, Tensor]:
    return load_file(directory / "model.safetensors")


def without(*names: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_in_half_precision(relaid, family, dtype):
    assert_same_model(relaid(family), dtype)


@pytest.mark.parametrize("family", ["llama", "mixtral", "gemma3-multimodal"])
def test_in_shards(checkpoint, tmp_path, family):
    model = load_whole(checkpoint(family), device=CPU, dtype=torch.float32)
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert torch.equal(assert_same_model(tmp_path), assert_same_model(checkpoint(family)))


def test_tied_by_the_config_and_nothing_but_the_embedding_stored(relaid):
    assert_same_model(relaid("llama", without(HEAD), tie_word_embeddings=True))


def test_tied_by_the_config_and_an_equal_head_stored(relaid, checkpoint):
    directory = relaid("llama-tied", lambda tensors: {**tensors, HEAD: tensors[EMBEDDING].clone()})
    assert torch.equal(assert_same_model(directory), assert_same_model(checkpoint("llama-tied")))


def test_tied_by_the_config_and_another_head_stored(relaid, checkpoint):
    # transformers takes the stored head: the model is the same as the untied one.
    directory = relaid("llama", tie_word_embeddings=True)
    assert torch.equal(assert_same_model(directory), assert_same_model(checkpoint("llama")))


def test_tied_by_the_config_and_nothing_but_the_head_stored(relaid, checkpoint):
    directory = relaid("llama-tied", lambda tensors: {HEAD: tensors[EMBEDDING], **without(EMBEDDING)(tensors)})
    assert torch.equal(assert_same_model(directory), assert_same_model(checkpoint("llama-tied")))


def test_tied_and_the_index_names_a_head_that_is_not_stored(checkpoint, tmp_path):
    load_whole(checkpoint("llama-tied"), device=CPU, dtype=torch.float32).save_pretrained(
        tmp_path, max_shard_size="60KB"
    )
    index = tmp_path / "model.safetensors.index.json"
    told = json.loads(index.read_text(encoding="utf-8"))
    assert HEAD not in told["weight_map"]
    told["weight_map"][HEAD] = next(iter(told["weight_map"].values()))
    index.write_text(json.dumps(told), encoding="utf-8")
    assert torch.equal(assert_same_model(tmp_path), assert_same_model(checkpoint("llama-tied")))


@pytest.mark.parametrize("name", [HEAD, EMBEDDING])
def test_untied_by_the_config_and_one_of_both_missing(relaid, name):
    with pytest.raises(CheckpointError, match=f"lack {name}"):
        open_decoder(relaid("llama", without(name)), device=CPU)


@pytest.mark.parametrize(
    ("family", "prefix", "named"),
    [
        ("llama-tied", "model.", "LlamaModel"),
        ("llama", "model.", "LlamaForCausalLM"),
        ("gpt2", "transformer.", "GPT2Model"),
        ("bloom", "transformer.", "BloomModel"),
        ("falcon-rotary", "transformer.", "RWForCausalLM"),
        ("opt", "model.", "OPTModel"),
        ("gpt-neox", "gpt_neox.", None),
    ],
)
def test_without_the_prefix_of_the_base_model_and_under_old_names(relaid, checkpoint, family, prefix, named):
    short = {name: name.removeprefix(prefix) for name in _stored(checkpoint(family)) if name.startswith(prefix)}
    directory = relaid(
        family,
        lambda tensors: {short.get(name, name): t for name, t in tensors.items()},
        architectures=named and [named],
    )
    assert short
    assert torch.equal(assert_same_model(directory), assert_same_model(checkpoint(family)))


def test_a_text_model_inside_the_names_of_a_wrapper(relaid, checkpoint):
    def as_the_hub_has_it(tensors):
        new = {"model.language_model.": "language_model.model.", "model.vision_tower.": "vision_tower."}
        return {_respelled(name, new): tensor for name, tensor in tensors.items()}

    directory = relaid("gemma3-multimodal", as_the_hub_has_it)
    assert any(name.startswith("language_model.model.layers.") for name in _stored(directory))
    assert torch.equal(assert_same_model(directory), assert_same_model(checkpoint("gemma3-multimodal")))


def _respelled(name: str, new: dict[str, str]) -> str:
    return next((to + name.removeprefix(old) for old, to in new.items() if name.startswith(old)), name)


def test_old_masks_and_tables_beside_the_weights_change_nothing(relaid, checkpoint):
    def with_leftovers(tensors):
        masks = {f"gpt_neox.layers.{i}.attention.masked_bias": torch.tensor(-1e9).half() for i in range(6)}
        tables = {f"gpt_neox.layers.{i}.attention.rotary_emb.inv_freq": torch.full((2,), torch.nan) for i in range(6)}
        return {**tensors, **masks, **tables}

    directory = relaid("gpt-neox", with_leftovers)
    assert torch.equal(assert_same_model(directory), assert_same_model(checkpoint("gpt-neox")))


def test_what_blocks_hand_on_in_float32_is_kept_in_float32(tmp_path):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(tiny_config("mamba"), dtype=torch.bfloat16).save_pretrained(tmp_path)
    decoder = open_decoder(tmp_path, device=CPU)
    evaluator = WindowEvaluator(decoder, TOKENS, batch_size=1)
    windows = range(evaluator.num_windows)
    states = evaluator.entering(windows)[None].clone()
    for block in range(evaluator.num_blocks):
        evaluator.apply_block(block, states, windows)
    logits = load_whole(tmp_path, device=CPU, dtype=torch.bfloat16)(TOKENS, use_cache=False).logits
    assert states.dtype == torch.float32
    assert torch.equal(decoder.runner.logits(states[0]), logits)


def test_in_the_dtype_that_is_asked_for_and_with_what_stays_in_float32(tmp_path):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config("deepseek_v3"), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    decoder = open_decoder(tmp_path, device=CPU)
    assert decoder.dtype == torch.bfloat16
    with decoder.block(3):
        router = decoder.blocks[3].mlp.gate
        assert (router.weight.dtype, router.e_score_correction_bias.dtype) == (torch.bfloat16, torch.float32)
    assert_same_model(tmp_path, torch.bfloat16)

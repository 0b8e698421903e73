"""What must hold for every family of models: one contract, over a tiny model of each."""

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.models.anatomy import find_blocks
from llmprune.models.block_output import Returned
from llmprune.models.capture import bypassed
from llmprune.models.loading import load_whole, open_decoder
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from llmprune.stages.common.workspace import Workspace
from tests.reference_search import skipped_logits
from tests.tiny_models import DEPTH, FAMILIES, random_tokens, save_tiny, tiny_model

CPU = torch.device("cpu")
REMOVALS = [(1, 4), (0, 5), (3,)]
DEPTH_NAMES = {"num_hidden_layers", "n_layer", "num_layers"}
TOKENS = random_tokens(2, 24)
Cut = Callable[[str, tuple[int, ...]], Path]


@pytest.fixture(scope="session")
def cut(checkpoint: Callable[[str], Path], workspace: Callable[[Path], Workspace]) -> Cut:
    """The checkpoint of a family without some blocks, written and verified by the stage itself."""
    spaces = cache(lambda family: workspace(checkpoint(family)))
    return cache(lambda family, blocks: remove_blocks(spaces(family), RemovalSettings(blocks=blocks)).directory)


@pytest.fixture(scope="session")
def dense(checkpoint: Callable[[str], Path]) -> Callable[[str], PreTrainedModel]:
    return cache(lambda family: whole(checkpoint(family)))


def whole(directory: Path) -> PreTrainedModel:
    return load_whole(directory, device=CPU, dtype=torch.float32)


def kept(removed: Sequence[int]) -> list[int]:
    return [block for block in range(DEPTH) if block not in removed]


def tensors(directory: Path) -> dict[str, Tensor]:
    checkpoint = open_checkpoint(directory)
    return checkpoint.load(checkpoint.tensors)


def text_fields(directory: Path) -> dict:
    raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return raw.get("text_config", raw)


def returned_by(model: PreTrainedModel) -> Returned:
    outputs = []
    block = find_blocks(model, model.config)[1][0]
    with block.register_forward_hook(lambda module, args, output: outputs.append(output)), torch.no_grad():
        model(TOKENS)
    return Returned(outputs[0])


def decode(model: PreTrainedModel, *, use_cache: bool) -> tuple[Tensor, Tensor]:
    """Greedily generated tokens, and the logits that chose them."""
    prompt = TOKENS[:, :10]
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=10,
        min_new_tokens=10,
        use_cache=use_cache,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return output.sequences, torch.stack(output.logits)


def anatomy_of(block: nn.Module) -> list[tuple[str, str]]:
    """Every module of a block: its kind, and the shapes of its own parameters."""
    return [
        (type(module).__name__, str([(name, p.shape) for name, p in module.named_parameters(recurse=False)]))
        for module in block.modules()
    ]


@pytest.mark.parametrize("family", FAMILIES)
class TestEveryFamily:
    @pytest.mark.parametrize("removed", REMOVALS)
    def test_removed_and_reloaded_computes_what_the_model_with_skipped_blocks_does(self, cut, dense, family, removed):
        model = dense(family)
        blocks = find_blocks(model, model.config)[1]
        unskipped, expected = (skipped_logits(model, TOKENS, skipped) for skipped in ((), removed))
        with bypassed(blocks, removed, returned_by(model)), torch.no_grad():
            by_us = model(TOKENS, use_cache=False).logits
            found = whole(cut(family, removed))(TOKENS, use_cache=False).logits
        torch.testing.assert_close(by_us, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert (unskipped - expected).abs().max() > 0.1, "skipping blocks must matter, or the test says nothing"

    @pytest.mark.parametrize("removed", REMOVALS)
    def test_generates_the_same_with_and_without_cache(self, cut, family, removed):
        model = whole(cut(family, removed))
        (cached, cached_logits), (plain, plain_logits) = (decode(model, use_cache=use) for use in (True, False))
        assert torch.equal(cached, plain)
        torch.testing.assert_close(cached_logits, plain_logits, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("removed", REMOVALS)
    def test_every_block_keeps_its_kind(self, cut, dense, family, removed):
        before, after = dense(family), whole(cut(family, removed))
        old, new = (find_blocks(model, model.config)[1] for model in (before, after))
        assert [anatomy_of(block) for block in new] == [anatomy_of(old[block]) for block in kept(removed)]

    @pytest.mark.parametrize("removed", REMOVALS)
    def test_per_block_config_fields_follow_the_blocks(self, checkpoint, cut, family, removed):
        old, new = (text_fields(path) for path in (checkpoint(family), cut(family, removed)))
        assert DEPTH_NAMES & set(new) == DEPTH_NAMES & set(old)
        assert {new[name] for name in DEPTH_NAMES & set(new)} == {DEPTH - len(removed)}
        config = AutoConfig.from_pretrained(cut(family, removed)).get_text_config(decoder=True)
        assert config.num_hidden_layers == DEPTH - len(removed)
        for name in ("layer_types", "attention_layers", "no_rope_layers"):
            if old.get(name) is not None:
                assert new[name] == getattr(config, name) == [old[name][block] for block in kept(removed)]

    @pytest.mark.parametrize("removed", REMOVALS)
    def test_kept_tensors_are_the_same_bit_for_bit_and_no_other_is_written(self, checkpoint, cut, family, removed):
        old, new = tensors(checkpoint(family)), tensors(cut(family, removed))
        assert_same_tensors(old, new, removed)

    def test_block_by_block_equals_from_pretrained(self, checkpoint, dense, family):
        decoder = open_decoder(checkpoint(family), device=CPU)
        hidden = decoder.runner.embed(TOKENS)
        for index, call in enumerate(decoder.runner.calls(TOKENS)):
            with decoder.block(index):
                hidden = decoder.runner.forward_block(index, hidden, call)
            assert all(parameter.is_meta for parameter in decoder.blocks.parameters())
        with torch.no_grad():
            expected = dense(family)(TOKENS, use_cache=False).logits
        torch.testing.assert_close(decoder.runner.logits(hidden), expected, atol=1e-5, rtol=0)
        some = decoder.runner.logits(hidden[:1, 3:5])
        torch.testing.assert_close(some, expected[:1, 3:5], atol=1e-5, rtol=0)

    def test_tokenizer_and_generation_config_come_along(self, checkpoint, cut, family):
        for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            assert (cut(family, (3,)) / name).read_bytes() == (checkpoint(family) / name).read_bytes()


def assert_same_tensors(old: dict[str, Tensor], new: dict[str, Tensor], removed: Sequence[int]) -> None:
    """``new`` is ``old`` without the blocks ``removed``, renumbered, equal in every bit."""
    stay = kept(removed)
    block_of = re.compile(r"^((?!vision|model\.vision).*?\b(?:layers|h)\.)(\d+)\.")
    expected = {}
    for name, tensor in old.items():
        match = block_of.match(name)
        if match is None:
            expected[name] = tensor
        elif int(match[2]) in stay:
            expected[f"{match[1]}{stay.index(int(match[2]))}.{name[match.end() :]}"] = tensor
    assert set(new) == set(expected)
    for name, tensor in expected.items():
        assert new[name].dtype == tensor.dtype
        assert torch.equal(new[name].view(torch.uint8), tensor.view(torch.uint8)), name


@pytest.mark.parametrize("family", ["llama-tied", "qwen3", "gemma2", "gemma3", "gpt2", "opt", "bloom"])
def test_tied_embeddings_stay_tied_and_are_stored_once(cut, family):
    directory = cut(family, (1, 4))
    assert not any("lm_head" in name for name in tensors(directory))
    model = whole(directory)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("family", ["llama", "mistral", "phi3", "gpt-neox", "mixtral"])
def test_untied_heads_are_kept(cut, family):
    model = whole(cut(family, (1, 4)))
    assert not torch.equal(model.get_output_embeddings().weight, model.get_input_embeddings().weight)


def test_qwen3_moe_blocks_stay_dense_or_sparse_whatever_their_new_index(cut):
    # Dense by decoder_sparse_step are 0, 2 and 4, by name 3; mixtures are 1 and 5.
    for removed, dense in [((1, 4), [0, 1, 2]), ((0, 5), [1, 2, 3]), ((3,), [0, 2, 3])]:
        config = AutoConfig.from_pretrained(cut("qwen3-moe", removed))
        assert (config.decoder_sparse_step, config.mlp_only_layers) == (1, dense)


def test_gemma4_fields_of_single_blocks_follow_them(cut):
    fields = [text_fields(cut("gemma4", removed))["per_layer_config"] for removed in REMOVALS]
    wide = {"head_dim": 16}  # the full attention blocks 1, 4 and 5
    assert fields == [{"3": wide}, {"0": wide, "3": wide}, {"1": wide, "3": wide, "4": wide}]


def test_llama4_names_every_block_that_is_left_a_mixture(cut):
    assert AutoConfig.from_pretrained(cut("llama4", (1, 4))).moe_layers == [0, 1, 2, 3]


def test_qwen2_counts_the_full_attention_blocks_that_are_left(cut):
    counts = [AutoConfig.from_pretrained(cut("qwen2", removed)).max_window_layers for removed in REMOVALS]
    assert counts == [1, 1, 2]


def test_a_vision_tower_as_deep_as_the_decoder_is_left_alone(checkpoint, cut):
    family = "gemma3-multimodal"
    old, new = (
        json.loads((path / "config.json").read_text(encoding="utf-8"))
        for path in (checkpoint(family), cut(family, (1, 4)))
    )
    assert new["vision_config"] == old["vision_config"]
    assert new["text_config"]["num_hidden_layers"] == 4


@pytest.mark.parametrize("family", ["gpt2", "bloom"])
def test_names_without_prefix_as_on_the_hub(tmp_path, workspace, family):
    directory = save_tiny(family, tmp_path / "hub")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors(directory).items()}
    assert "h.0.ln_1.weight" in bare or "h.0.input_layernorm.weight" in bare
    # Old GPT-2 checkpoints also store the causal mask of every block.
    bare |= {f"h.{block}.attn.bias": torch.ones(1, 1, 8, 8).tril() for block in range(DEPTH) if family == "gpt2"}
    save_file(bare, directory / "model.safetensors", metadata={"format": "pt"})
    result = remove_blocks(workspace(directory), RemovalSettings(blocks=(1, 4))).directory
    assert_same_tensors(bare, tensors(result), (1, 4))
    expected = skipped_logits(tiny_model(family), TOKENS, (1, 4))
    torch.testing.assert_close(skipped_logits(whole(result), TOKENS, ()), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["llama", "qwen3-moe"])
def test_several_shards_in_and_out(tmp_path, workspace, family):
    directory = save_tiny(family, tmp_path / "sharded", max_shard_size="40KB")
    assert len(list(directory.glob("*.safetensors"))) > 3
    settings = RemovalSettings(blocks=(0, 3), max_shard_bytes=40_000)
    result = remove_blocks(workspace(directory), settings).directory
    assert len(list(result.glob("*.safetensors"))) > 3
    assert_same_tensors(tensors(directory), tensors(result), (0, 3))


def test_bfloat16_stays_bfloat16(tmp_path, workspace):
    directory = tmp_path / "half"
    tiny_model("llama").to(torch.bfloat16).save_pretrained(directory)
    report = remove_blocks(workspace(directory), RemovalSettings(blocks=(2,)))
    assert report.record.verification.dtype == "bfloat16"
    assert_same_tensors(tensors(directory), tensors(report.directory), (2,))


def test_a_head_stored_beside_the_embedding_it_is_tied_to_is_dropped(tmp_path, workspace):
    directory = save_tiny("llama-tied", tmp_path / "twice")
    stored = load_file(directory / "model.safetensors")
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"].clone()
    save_file(stored, directory / "model.safetensors", metadata={"format": "pt"})
    result = remove_blocks(workspace(directory), RemovalSettings(blocks=(2,))).directory
    assert "lm_head.weight" not in tensors(result)
    del stored["lm_head.weight"]
    assert_same_tensors(stored, tensors(result), (2,))


@pytest.mark.parametrize("family", ["gemma3", "qwen3-moe", "gpt2"])
def test_removing_twice_is_removing_the_union(tmp_path, workspace, cut, family):
    once = cut(family, (1, 4))  # 0, 2, 3 and 5 are left, and 3 is now block 2
    twice = remove_blocks(workspace(once), RemovalSettings(blocks=(2,), out=tmp_path / "twice")).directory
    union = cut(family, (1, 3, 4))
    assert (twice / "config.json").read_text() == (union / "config.json").read_text()
    assert (twice / "model.safetensors").read_bytes() == (union / "model.safetensors").read_bytes()

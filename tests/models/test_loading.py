"""Opening checkpoints block by block, and one clear sentence for every one that cannot be opened."""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration
from transformers.models.gemma3 import Gemma3ForCausalLM, Gemma3TextConfig
from transformers.models.vit import ViTConfig, ViTForImageClassification

from llmprune.errors import CheckpointError, LlmpruneError, ModelError
from llmprune.models import source
from llmprune.models.config import load_config
from llmprune.models.loading import load_tokenizer, load_whole, open_decoder, open_shell, shell_of, stored_dtype
from llmprune.models.source import check_model
from tests.tiny_models import DEPTH, random_tokens, save_tiny, tiny_model

CPU = torch.device("cpu")
SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}


def opened(directory: Path, **options):
    return open_decoder(directory, device=CPU, **options)


@pytest.fixture
def changed(tmp_path, checkpoint):
    """A copy of a tiny checkpoint with other config fields or tensors; None as a tensor takes it away."""

    def make(family="llama", *, fields=None, tensors=None):
        directory = Path(shutil.copytree(checkpoint(family), tmp_path / "changed", dirs_exist_ok=True))
        raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        (directory / "config.json").write_text(json.dumps({**raw, **(fields or {})}), encoding="utf-8")
        stored = {**load_file(directory / "model.safetensors"), **(tensors or {})}
        stored = {name: tensor for name, tensor in stored.items() if tensor is not None}
        save_file(stored, directory / "model.safetensors", metadata={"format": "pt"})
        return directory

    return make


def complaint(kind: type[LlmpruneError], action) -> str:
    """The message of an error, which must be one line and no leftover of a traceback."""
    with pytest.raises(kind) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert "Traceback" not in message
    return message


def test_one_block_of_weights_is_there_at_a_time(checkpoint):
    decoder = opened(checkpoint("llama"))
    assert not any(p.is_meta for name, p in decoder.model.named_parameters() if ".layers." not in name)
    assert all(p.is_meta for p in decoder.blocks.parameters())
    with decoder.block(3):
        has_weights = [not any(p.is_meta for p in block.parameters()) for block in decoder.blocks]
        assert has_weights == [index == 3 for index in range(DEPTH)]
        expected = tiny_model("llama").model.layers[3].state_dict()
        assert all(torch.equal(p, expected[name]) for name, p in decoder.blocks[3].state_dict().items())
    assert all(p.is_meta for p in decoder.blocks.parameters())


def test_a_block_is_given_up_even_when_running_it_fails(checkpoint):
    decoder = opened(checkpoint("llama"))
    with pytest.raises(KeyError), decoder.block(3):
        raise KeyError
    assert all(p.is_meta for p in decoder.blocks.parameters())


def test_all_blocks_may_be_open_together(checkpoint):
    decoder = opened(checkpoint("mixtral"))
    tokens = random_tokens(2, 9)
    with ExitStack() as stack, torch.no_grad():
        for block in (*range(DEPTH), 2):
            stack.enter_context(decoder.block(block))
        assert not any(p.is_meta for p in decoder.model.parameters())
        torch.testing.assert_close(decoder.model(tokens).logits, tiny_model("mixtral")(tokens).logits)
    assert all(p.is_meta for p in decoder.blocks.parameters())


def test_dtype_is_the_stored_one_unless_another_is_asked_for(tmp_path):
    directory = tmp_path / "half"
    tiny_model("llama").to(torch.bfloat16).save_pretrained(directory)
    decoder = opened(directory)
    assert stored_dtype(decoder.checkpoint) == decoder.dtype == torch.bfloat16
    wide = opened(directory, dtype=torch.float32)
    with wide.block(1):
        assert {p.dtype for p in wide.blocks[1].parameters()} == {torch.float32}
    assert wide.block_bytes(1) == 2 * decoder.block_bytes(1)
    assert decoder.block_bytes(1) == sum(2 * p.numel() for p in decoder.blocks[1].parameters())


@pytest.mark.parametrize("name", ["model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"])
def test_parameters_outside_the_blocks_that_are_missing_are_named(changed, name):
    assert name in complaint(CheckpointError, lambda: opened(changed(tensors={name: None})))


def test_a_parameter_that_a_block_lacks_is_named_before_any_is_loaded(changed):
    directory = changed(tensors={"model.layers.3.mlp.up_proj.weight": None})
    for look in (opened, check_model, lambda path: open_shell(path, device=CPU)):
        assert "model.layers.3.mlp.up_proj.weight" in complaint(CheckpointError, lambda look=look: look(directory))


@pytest.mark.parametrize("name", ["model.norm.weight", "lm_head.weight", "model.layers.0.mlp.up_proj.weight"])
def test_wrong_shapes_are_named_with_what_the_config_asks_for(changed, name):
    message = complaint(CheckpointError, lambda: opened(changed(tensors={name: torch.zeros(7, 5)})))
    assert message.startswith(f"{name} has shape (7, 5)")
    assert "config.json asks for" in message


@pytest.mark.parametrize("tensor", [None, torch.zeros(7, 5)], ids=["missing", "shape"])
def test_an_expert_that_is_missing_or_misshapen_is_told_in_one_sentence(changed, checkpoint, tensor):
    name = next(n for n in load_file(checkpoint("mixtral") / "model.safetensors") if "layers.3" in n and "1.w1" in n)
    message = complaint(CheckpointError, lambda: opened(changed("mixtral", tensors={name: tensor})))
    assert message.startswith("model.layers.3.mlp.experts")


def test_a_config_of_more_blocks_than_the_weights_hold_is_refused(changed):
    message = complaint(CheckpointError, lambda: opened(changed(fields={"num_hidden_layers": DEPTH + 1})))
    assert f"promises {DEPTH + 1} blocks" in message


def test_what_was_seen_to_fit_is_looked_at_again_once_config_or_weights_change(changed, monkeypatch):
    shells = []
    monkeypatch.setattr(
        source, "shell_of", lambda *given, **options: shells.append(given) or shell_of(*given, **options)
    )
    fields = {"rope_theta": 12345.0}  # no other test's model
    assert check_model(changed(fields=fields))[0] == check_model(changed(fields=fields))[0]
    assert len(shells) == 1
    wider = changed(fields={**fields, "intermediate_size": 7})
    assert "has shape" in complaint(CheckpointError, lambda: check_model(wider))
    shorter = changed(fields=fields, tensors={"model.norm.weight": None})
    assert "model.norm.weight" in complaint(CheckpointError, lambda: check_model(shorter))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_quantized_weights_without_their_config_are_refused_by_name(changed, checkpoint, dtype):
    name = "model.layers.3.mlp.up_proj.weight"
    stored = load_file(checkpoint("llama") / "model.safetensors")[name]
    message = complaint(CheckpointError, lambda: check_model(changed(tensors={name: stored.to(dtype)})))
    assert message.startswith(f"{name} is stored as ")
    assert "quantization_config" in message


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("adapter_config.json", {"peft_type": "LORA"}, "merge it into the weights"),
        ("config.json", {"transformers_weights": "other.safetensors"}, "other.safetensors"),
    ],
)
def test_what_makes_plain_transformers_load_something_else_is_refused(changed, name, content, told):
    directory = changed(fields=content if name == "config.json" else None)
    if name != "config.json":
        (directory / name).write_text(json.dumps(content), encoding="utf-8")
    assert told in complaint(ModelError, lambda: opened(directory))


@pytest.mark.parametrize(
    "fields",
    [
        {"num_hidden_layers": 0},
        {"num_hidden_layers": "six"},
        {"num_hidden_layers": None},
        {"num_attention_heads": 5},
        {"hidden_act": "unheard-of"},
        {"vocab_size": -5},
        {"rope_parameters": {"rope_type": "unheard-of"}},
        {"layer_types": ["full_attention"]},
        {"model_type": "unheard-of"},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_configs_that_describe_no_model_are_refused_in_one_sentence(changed, fields):
    complaint(ModelError, lambda: opened(changed(fields=fields)))


@pytest.mark.parametrize(
    "fields",
    [
        {"attn_implementation": "org/kernel"},
        {"_attn_implementation": "paged|kernels-community/flash-attn2"},
        {"attn_implementation": {"text_config": "org/kernel@v1:function"}},
        {"text_config": {"_attn_implementation": "org/kernel"}},
        {"experts_implementation": "org/experts"},
    ],
)
def test_kernels_from_the_hub_are_refused(changed, fields):
    said = complaint(ModelError, lambda: opened(changed(fields=fields)))
    assert "asks for kernels from the Hub" in said
    assert "delete that line" in said


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '"text"', "\xff"])
def test_a_config_that_is_no_config_is_refused(changed, content):
    directory = changed()
    (directory / "config.json").write_bytes(content.encode("latin-1"))
    assert "config.json" in complaint(ModelError, lambda: load_config(directory))


def test_a_directory_without_config_is_refused(tmp_path):
    assert "no config.json" in complaint(ModelError, lambda: load_config(tmp_path))


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (lambda: T5ForConditionalGeneration(T5Config(vocab_size=64, d_model=16, d_kv=8, num_layers=2)), "encoder-dec"),
        (lambda: ViTForImageClassification(ViTConfig(**{k: v for k, v in SMALL.items() if k != "vocab_size"})), "vit"),
        (lambda: BertForMaskedLM(BertConfig(**SMALL)), "tokens see the ones after them"),
        (
            lambda: Gemma3ForCausalLM(
                Gemma3TextConfig(**SMALL, num_key_value_heads=1, head_dim=8, use_bidirectional_attention=True)
            ),
            "tokens see the ones after them",
        ),
    ],
    ids=["t5", "vit", "bert", "bidirectional-gemma3"],
)
def test_what_is_no_causal_language_model_is_refused(tmp_path, model, told):
    torch.manual_seed(0)
    model().save_pretrained(tmp_path / "model")
    assert told in complaint(ModelError, lambda: opened(tmp_path / "model"))


def test_an_encoder_turned_decoder_is_a_causal_language_model(tmp_path):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(BertConfig(**SMALL, is_decoder=True)).save_pretrained(tmp_path / "model")
    assert len(opened(tmp_path / "model").blocks) == 2


def test_a_missing_tokenizer_is_told(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    assert "no usable tokenizer" in complaint(ModelError, lambda: load_tokenizer(tmp_path / "model"))


@pytest.mark.parametrize("fields", [{"hidden_size": 64}, {"hidden_act": "unheard-of"}, {"model_type": "unheard-of"}])
def test_what_transformers_cannot_load_is_told_in_one_sentence(changed, fields):
    directory = changed(fields=fields)
    message = complaint(ModelError, lambda: load_whole(directory, device=CPU, dtype=torch.float32))
    assert "transformers cannot load" in message


def test_opening_says_nothing(tmp_path, capfd):
    opened(save_tiny("llama", tmp_path / "model"))
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")

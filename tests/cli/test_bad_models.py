"""A model that is none, or is broken: one clear sentence, exit code 2, nothing written."""

import json
import os
import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, T5Config

from llmprune.artifacts.activations import open_calibration
from tests.cli.world import refused
from tests.pickled import Code, pickle_weights
from tests.tiny import save_tiny_llama

SHARD = "pytorch_model-00002-of-00002.bin"


def _no_model(world):
    return world.folder / "nosuch"


def _text_file(world):
    return world.text


def _no_gguf(world):
    (world.folder / "bad.gguf").write_bytes(b"not a model at all")
    return world.folder / "bad.gguf"


def _config(**changes):
    def damage(world):
        world.edit_json(world.model / "config.json", **changes)
        return world.model

    return damage


def _config_text(text):
    def damage(world):
        (world.model / "config.json").write_text(text)
        return world.model

    return damage


def _pipe(name):
    def damage(world):
        (world.model / name).unlink(missing_ok=True)
        os.mkfifo(world.model / name)
        return world.model

    return damage


def _named(name):
    def damage(world):
        (world.model / name).write_text("mine")
        return world.model

    return damage


def _other_task(config):
    def damage(world):
        config.save_pretrained(world.model)
        return world.model

    return damage


def _without(*patterns):
    def damage(world):
        for pattern in patterns:
            for path in world.model.glob(pattern):
                path.unlink()
        return world.model

    return damage


def _pickles(change):
    def damage(world):
        pickle_weights(world.model, load_file(world.model / "model.safetensors"), num_shards=2)
        change(world.model / SHARD, world.model / "pytorch_model.bin.index.json")
        return world.model

    return damage


def _with_code(shard, _):
    torch.save({"lm_head.weight": Code(shard.with_name("ran"))}, shard)


def _outside(_, index):
    content = json.loads(index.read_text())
    first = next(iter(content["weight_map"]))
    index.write_text(json.dumps({"weight_map": {**content["weight_map"], first: "../../etc/secret.bin"}}))


def _missing_shard(world):
    sorted(world.sharded.glob("*.safetensors"))[1].unlink()
    return world.folder / "mine"


def _bytes(change):
    def damage(world):
        path = world.model / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))
        return world.model

    return damage


def _index_outside(world):
    directory = world.sharded
    index = directory / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    first = next(iter(content["weight_map"]))
    world.edit_json(index, weight_map={**content["weight_map"], first: "../../etc/secret.safetensors"})
    return directory


def _weight(value):
    def damage(world):
        world.edit_weights("model.layers.3.self_attn.q_proj.weight", value)
        return world.model

    return damage


BROKEN_MODELS = {
    "no such model": (_no_model, "There is no model at"),
    "a text file": (_text_file, "not a GGUF one"),
    "a file that is no GGUF": (_no_gguf, "cannot be read as a GGUF model"),
    "BERT": (_other_task(BertConfig(architectures=["BertForMaskedLM"])), "not a causal language model"),
    "T5": (_other_task(T5Config(architectures=["T5ForConditionalGeneration"])), "is an encoder-decoder"),
    "more blocks than weights": (_config(num_hidden_layers=8), "promises 8 blocks, but the weights hold 6"),
    "a million layers": (_config(num_hidden_layers=1_000_000), "num_hidden_layers = 1000000; at most 10000"),
    "more layers than tensors": (_config(num_hidden_layers=9_000), "promises 9000 blocks, but the weights hold 56"),
    "layers of a tower": (_config(vision_config={"depth": 10**9}), "has depth = 1000000000; at most 10000"),
    "a number without end": (_config_text('{"hidden_size": ' + "9" * 4_000 + "}"), "a number of 4000 digits"),
    "a pipe for a config": (_pipe("config.json"), "config.json cannot be read as JSON: it is no regular file"),
    "a pipe for a tokenizer": (_pipe("tokenizer.json"), "tokenizer.json is a pipe, a socket or a device"),
    "a pipe for an index": (_pipe("model.safetensors.index.json"), "is a pipe, a socket or a device"),
    "a name of other bytes": (
        _named(os.fsdecode(b"LICENSE-\xe9")),
        r"LICENSE-\udce9 has a name that is not valid UTF-8",
    ),
    "commands for a terminal": (_config(model_type="\x1b[2Jx\n"), r"\x1b[2Jx"),
    "layer_types of another depth": (_config(layer_types=["full_attention"]), "must be equal to the number of"),
    "no blocks": (_config(num_hidden_layers=0), "a positive integer was expected"),
    "blocks in words": (_config(num_hidden_layers="six"), "num_hidden_layers"),
    "an unknown type": (_config(model_type="nosuch"), "nosuch"),
    "an unknown activation": (_config(hidden_act="nosuch"), "nosuch"),
    "heads that do not divide": (_config(num_attention_heads=5), "not a multiple"),
    "quantized": (_config(quantization_config={"quant_method": "gptq", "bits": 4}), "quantized"),
    "no config": (_without("config.json"), "no config.json"),
    "broken config": (_config_text("{"), "cannot be read as JSON"),
    "config of null": (_config_text("null"), "an object was expected"),
    "config without end": (_config_text("[" * 100_000), "cannot be read as JSON"),
    "no weights": (_without("*.safetensors"), "holds no weights"),
    "a truncated pickle": (_pickles(lambda shard, _: os.truncate(shard, 5000)), f"{SHARD} is cut off, or no file of"),
    "a pickle with code": (_pickles(_with_code), f"{SHARD} needs posix.system, more than tensors"),
    "a missing shard of pickles": (
        _pickles(lambda shard, _: shard.unlink()),
        f"{SHARD}, named by pytorch_model",
    ),
    "an index of pickles to elsewhere": (_pickles(_outside), "secret.bin', a file outside its folder"),
    "pickles without an index": (_pickles(lambda _, index: index.unlink()), "but none of model.safetensors, model.s"),
    "a missing shard": (_missing_shard, "is missing; download it again"),
    "a truncated file": (_bytes(lambda content: content[:-100]), "is cut off"),
    "an empty file": (_bytes(lambda content: b""), "is cut off"),
    "a wrong header": (_bytes(lambda content: b"\xff" * 8 + content[8:]), "no safetensors file"),
    "an LFS pointer": (_bytes(lambda content: b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "an index to elsewhere": (_index_outside, "a file outside its folder"),
    "NaN": (_weight(float("nan")), "NaN or infinity in the weights model.layers.3.self_attn.q_proj.weight"),
    "infinity": (_weight(float("inf")), "NaN or infinity in the weights model.layers.3.self_attn.q_proj.weight"),
}


@pytest.mark.parametrize("command", ["calibrate", "remove-blocks", "bench"])
@pytest.mark.parametrize("case", BROKEN_MODELS)
def test_a_broken_model_is_refused(case, command, world, llmprune):
    damage, words = BROKEN_MODELS[case]
    options = {
        "calibrate": ["--source", world.text, "--samples", 2, "--seq-len", 16],
        "remove-blocks": ["--blocks", "1"],
        "bench": ["--ppl", world.text, "--ppl-seq-len", 16, "--no-speed"],
    }[command]
    model = damage(world)
    complaint = refused(llmprune, world.folder, [command, model, *options, "--run", world.folder / "new"])
    assert words in complaint


@pytest.mark.parametrize("tokenizer", [None, "{", "{}"])
def test_a_model_without_a_usable_tokenizer_is_refused(tokenizer, world, llmprune):
    (world.model / "tokenizer.json").unlink()
    if tokenizer is not None:
        (world.model / "tokenizer.json").write_text(tokenizer)
    words = ["calibrate", world.model, "--source", world.text, "--seq-len", 16, "--run", world.folder / "new"]
    assert "no usable tokenizer" in refused(llmprune, world.folder, words)


@pytest.mark.parametrize(
    "words",
    [
        ["calibrate", "--source", "{text}", "--samples", 2, "--seq-len", 16],
        ["bench", "--ppl", "{text}", "--ppl-seq-len", 16, "--no-speed"],
    ],
)
def test_tokens_that_the_model_has_no_embeddings_for_are_refused_before_the_pass(words, world, llmprune):
    small = save_tiny_llama(world.folder / "small", vocab_size=60)  # of the 99 tokens of its tokenizer
    words = [words[0], small, *(str(word).format(text=world.text) for word in words[1:])]
    complaint = refused(llmprune, world.folder, [*words, "--run", world.folder / "new"])
    assert re.search(
        r"The text has token [6-9]\d, and the model has embeddings for 60 tokens, 0 to 59; take", complaint
    )


def test_text_of_known_tokens_alone_needs_no_other_embeddings(world, llmprune):
    """A tokenizer often has tokens added that a model was never given: they matter only where a text has them."""
    small = save_tiny_llama(world.folder / "small", vocab_size=60)
    text = world.folder / "capitals.txt"
    text.write_text("THE SEA ISLAND 123 " * 200)
    words = ["calibrate", small, "--source", text, "--samples", 2, "--seq-len", 16, "--run", world.folder / "new"]
    assert llmprune(*words).exit_code == 0


@pytest.mark.parametrize("command", ["calibrate", "remove-blocks", "bench"])
def test_code_that_came_with_a_model_needs_the_flag(command, world, llmprune):
    world.edit_json(world.model / "config.json", model_type="own", auto_map={"AutoConfig": "own.Own"})
    (world.model / "own.py").write_text("raise SystemExit")
    options = {"calibrate": ["--source", world.text], "remove-blocks": ["--blocks", "1"], "bench": ["--no-speed"]}
    complaint = refused(
        llmprune, world.folder, [command, world.model, *options[command], "--run", world.folder / "new"]
    )
    assert "needs Python code that came with it; read it, and type --trust-remote-code to let it run." in complaint


@pytest.mark.parametrize("positions", [-1, 0, 1, 10**12])
@pytest.mark.parametrize("command", ["calibrate", "remove-blocks", "bench"])
def test_a_number_of_positions_that_tells_nothing_is_no_limit(positions, command, world, llmprune):
    """Rotary positions do not need it; a model with a table of positions is refused where the two disagree."""
    world.edit_json(world.model / "config.json", max_position_embeddings=positions)
    options = {
        "calibrate": ["--source", world.text, "--samples", 1],
        "remove-blocks": ["--blocks", "1"],
        "bench": ["--ppl", world.text, "--max-windows", 1, "--no-speed"],
    }[command]
    result = llmprune(command, world.model, *options, "--run", world.folder / "new")
    assert result.exit_code == 0, result.stderr
    if command == "calibrate":
        assert open_calibration(world.folder / "new" / "calibration").manifest.seq_len == 2048


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "model.norm.weight",
            3e38,
            "look at model.norm.weight, which has the largest weight outside",
        ),
        ("model.layers.3.self_attn.q_proj.weight", 3e38, "(first in model.layers.3.self_attn.q_proj.weight)"),
        ("model.layers.2.mlp.down_proj.weight", 1e30, "update_norm of state.json would be inf"),
    ],
)
def test_finite_weights_that_are_far_too_large_are_told_from_a_fault_of_ours(name, value, words, world, llmprune):
    world.edit_weights(name, value)
    options = ["--source", world.text, "--samples", 2, "--seq-len", 16, "--run", world.folder / "new"]
    result = llmprune("calibrate", world.model, *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert words in " ".join(result.stderr.split())
    assert "Unexpected" not in result.stderr


def test_a_source_that_computes_nan_is_no_fault_of_what_is_written(world, llmprune):
    world.edit_weights("model.norm.weight", 3e38)
    result = llmprune("remove-blocks", world.model, "--blocks", "1", "--run", world.folder / "new")
    assert result.exit_code == 1
    assert "The source computes NaN or infinity in float32, with which nothing can be compared" in result.stderr
    assert not list(world.folder.glob("new/*failed"))

"""Where blocks are between their uses: the weights are the same everywhere, and files are read when they must be."""

import threading

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint
from llmprune.artifacts.checkpoints.finiteness import NonFiniteWeightsError
from llmprune.models.checkpoint_decoder import CheckpointDecoder
from llmprune.models.loading import open_decoder
from tests.tiny_models import DEPTH, random_tokens, save_tiny, tiny_model

CPU = torch.device("cpu")


@pytest.fixture
def decoder(checkpoint):
    return open_decoder(checkpoint("llama"), device=CPU)


def walk(decoder, blocks=range(DEPTH)):
    """The weights of each block, as they were while it was open."""
    seen = {}
    for block in blocks:
        with decoder.block(block):
            seen[block] = {name: value.clone() for name, value in decoder.blocks[block].state_dict().items()}
    return seen


def assert_the_models_own(seen):
    for block, weights in seen.items():
        expected = tiny_model("llama").model.layers[block].state_dict()
        assert weights.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in weights.items())


@pytest.mark.parametrize(
    ("device", "host", "read_again"),
    [(0, 0, DEPTH), (2, 0, DEPTH - 2), (1, 2, DEPTH - 3), (DEPTH, 0, 0), (0, DEPTH, 0), (2.5, 1.5, DEPTH - 3)],
)
def test_a_block_is_the_same_wherever_it_is_kept(decoder, device, host, read_again):
    size = decoder.block_bytes(0)
    decoder.keep(device=int(device * size), host=int(host * size))
    assert_the_models_own(walk(decoder))
    before = decoder.residency.bytes_read
    for _ in range(2):
        assert_the_models_own(walk(decoder))
    assert decoder.residency.bytes_read - before == 2 * read_again * size
    assert (decoder.pass_seconds > 0) == (read_again > 0)
    assert all(parameter.is_meta for parameter in decoder.blocks.parameters())


@pytest.mark.parametrize("kept", [0, DEPTH])
def test_a_change_of_an_open_block_goes_with_it(decoder, kept):
    decoder.keep(device=kept * decoder.block_bytes(0), host=0)
    for _ in range(2):
        with decoder.block(1):
            layer = decoder.blocks[1].self_attn.q_proj
            layer.weight = torch.nn.Parameter(torch.zeros_like(layer.weight))
        assert_the_models_own(walk(decoder, [1]))


def test_the_next_block_is_read_by_a_thread_while_one_is_open(decoder, monkeypatch):
    read, fetched = [], threading.Event()
    whole = CheckpointDecoder.read_block

    def noting(self, index):
        read.append((index, threading.current_thread() is threading.main_thread()))
        if index == 2:
            fetched.set()
        return whole(self, index)

    monkeypatch.setattr(CheckpointDecoder, "read_block", noting)
    decoder.expect([0, 2, 5])
    with decoder.block(0):
        assert fetched.wait(60), "block 2 is read though nobody asks for it yet"
        assert read == [(0, True), (2, False)]
    assert_the_models_own(walk(decoder, [2, 5]))
    assert read == [(0, True), (2, False), (5, False)]  # behind the last expected block nothing is read
    assert_the_models_own(walk(decoder, [0, 3, 5]))  # another block than expected
    assert [index for index, _ in read[3:]] == [0, 2, 3, 5]


def test_weights_that_are_not_finite_are_named_when_their_block_is_read(tmp_path):
    path = save_tiny("llama", tmp_path / "model") / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.3.mlp.up_proj.weight"][1, 2] = float("nan")
    tensors["model.layers.3.mlp.down_proj.weight"][1, 2] = float("inf")
    save_file(tensors, path, {"format": "pt"})
    decoder = open_decoder(path.parent, device=CPU)
    assert_the_models_own(walk(decoder, range(3)))
    with pytest.raises(NonFiniteWeightsError, match=r"layers\.3\.mlp\.(up|down)_proj\.weight, .*layers\.3\.mlp\."):
        walk(decoder, [3])


def test_blocks_are_taken_from_other_files_from_then_on(decoder, checkpoint, tmp_path):
    decoder.keep(device=10**9, host=0)
    walk(decoder, [0])
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({name: 2 * load_file(checkpoint("llama") / "model.safetensors")[name]}, tmp_path / "newer.safetensors")
    decoder.read_from(decoder.checkpoint.overlaid([tmp_path / "newer.safetensors"]))
    found = walk(decoder, [1])[1]["mlp.up_proj.weight"]
    assert torch.equal(found, 2 * tiny_model("llama").model.layers[1].mlp.up_proj.weight)


def test_an_open_blocks_stored_tensors_are_not_read_again(decoder, monkeypatch):
    name, other = "model.layers.2.mlp.up_proj.weight", "model.layers.3.mlp.up_proj.weight"
    expected, read = decoder.stored([name])[name].clone(), []
    load = Checkpoint.load
    monkeypatch.setattr(Checkpoint, "load", lambda self, names: read.extend(names := list(names)) or load(self, names))
    with decoder.block(2):
        found = decoder.stored([other, name])
    assert (found.keys(), read) == ({name, other}, [other])
    assert torch.equal(found[name], expected)


def test_a_streamed_model_computes_what_the_whole_one_does(decoder):
    tokens = random_tokens(2, 9)
    hidden, calls = decoder.runner.embed(tokens), decoder.runner.calls(tokens)
    for block, call in enumerate(calls):
        with decoder.block(block):
            hidden = decoder.runner.forward_block(block, hidden, call)
    with torch.no_grad():
        assert torch.equal(decoder.runner.logits(hidden), tiny_model("llama")(tokens).logits)

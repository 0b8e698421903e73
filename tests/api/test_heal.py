"""Healing from Python: in memory and on disk are one result."""

import pytest
import torch

import llmprune
from llmprune.errors import ArtifactError, TargetError
from tests.api.conftest import same_tensors, whole
from tests.tiny_models import random_tokens, tiny_model

FAMILIES = ("opt", "gpt2", "gpt-neox", "qwen3-moe")  # with biases, stored the other way, side by side, experts
GONE = (2, 4)


@pytest.fixture(scope="module")
def sampled(loaded):
    """Windows that a family's model writes itself: on them, to be closer to the dense model is to lose less."""

    def sampled(family):
        torch.manual_seed(0)
        return loaded(family).generate(
            random_tokens(24, 1), do_sample=True, top_k=0, min_new_tokens=63, max_new_tokens=63
        )

    return sampled


@pytest.mark.parametrize("family", FAMILIES)
def test_in_memory_it_is_what_the_command_writes(family, loaded, checkpoint, sampled, tmp_path):
    windows, told = sampled(family), []
    smaller = llmprune.remove_blocks(loaded(family), GONE)
    before = {name: tensor.clone() for name, tensor in smaller.state_dict().items()}
    ours = llmprune.heal(smaller, loaded(family), windows, removed=GONE, on_block=told.append)
    assert all(torch.equal(tensor, before[name]) for name, tensor in smaller.state_dict().items())
    theirs = llmprune.remove_blocks(checkpoint(family), GONE, windows=windows, heal="all", out=tmp_path / "theirs")
    assert same_tensors(ours, whole(theirs.directory))
    assert [block.block for block in told] == [1, 2, 3]
    kept = [layer for block in told for layer in block.layers if layer.kept]
    assert kept and kept[-1].loss < kept[0].loss_before
    assert f"healed: loss on windows held back {kept[0].loss_before:.4f} -> {kept[-1].loss:.4f}" in repr(theirs)
    assert same_tensors(llmprune.remove_blocks(loaded(family), GONE, windows=windows, heal="all"), ours)


def test_blocks_whose_wiring_is_not_known_stay_as_they_are_and_it_is_said(checkpoint, sampled, tmp_path):
    windows = sampled("gemma2")  # whose FFN and attention give to a norm, and that to the stream
    plain = llmprune.remove_blocks(checkpoint("gemma2"), GONE)
    healed = llmprune.remove_blocks(checkpoint("gemma2"), GONE, windows=windows, heal="cut", out=tmp_path / "out")
    assert same_tensors(whole(healed.directory), plain)
    healing = healed.record.healing
    assert [remark.partition(":")[0] for remark in healing.remarks] == [f"Block {n} stays as it is" for n in (1, 2)]
    assert (healing.layers, healing.losses) == ((), None)
    assert str(healing.blocks[0]).startswith("block   1: no layer that can be solved")


def test_beside_experts_the_attention_is_solved_and_it_is_said(checkpoint, sampled, tmp_path):
    windows = sampled("mixtral")
    out = llmprune.remove_blocks(checkpoint("mixtral"), GONE, windows=windows, heal="all", out=tmp_path / "out")
    assert {layer.kind for layer in out.record.healing.layers} == {"self_attn.o_proj"}
    assert "Block 1: mlp.experts computes experts, which stay as they are" in out.record.healing.remarks


def test_biases_are_solved_too(loaded, sampled):
    smaller = llmprune.remove_blocks(loaded("opt"), GONE)
    healed = llmprune.heal(smaller, loaded("opt"), sampled("opt"), removed=GONE)
    old, new = smaller.state_dict(), healed.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed & {f"model.decoder.layers.{block}.fc2.bias" for block in (1, 2, 3)}
    assert {name.rpartition(".")[0] for name in changed if name.endswith("bias")} <= {
        name.rpartition(".")[0] for name in changed if name.endswith("weight")
    }


def test_a_checkpoint_on_disk(checkpoint, sampled, tmp_path):
    windows = sampled("llama")
    smaller = llmprune.remove_blocks(checkpoint("llama"), GONE, out=tmp_path / "smaller")
    healed = llmprune.heal(smaller.directory, checkpoint("llama"), windows, scope="cut", out=tmp_path / "healed")
    direct = llmprune.remove_blocks(checkpoint("llama"), GONE, windows=windows, heal="cut")
    assert same_tensors(whole(healed.directory), direct)
    assert healed.record.healing.settings.origins == (0, 1, 3, 5)
    assert healed.record.command is None  # no command has these windows


def test_zeros_in_memory_stay_zeros(loaded, sampled):
    windows = sampled("llama")
    sparse = llmprune.prune_weights(loaded("llama"), windows, pattern="2:4", method="magnitude")
    healed = llmprune.heal(sparse, loaded("llama"), windows)
    old, new = sparse.state_dict(), healed.state_dict()
    assert all(torch.equal(old[name] == 0, new[name] == 0) for name in old)
    assert any(not torch.equal(old[name], new[name]) for name in old)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "has 4 blocks and its teacher 6, so `removed` must name the 2 that are missing; it names 0"),
        ({"removed": GONE, "scope": "some"}, "`scope=some` is none of cut, all"),
        ({"removed": GONE, "out": "somewhere"}, "`out=somewhere` is about a model on disk"),
        ({"removed": GONE, "windows": None}, "No `windows` were given"),
        ({"removed": GONE, "windows": random_tokens(1, 16)}, "`samples=2` or more"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, words, loaded):
    smaller = llmprune.remove_blocks(loaded("llama"), GONE)
    with pytest.raises(TargetError, match=words):
        llmprune.heal(smaller, loaded("llama"), **{"windows": random_tokens(4, 16), **arguments})


def test_one_model_in_memory_and_one_on_disk_is_refused(loaded, checkpoint):
    with pytest.raises(TargetError, match="both in memory"):
        llmprune.heal(tiny_model("llama"), checkpoint("llama"), random_tokens(4, 16))
    with pytest.raises(TargetError, match="both as paths with `out`"):
        llmprune.heal(checkpoint("llama"), checkpoint("llama"), random_tokens(4, 16))
    with pytest.raises(TargetError, match="No `windows` were given"):
        llmprune.remove_blocks(loaded("llama"), GONE, heal="cut")
    with pytest.raises(ArtifactError, match="`removed` names block 9"):
        llmprune.heal(tiny_model("llama"), loaded("llama"), random_tokens(4, 16), removed=(9,))

"""Removing blocks from Python: the model in memory and the checkpoint on disk are one result."""

import pytest
import torch

import llmprune
from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.errors import ArtifactError, OutputExistsError, TargetError
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from tests.api.conftest import same_tensors, whole
from tests.tiny_models import DEPTH, random_tokens, tiny_model

FAMILIES = ("llama", "llama-tied", "opt", "gpt2", "mixtral", "gemma2", "qwen2")


@pytest.mark.parametrize("family", FAMILIES)
def test_in_memory_it_is_what_the_command_writes(family, loaded, checkpoint, workspace):
    written = remove_blocks(workspace(checkpoint(family)), RemovalSettings(blocks=(1, 3))).directory
    ours = llmprune.remove_blocks(loaded(family), [3, 1])
    theirs = whole(written)
    assert same_tensors(ours, theirs)
    with torch.no_grad():
        prompt = random_tokens(1, 8)
        assert torch.equal(ours(prompt).logits, theirs(prompt).logits)
        assert torch.equal(*(model.generate(prompt, max_new_tokens=6, do_sample=False) for model in (ours, theirs)))


@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "mixtral"])
def test_with_out_it_is_the_commands_checkpoint_bit_for_bit(family, checkpoint, workspace, tmp_path):
    written = remove_blocks(workspace(checkpoint(family)), RemovalSettings(blocks=(1, 3))).directory
    ours = llmprune.remove_blocks(checkpoint(family), [1, 3], out=tmp_path / "ours")
    assert ours.directory == tmp_path / "ours"
    for shard in open_checkpoint(written).shards:
        assert shard.read_bytes() == (ours.directory / shard.name).read_bytes()
    assert (written / "config.json").read_bytes() == (ours.directory / "config.json").read_bytes()
    assert ours.record.verification is not None


def test_saved_and_loaded_again_it_is_the_same(loaded, tmp_path):
    cut = llmprune.remove_blocks(loaded("gemma2"), [2])
    cut.save_pretrained(tmp_path)
    assert same_tensors(whole(tmp_path), cut)


def test_a_path_without_out_is_loaded_and_cut(checkpoint, loaded):
    assert same_tensors(llmprune.remove_blocks(checkpoint("llama"), [2]), llmprune.remove_blocks(loaded("llama"), [2]))


def test_a_ranking_removes_what_it_has_decided(loaded, tokens, checkpoint, tmp_path):
    ranking = llmprune.rank_blocks(loaded("llama"), tokens)
    with pytest.raises(TargetError, match="no round yet"):
        llmprune.remove_blocks(loaded("llama"), ranking)
    order = ranking.first(2)
    assert llmprune.remove_blocks(loaded("llama"), ranking).config.num_hidden_layers == DEPTH - 2
    written = llmprune.remove_blocks(checkpoint("llama"), ranking, out=tmp_path / "cut")
    removal = written.record.removal
    assert removal.removed == order
    assert (removal.metric, removal.dense_loss, removal.pruned_loss) == (
        "sleb",
        ranking.dense_loss,
        ranking.rounds[-1].loss,
    )


def test_a_target_ranks_first(loaded, tokens, checkpoint, tmp_path):
    order = llmprune.rank_blocks(loaded("llama"), tokens).first("20%")
    assert same_tensors(
        llmprune.remove_blocks(loaded("llama"), target="20%", windows=tokens),
        llmprune.remove_blocks(loaded("llama"), order),
    )
    written = llmprune.remove_blocks(
        checkpoint("llama"), target=2, windows=tokens, out=tmp_path / "cut", run=tmp_path / "run"
    )
    assert written.record.removal.removed == order
    assert (tmp_path / "run" / "importance.json").exists()


def test_a_target_takes_the_first_blocks_of_a_ranking(loaded, tokens):
    ranking = llmprune.rank_blocks(loaded("llama"), tokens)
    two = llmprune.remove_blocks(loaded("llama"), ranking, target=2)  # which decides two rounds
    one = llmprune.remove_blocks(loaded("llama"), ranking, target=1)
    assert (two.config.num_hidden_layers, one.config.num_hidden_layers) == (DEPTH - 2, DEPTH - 1)
    assert len(ranking.order) == 2


def test_the_model_can_still_be_used_and_the_new_one_trained():
    model = tiny_model("llama")
    prompt = random_tokens(1, 8)
    with torch.no_grad():
        before = model(prompt).logits
    cut = llmprune.remove_blocks(model, [2])
    cut(prompt, labels=prompt).loss.backward()
    assert all(parameter.grad is not None for parameter in cut.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        assert torch.equal(model(prompt).logits, before)


def test_a_checkpoint_prints_what_was_done(checkpoint, tmp_path):
    written = llmprune.remove_blocks(checkpoint("llama"), [1, 3], out=tmp_path / "cut")
    text = repr(written)
    assert str(tmp_path / "cut") in text
    assert "6 -> 4 blocks" in text
    assert "without blocks 1, 3" in text
    assert text.endswith("verified")


def test_what_cannot_be_removed_is_refused(loaded, checkpoint, tmp_path):
    with pytest.raises(TargetError, match="No block"):
        llmprune.remove_blocks(loaded("llama"), [])
    with pytest.raises(ArtifactError, match="`blocks` names block 6"):
        llmprune.remove_blocks(loaded("llama"), [6])
    with pytest.raises(TargetError, match="Which blocks"):
        llmprune.remove_blocks(loaded("llama"))
    with pytest.raises(TargetError, match="give one"):
        llmprune.remove_blocks(loaded("llama"), [1], target=1)
    with pytest.raises(TargetError, match="`out="):
        llmprune.remove_blocks(loaded("llama"), [1], out=tmp_path / "cut")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(OutputExistsError, match=r"thesis\.txt"):
        llmprune.remove_blocks(checkpoint("llama"), [1], out=tmp_path / "mine")


def test_nothing_is_left_of_a_run_that_was_not_asked_for(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "scratch").mkdir()
    llmprune.remove_blocks(checkpoint("llama"), [1], out=tmp_path / "cut")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_ranking_of_a_deeper_model_is_refused(loaded, checkpoint, tokens, tmp_path):
    ranking = llmprune.rank_blocks(loaded("llama"), tokens)
    cut = llmprune.remove_blocks(loaded("llama"), ranking, target=1)
    with pytest.raises(TargetError, match="with 6 blocks, and this model has 5"):
        llmprune.remove_blocks(cut, ranking)
    cut.save_pretrained(tmp_path / "cut")
    with pytest.raises(TargetError, match="with 6 blocks, and this model has 5"):
        llmprune.remove_blocks(tmp_path / "cut", ranking, out=tmp_path / "again")

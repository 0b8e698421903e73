"""What is not sent: who may not write, what does not belong, what is not right; and what is said of it."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file, save_file

from tests.hub.server import READER, TOKEN
from tests.publishing.words import said


@pytest.mark.parametrize(
    ("token", "repo", "complaint"),
    [
        ("", "ada/model", "Nobody is logged in to the Hub here; type `hf auth login`"),
        (READER, "ada/model", "The Hub does not let you write to ada/model"),
        (TOKEN, "acme/model", "The Hub does not let you write to acme/model"),
        ("hf_" + "x" * 34, "ada/model", "The Hub does not accept the token of this machine"),
        ("hf_" + "x" * 30 + "\tx", "ada/model", "holds characters that no token has"),
        (TOKEN, "model", "names no owner; type owner/name"),
        (TOKEN, "ada/mo del", "is no name that the Hub allows"),
    ],
)
def test_who_may_not_write_is_told_what_to_do(hub, push, cut, monkeypatch, token, repo, complaint):
    monkeypatch.setenv("HF_TOKEN", token)
    result = push(cut, repo=repo)
    assert result.exit_code == 2
    assert complaint in said(result)
    assert not token or token not in said(result)
    assert hub.repositories == {}


def test_offline_nothing_is_sent(hub, push, cut, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    result = push(cut)
    assert result.exit_code == 2
    assert "HF_HUB_OFFLINE is set" in said(result)
    assert hub.asked == []


@pytest.mark.parametrize("words", [("--create-pr", "--tag", "v1"), ("--create-pr", "--revision", "b")])
def test_options_that_do_not_go_together(hub, push, cut, words):
    result = push(cut, *words)
    assert result.exit_code == 2
    assert "exclude each other" in said(result)


def test_a_tag_is_never_moved(hub, push, cut):
    assert push(cut, "--tag", "v1").exit_code == 0
    (cut / "LICENSE").write_text("Apache")
    before = dict(hub.repositories["ada/model"].tags)
    result = push(cut, "--tag", "v1")
    assert result.exit_code == 2
    assert "has a tag v1 already" in said(result)
    assert hub.repositories["ada/model"].tags == before


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("optimizer.pt", b"", "it is the state of a training"),
        ("pytorch_model.bin", b"", "pickles can run code"),
        (".env", b"", "hidden files do not belong to a checkpoint"),
        ("token", b"", "its name says that it holds an access token"),
        ("model-00009.safetensors", b"", "it is not a shard of this checkpoint"),
        ("notes.txt", b"", "a checkpoint has no such file"),
        ("LICENSE", b"key: hf_" + b"a" * 34, "LICENSE holds what looks like an access token"),
        ("generation_config.json", b'{"a": {"b": ["/home/ada/m"]}}', "holds a path of this machine at 'a.b[0]'"),
        ("generation_config.json", b'{"a": "llmprune C:\\\\models"}', "holds a path of this machine at 'a'"),
        ("generation_config.json", b"{", "is not valid JSON"),
    ],
)
def test_files_that_do_not_belong_stop_all(hub, push, cut, name, content, complaint):
    (cut / name).write_bytes(content)
    result = push(cut)
    assert result.exit_code == 2
    assert complaint in said(result)
    assert "a" * 34 not in said(result)
    assert hub.repositories == {}


def test_a_folder_and_a_link_that_leads_out_do_not_belong(hub, push, cut, tmp_path):
    (cut / "checkpoint-500").mkdir()
    assert "a checkpoint has no such folder" in said(push(cut))
    (cut / "checkpoint-500").rmdir()
    (tmp_path / "secret").write_text("")
    (cut / "NOTICE").symlink_to(tmp_path / "secret")
    assert "is a link that leads out of" in said(push(cut))
    assert hub.repositories == {}


def damage_shard(checkpoint):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def drop_tensor(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})


def other_depth(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))


def with_norm(value):
    def damage(checkpoint):
        weights = load_file(checkpoint / "model.safetensors")
        weights["model.norm.weight"][:] = value
        save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})

    return damage


def fill_zeros(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    weight = weights["model.layers.0.mlp.down_proj.weight"]
    weight[weight == 0] = 1e-3
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})


def break_card(checkpoint):
    (checkpoint / "README.md").write_text("---\nlicense: [\n---\n# Mine")


def drop_record(checkpoint):
    (checkpoint / "llmprune.json").unlink()


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (damage_shard, "model.safetensors"),
        (drop_tensor, "The weights lack "),
        (other_depth, "blocks"),
        (with_norm(float("nan")), "NaN or infinity in the weights model.norm.weight"),
        (with_norm(3e38), "computes NaN or infinity"),
        (fill_zeros, "zeros in its pruned weights, but its llmprune.json says"),
        (break_card, "The metadata of README.md are broken"),
        (drop_record, "has no llmprune.json: push sends checkpoints that llmprune wrote"),
    ],
)
def test_a_checkpoint_that_is_not_right_is_not_sent(hub, push, sparse, damage, complaint):
    damage(sparse)
    result = push(sparse, "--no-check")
    assert result.exit_code in {1, 2}
    assert complaint in said(result)
    assert "Unexpected" not in said(result)
    assert hub.repositories == {}


def test_a_card_that_the_hub_does_not_take_is_found_out_before_anything_is_sent(hub, push, cut):
    card = (cut / "README.md").read_text()
    (cut / "README.md").write_text(card.replace("license: apache-2.0", "license: invented-1.0"))
    result = push(cut)
    assert result.exit_code == 1
    assert '"license\\" must be one of' in said(result)
    assert hub.repositories["ada/model"].stored == hub.repositories["ada/model"].files() == {}

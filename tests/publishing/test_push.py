"""Pushing to a Hub: what is sent, what is refused, what the Hub's moods do to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, snapshot_download
from safetensors.torch import load_file

from tests.edits import edit_json
from tests.hub.store import Repository
from tests.publishing.words import SENT, said
from tests.tiny import snapshot


def test_a_checkpoint_arrives_whole_in_one_commit(hub, push, cut):
    result = push(cut)
    assert result.exit_code == 0, result.stderr
    repository = hub.repositories["ada/model"]
    assert not repository.private
    assert list(repository.titles.values()) == ["initial commit", "tiny without 2 of its 6 blocks"]
    files = repository.files()
    assert set(files) == SENT
    assert all(files[name] == (cut / name).read_bytes() for name in SENT - {"README.md"})
    assert "model.safetensors 144.3 kB" in said(result)
    assert "8 files compared: their hashes there are those here" in said(result)
    assert hub.count("PUT", "/ada/model/") == 1


def test_what_is_there_is_not_sent_again(hub, push, cut):
    assert push(cut).exit_code == 0
    hub.asked.clear()
    result = push(cut, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["changed"] == []
    assert hub.count("POST", "/commit/") == hub.count("PUT", "") == 0


def test_a_dry_run_lists_and_asks_nobody(hub, push, cut, run):
    before = snapshot(run)
    result = push(cut, "--dry-run", "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["sent"] is False
    assert {file["path"] for file in told["files"]} == SENT
    assert hub.asked == []
    assert snapshot(run) == before


@pytest.mark.parametrize("how", [(), ("--json",)])
def test_a_dry_run_lists_a_mask_that_is_made_for_it(how, push, sparse):
    result = push(sparse, "--include-artifacts", "--dry-run", *how)
    assert result.exit_code == 0, result.stderr
    assert "mask.safetensors" in result.stdout + result.stderr


def test_private_branch_tag_and_pull_request(hub, push, cut, sparse):
    assert push(cut, "--private", "--tag", "v1").exit_code == 0
    repository = hub.repositories["ada/model"]
    assert repository.private
    assert repository.tags["v1"] == repository.branches["main"]
    result = push(sparse, "--revision", "sparse")
    assert result.exit_code == 0, result.stderr
    assert repository.files("sparse")["llmprune.json"] == (sparse / "llmprune.json").read_bytes()
    assert repository.files("main")["llmprune.json"] == (cut / "llmprune.json").read_bytes()
    main = repository.branches["main"]
    result = push(sparse, "--create-pr", "--force", "--json")
    assert result.exit_code == 0, result.stderr
    assert repository.branches["main"] == main
    assert repository.files("refs/pr/1")["llmprune.json"] == (sparse / "llmprune.json").read_bytes()
    assert json.loads(result.stdout)["url"].endswith("/ada/model/discussions/1")


def test_a_new_branch_does_not_keep_the_shards_of_the_main_one(hub, push, cut):
    hub.repositories["ada/model"] = Repository("ada")
    hub.repositories["ada/model"].add({"model-00001-of-00002.safetensors": b"old", "config.json": b"{}"})
    assert push(cut, "--revision", "small").exit_code == 0
    assert set(hub.repositories["ada/model"].files("small")) == SENT
    assert "model-00001-of-00002.safetensors" in hub.repositories["ada/model"].files("main")


def test_other_content_is_only_replaced_by_force(hub, push, cut):
    repository = hub.repositories["ada/model"] = Repository("ada")
    old = {"model.safetensors": b"another", "notes.txt": b"mine", "config.json": (cut / "config.json").read_bytes()}
    repository.add(old)
    result = push(cut)
    assert result.exit_code == 2
    assert "already holds model.safetensors, notes.txt; push to another repository" in said(result)
    assert "--force" in said(result)
    assert repository.files() == old
    assert hub.count("POST", "/commit/") == hub.count("PUT", "") == 0
    assert push(cut, "--force").exit_code == 0
    assert set(repository.files()) == SENT


def test_a_public_repository_is_not_taken_for_a_private_one(hub, push, cut):
    hub.repositories["ada/model"] = Repository("ada")
    result = push(cut, "--private")
    assert result.exit_code == 2
    assert "exists already and is public" in said(result)


def test_artifacts_beside_the_weights(hub, push, sparse, cut, run):
    (run / "report").mkdir()
    (run / "report" / "index.html").write_text("<!doctype html><p>All figures</p>")
    assert push(cut, "--include-artifacts").exit_code == 0
    files = hub.repositories["ada/model"].files()
    benched = {f"bench/{path.name}" for path in (run / "bench").iterdir()}
    added = set(files) - SENT
    assert added >= {"importance.json", "report/index.html"}
    assert len(added & benched) == 1
    assert b"`importance.json`" in files["README.md"]
    result = push(sparse, "--include-artifacts", repo="ada/sparse")
    assert result.exit_code == 0, result.stderr
    files = hub.repositories["ada/sparse"].files()
    assert "importance.json" not in files
    assert len(set(files) & benched) == 1
    assert "mask.safetensors" in files
    card = files["README.md"].decode()
    assert "| generated tokens/s | batch 1 |" in card
    assert "| of them zero, counted in the files |" in card


def test_the_published_mask_is_that_of_the_weights(hub, push, sparse, tmp_path):
    from llmprune.artifacts.masks.mask import read_mask

    assert push(sparse, "--include-artifacts").exit_code == 0
    path = tmp_path / "mask.safetensors"
    path.write_bytes(hub.repositories["ada/model"].files()["mask.safetensors"])
    mask, weights = read_mask(path), load_file(sparse / "model.safetensors")
    assert len(mask.tensors) == 6 * 7
    for name in mask.tensors:
        assert (mask.kept(name) == (weights[name] != 0).numpy()).all()


def test_the_mask_follows_the_blocks_that_stay(hub, push, sparse, llmprune, tmp_path):
    from llmprune.artifacts.masks.mask import read_mask

    both, run = tmp_path / "later" / "both", tmp_path / "later"
    result = llmprune("remove-blocks", sparse, "--blocks", "4,1", "--out", both, "--run", run)
    assert result.exit_code == 0, result.stderr
    assert push(both, "--include-artifacts").exit_code == 0
    path = tmp_path / "mask.safetensors"
    path.write_bytes(hub.repositories["ada/model"].files()["mask.safetensors"])
    mask, weights = read_mask(path), load_file(both / "model.safetensors")
    assert mask.pattern == "2:4"
    assert {name.split(".")[2] for name in mask.tensors} == {"0", "1", "2", "3"}
    assert len(mask.tensors) == 4 * 7
    for name in mask.tensors:
        assert (mask.kept(name) == (weights[name] != 0).numpy()).all()
    again = llmprune("apply-mask", both, sparse, "--run", tmp_path / "other")
    assert again.exit_code == 2  # six blocks there, four here


def test_an_importance_file_of_another_search_is_not_published(hub, push, cut, run):
    path = run / "importance.json"
    edit_json(path, created="1999-01-01T00:00:00+00:00")
    result = push(cut, "--include-artifacts")
    assert "No importance file of this checkpoint was found" in said(result)
    assert "importance.json" not in hub.repositories["ada/model"].files()


@pytest.mark.parametrize(
    ("method", "path", "fault"),
    [
        ("GET", "/api/models/ada/model$", {"status": 429, "headers": {"Retry-After": "0"}}),
        ("POST", "/api/repos/create", {"status": 500}),
        ("POST", "/commit/", {"status": 503}),
        ("POST", "/preupload/", {"status": 429, "headers": {"Retry-After": "0"}}),
        ("POST", "/objects/batch", {"status": 500}),
        ("PUT", "/ada/model/", {"status": 500}),
        ("PUT", "/ada/model/", {"cut_after": 1000}),
        ("POST", "/commit/", {"lose_answer": True}),
    ],
)
def test_a_hub_that_stumbles_once_gets_all_the_same(hub, push, cut, method, path, fault):
    fault = hub.fail(method, path, **fault)
    result = push(cut)
    assert result.exit_code == 0, result.stderr
    assert fault.times == 0
    assert set(hub.repositories["ada/model"].files()) == SENT
    assert len(hub.repositories["ada/model"].commits) == 2


def test_an_answer_that_is_lost_makes_no_second_pull_request(hub, push, cut):
    hub.repositories["ada/model"] = Repository("ada")
    hub.fail("POST", "/commit/", lose_answer=True)
    result = push(cut, "--create-pr")
    assert result.exit_code == 1
    assert "The Hub cannot be reached" in said(result)
    assert list(hub.repositories["ada/model"].pull_requests) == ["refs/pr/1"]


def test_large_files_in_parts(hub, push, cut):
    hub.part_size = 50_000
    hub.fail("PUT", "/2$", cut_after=100)
    assert push(cut).exit_code == 0
    assert hub.repositories["ada/model"].files()["model.safetensors"] == (cut / "model.safetensors").read_bytes()


def test_somebody_elses_commit_meanwhile_is_not_overwritten(hub, push, cut):
    assert push(cut).exit_code == 0
    (cut / "LICENSE").write_text("Apache")
    repository = hub.repositories["ada/model"]
    fault = hub.fail("POST", "/commit/", status=503)
    fault.hold = _then(lambda: repository.add({"theirs.txt": b"theirs"}))
    result = push(cut)
    assert result.exit_code == 1
    assert "was changed by somebody else meanwhile" in said(result)
    assert "LICENSE" not in repository.files()


def _then(act):
    """An event that acts when it is waited for."""

    class Acting:
        def wait(self, _):
            act()

    return Acting()


def test_what_arrives_damaged_is_found_out(hub, push, cut):
    hub.corrupt = lambda path, data: data[:-1] + b"?" if path == "model.safetensors" else data
    result = push(cut)
    assert result.exit_code == 1
    assert "does not hold what was sent: the hashes of model.safetensors differ there" in said(result)


def test_a_card_that_somebody_edited_is_sent_as_it_is(hub, push, cut):
    mine = (cut / "README.md").read_text() + "\nMy own words.\n"
    (cut / "README.md").write_text(mine)
    result = push(cut)
    assert "README.md was edited: it is sent as it is" in said(result)
    assert hub.repositories["ada/model"].files()["README.md"] == mine.encode()


def test_the_licence_is_asked_of_the_base_models_own_card(hub, push, cut):
    (cut / "README.md").unlink()
    hub.repositories["acme/theirs"] = Repository("acme")
    hub.repositories["acme/theirs"].add({"README.md": b"---\nlicense: other\nlicense_name: own\n---\n"})
    assert push(cut, "--base-model", "acme/theirs").exit_code == 0
    data = ModelCard(hub.repositories["ada/model"].files()["README.md"].decode()).data
    assert (data.base_model, data.license, data.license_name) == ("acme/theirs", "other", "own")
    result = push(cut, "--base-model", "acme/absent")
    assert "No licence is known, so the card names none" in said(result)
    assert ModelCard(hub.repositories["ada/model"].files()["README.md"].decode()).data.license is None


def test_prune_and_publish_in_one_command(hub, llmprune, base, tmp_path):
    run = tmp_path / "other"
    words = ["remove-blocks", base, "--blocks", "1,3", "--run", run, "--push-to-hub", "ada/model", "--private"]
    result = llmprune(*words, "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["pushed"]["commit"] == hub.repositories["ada/model"].branches["main"]
    assert hub.repositories["ada/model"].private


def test_before_pruning_it_is_seen_whether_pushing_will_be_possible(hub, llmprune, base, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    for words in (["remove-blocks", base, "--blocks", "1"], ["global-prune", base]):
        result = llmprune(*words, "--run", tmp_path / "other", "--push-to-hub", "ada/model")
        assert result.exit_code == 2
        assert "Nobody is logged in" in said(result)
        assert not (tmp_path / "other").exists()


def test_pages_of_a_long_listing_are_all_read(hub, push, cut):
    hub.page = 3
    assert push(cut).exit_code == 0
    result = push(cut)
    assert "holds all of it already" in said(result)


def test_what_was_pushed_is_what_is_pulled(hub, push, cut):
    assert push(cut, "--private").exit_code == 0
    pulled = Path(snapshot_download("ada/model"))
    for name in SENT - {"README.md"}:
        assert (pulled / name).read_bytes() == (cut / name).read_bytes()

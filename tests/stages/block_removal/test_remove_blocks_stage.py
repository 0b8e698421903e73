"""remove-blocks: a checkpoint that says what it is, computes what it should, and never costs the user a file."""

import json
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmprune.artifacts.activations import open_calibration
from llmprune.artifacts.records.importance import Importance
from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.artifacts.run import RunDirectory
from llmprune.errors import ArtifactError, ModelError, OutputExistsError, TargetError, VerificationError
from llmprune.models.compute import choose_compute
from llmprune.publishing.card import CardFacts, model_card
from llmprune.stages.block_removal import RemovalSettings, parse_blocks, remove_blocks
from llmprune.stages.block_search import RedundancySettings, verify_redundancy
from llmprune.stages.common.workspace import open_workspace
from tests.tiny import CHAT_TEMPLATE, NUM_BLOCKS, Listener, snapshot
from tests.zoo import save_zoo_model


def by_hand(*blocks, **options):
    return RemovalSettings(blocks=blocks, **options)


def test_a_target_takes_the_head_of_the_importance_file(workspace, run):
    ranked = verify_redundancy(workspace, RedundancySettings("3"))
    report = remove_blocks(workspace, RemovalSettings(target="2"), on_round=lambda _: pytest.fail("searched again"))
    assert report.record.removal.removed == ranked.order[:2]
    assert report.directory == run / f"tiny-4of{NUM_BLOCKS}-sleb"
    assert workspace.run.newest_checkpoint() == report.directory


def test_the_recorded_loss_is_that_of_the_written_checkpoint(workspace):
    report = remove_blocks(workspace, RemovalSettings(target="2"))
    tokens = open_calibration(workspace.run.calibration).tokens()
    pruned = AutoModelForCausalLM.from_pretrained(report.directory).eval()
    with torch.no_grad():
        logits = pruned(tokens).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
    assert report.record.removal.pruned_loss == pytest.approx(loss, abs=1e-4)


def test_kept_weights_are_the_sources_bit_for_bit(workspace, model):
    report = remove_blocks(workspace, by_hand(1, 4))
    source, pruned = (load_file(path / "model.safetensors") for path in (model, report.directory))
    kept = [0, 2, 3, 5]
    expected = {name: weight for name, weight in source.items() if ".layers." not in name}
    for new, old in enumerate(kept):
        expected |= {
            name.replace(f".layers.{old}.", f".layers.{new}."): weight
            for name, weight in source.items()
            if f".layers.{old}." in name
        }
    assert pruned.keys() == expected.keys()
    assert all(torch.equal(pruned[name], weight) for name, weight in expected.items())


def test_small_shards_load_as_the_single_file_does(workspace, tmp_path):
    one, many = (
        remove_blocks(workspace, by_hand(2, out=tmp_path / str(size), max_shard_bytes=size)).directory
        for size in (10**9, 40_000)
    )
    assert len(list(many.glob("*.safetensors"))) > 2
    left, right = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (one, many))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_the_missing_stages_run_first_and_say_so(open_run, listener, run):
    report = remove_blocks(open_run(), RemovalSettings(target="1"))
    assert listener.heard("running verify-redundancy first")
    assert listener.heard("running calibrate with its defaults first")
    assert report.record.removal.removed == Importance.read(run / "importance.json").order


def test_a_ranking_that_is_too_short_is_gone_on_with_as_it_was_begun(workspace):
    verify_redundancy(workspace, RedundancySettings("1", search="exhaustive", protect_first=2))
    rounds = []
    report = remove_blocks(workspace, RemovalSettings(target="2"), on_round=rounds.append)
    assert len(rounds) == 1
    assert min(report.record.removal.removed) >= 2


def test_a_shorter_angular_run_is_measured_and_not_cut_from_a_longer_one(workspace):
    verify_redundancy(workspace, RedundancySettings("3", metric="angular"))
    shorter = remove_blocks(workspace, RemovalSettings(target="1")).record.removal.removed
    distances = open_calibration(workspace.run.calibration).manifest.angular_distances
    assert shorter == (min(range(1, NUM_BLOCKS - 1), key=lambda block: distances[block][block + 1]),)


def test_the_record_says_what_was_done_and_from_what(workspace):
    report = remove_blocks(workspace, RemovalSettings(target="2"))
    record = PruningRecord.read(report.directory / "llmprune.json")
    assert record == report.record
    assert record.source == workspace.model
    assert record.source_record is None
    assert (record.num_blocks, record.removal.metric) == (NUM_BLOCKS - 2, "sleb")
    assert record.verification is not None
    assert record.verification.largest_difference < 1e-4
    assert record.weight_bytes < report.source_bytes
    parameters = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(report.directory).parameters())
    assert record.num_parameters == parameters


def test_typed_blocks_that_head_the_ranking_are_recorded_as_ranked(workspace, tmp_path):
    by_target = remove_blocks(workspace, RemovalSettings(target="2")).record.removal
    assert remove_blocks(workspace, by_hand(*by_target.removed, out=tmp_path / "same")).record.removal == by_target
    turned = tuple(reversed(by_target.removed))
    assert remove_blocks(workspace, by_hand(*turned, out=tmp_path / "turned")).record.removal.metric is None


def test_typed_blocks_need_no_ranking_that_can_be_read_and_that_is_said(workspace, run):
    workspace = replace(workspace, progress=Listener())
    assert remove_blocks(workspace, by_hand(1)).record.removal.metric is None
    assert not any("ranked" in said for said in workspace.progress.said)  # there is none
    (run / "importance.json").write_text("{")
    assert remove_blocks(workspace, by_hand(2)).record.removal.metric is None
    (said,) = (said for said in workspace.progress.said if "ranked" in said)
    assert said.startswith("The record of the removal will not say how these blocks were ranked:")
    assert "importance.json" in said


def test_the_card_is_valid_and_tells_what_was_removed(workspace):
    report = remove_blocks(workspace, by_hand(1, 4))
    card = ModelCard.load(report.directory / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text-generation"
    assert {"pruned", "llmprune"} <= set(card.data.tags)
    assert card.data.base_model is None  # a local directory is nobody else's base model
    assert "by their index in the base model, counted from 0: **1, 4**." in card.text
    assert report.record.command in card.text


def test_a_hub_models_card_names_its_base_model(workspace):
    record = remove_blocks(workspace, RemovalSettings(target="1", verify=False)).record
    source = record.source.model_copy(update={"name": "owner/some-model@main"})
    data = ModelCard(model_card(CardFacts(record.model_copy(update={"source": source})))).data
    assert data.base_model == "owner/some-model"
    assert "sleb" in data.tags


def test_tokenizer_generation_config_and_chat_template_come_along(workspace, model):
    directory = remove_blocks(workspace, by_hand(3)).directory
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        assert (directory / name).read_bytes() == (model / name).read_bytes()
    assert AutoTokenizer.from_pretrained(directory).chat_template == CHAT_TEMPLATE
    assert AutoModelForCausalLM.from_pretrained(directory).generation_config.max_new_tokens == 7


def test_no_path_of_this_machine_stands_in_what_is_published(workspace, run, text, model):
    directory = remove_blocks(workspace, RemovalSettings(target="1")).directory
    for name in ("llmprune.json", "README.md", "config.json"):
        written = (directory / name).read_text()
        for path in (text.parent, model.parent, run.parent):
            assert str(path) not in written


def test_a_second_removal_chains_the_records(open_run, workspace, tmp_path):
    first = remove_blocks(workspace, by_hand(1, out=tmp_path / "first"))
    listener = Listener()
    second_run = tmp_path / "second-run"
    chained = open_workspace(second_run, str(first.directory), compute=choose_compute("cpu"), progress=listener)
    second = remove_blocks(chained, by_hand(2))
    assert second.record.source_record == first.record
    assert second.record.source.num_blocks == NUM_BLOCKS - 1
    assert PruningRecord.read(second.directory / "llmprune.json") == second.record


def test_a_checkpoint_that_computes_something_else_is_refused_and_set_aside(open_run, run, tmp_path):
    out = tmp_path / "out"

    class Saboteur(Listener):
        """Damages the written weights just before they are loaded again."""

        def say(self, line):
            if "Comparing the written checkpoint" in line:
                (partial,) = tmp_path.glob(".out.*.partial/model.safetensors")
                content = bytearray(partial.read_bytes())
                content[-5000:] = bytes(5000)
                partial.write_bytes(content)

    with pytest.raises(VerificationError, match="logits differ"):
        remove_blocks(open_run(listener=Saboteur()), by_hand(2, out=out))
    assert list(tmp_path.iterdir()) == [tmp_path / "out.failed"]


def test_a_refused_replacement_leaves_the_old_checkpoint(workspace, open_run, tmp_path):
    out = tmp_path / "out"
    remove_blocks(workspace, by_hand(2, out=out))
    before = snapshot(out)

    class Saboteur(Listener):
        def say(self, line):
            for config in tmp_path.glob(".out.*.partial/config.json"):
                config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 0.5}))

    with pytest.raises(VerificationError):
        remove_blocks(open_run(listener=Saboteur()), by_hand(3, out=out, force=True))
    assert snapshot(out) == before


def test_the_same_removal_again_is_complete_already(workspace, listener, run):
    remove_blocks(workspace, by_hand(2))
    before = snapshot(run)
    report = remove_blocks(workspace, by_hand(2))
    assert listener.heard("complete already")
    assert report.record == PruningRecord.read(report.directory / "llmprune.json")
    assert snapshot(run).keys() == before.keys()


def test_an_unverified_checkpoint_is_not_taken_for_a_verified_one(workspace, tmp_path):
    out = tmp_path / "out"
    assert remove_blocks(workspace, by_hand(2, out=out, verify=False)).record.verification is None
    with pytest.raises(OutputExistsError, match="`force=True`"):
        remove_blocks(workspace, by_hand(2, out=out))


@pytest.mark.parametrize("blocks", [(0, NUM_BLOCKS), (-1,), (2, 2), tuple(range(NUM_BLOCKS))])
def test_blocks_that_cannot_be_removed_are_refused(blocks, open_run, run):
    with pytest.raises(ArtifactError, match="`blocks`"):
        remove_blocks(open_run(), by_hand(*blocks))
    assert not run.exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (RemovalSettings(target="1"), "None of the blocks can be removed"),
        (by_hand(2, verify=False), "Block 2 cannot be removed"),
    ],
)
def test_blocks_that_compute_with_their_index_are_refused_before_anything_is_done(
    settings, words, open_run, run, tmp_path, listener
):
    model = save_zoo_model(tmp_path / "model", "diffllama")
    with pytest.raises(ModelError, match=words):
        remove_blocks(open_run(of=model), settings)
    assert not run.exists()
    assert not listener.heard("calibrate")


@pytest.mark.parametrize("text", ["", "a,b", "1,,2", "1.5", "1-3"])
def test_what_is_no_list_of_blocks_is_refused(text):
    with pytest.raises(TargetError, match="`blocks=3,7,12`"):
        parse_blocks(text)


def test_blocks_are_read_with_their_spaces():
    assert parse_blocks("3, 7,12") == (3, 7, 12)
    assert parse_blocks(None) is None


def test_what_an_earlier_killed_process_left_is_cleared(workspace, run, tmp_path):
    leftover = tmp_path / ".out.999999-0.partial"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    remove_blocks(workspace, by_hand(2, out=tmp_path / "out"))
    assert not leftover.exists()


def test_a_run_directory_can_be_moved(workspace, run, open_run):
    directory = remove_blocks(workspace, by_hand(2)).directory
    moved = run.with_name("moved")
    run.rename(moved)
    assert RunDirectory(moved).newest_checkpoint() == moved / directory.name

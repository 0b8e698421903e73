"""remove-experts: the least important experts go, with their router rows, and what is left computes what it should."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llmprune.artifacts.activations import open_calibration
from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.artifacts.files.digests import FileDigest
from llmprune.artifacts.records.expert_importance import ExpertImportance
from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.choices import ExpertMetric, Method
from llmprune.errors import (
    ArtifactError,
    CheckpointError,
    ModelError,
    OutputExistsError,
    TargetError,
    VerificationError,
)
from llmprune.models.compute import choose_compute
from llmprune.stages.calibration import calibrate
from llmprune.stages.common.workspace import Workspace, open_workspace
from llmprune.stages.expert_removal import ExpertSettings, remove_experts
from llmprune.stages.publishing.attachments import collect_artifacts
from llmprune.stages.weight_pruning import PruningSettings, global_prune
from tests.reference_experts import reap_scores, routed_tokens
from tests.tiny import Listener, snapshot
from tests.zoo import save_zoo_model

BLOCKS = 2


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


@pytest.fixture(scope="module")
def moe(tmp_path_factory) -> Path:
    """A Qwen3-MoE of two blocks and four experts, of which two compute a token."""
    folder = tmp_path_factory.mktemp("moe")
    return save_zoo_model(folder / "moe", "qwen3_moe", num_hidden_layers=BLOCKS, moe_intermediate_size=16)


@pytest.fixture
def opened(run, settings) -> Callable[..., Workspace]:
    """A run of a model with a small calibration, and somebody who listens."""

    def open_it(model: Path, listener: Listener | None = None) -> Workspace:
        space = open_workspace(run, str(model), compute=choose_compute("cpu"), progress=listener or Listener())
        if not space.run.calibration.exists():
            calibrate(space, settings)
        return space

    return open_it


def test_the_least_important_by_reap_go_from_every_block(opened, moe):
    space = opened(moe)
    report = remove_experts(space, ExpertSettings("1"))
    tokens = open_calibration(space.run.calibration).tokens()
    model = AutoModelForCausalLM.from_pretrained(moe, dtype=torch.float64, experts_implementation="eager").eval()
    measured = ExpertImportance.read(space.run.experts)
    for block, found in enumerate(measured.blocks):
        experts = model.model.layers[block].mlp.experts
        routed = routed_tokens(experts, lambda: model(input_ids=tokens, use_cache=False))
        expected = reap_scores(experts, routed)
        assert found.tokens == tuple(len(inputs) for inputs, _ in routed)
        assert found.reap == pytest.approx(expected, rel=1e-4)
        assert report.record.experts.removed[block] == (expected.index(min(expected)),)
    assert report.record.experts.importance == FileDigest.of_file(space.run.experts).sha256
    assert report.record.verification.largest_difference < 1e-5


def test_the_fewest_tokens_go_by_frequency_without_another_pass(opened, moe):
    space = opened(moe)
    remove_experts(space, ExpertSettings("1"))
    measured = ExpertImportance.read(space.run.experts)
    report = remove_experts(
        space, ExpertSettings("50%", metric=ExpertMetric.FREQUENCY), on_block=lambda _: pytest.fail("measured again")
    )
    for block, found in enumerate(measured.blocks):
        order = sorted(range(4), key=lambda expert: found.tokens[expert])
        assert report.record.experts.removed[block] == tuple(sorted(order[:2]))
    assert report.directory.name == "moe-2of4experts-frequency"


def test_what_stays_is_the_same_bit_for_bit_under_new_numbers(opened, moe):
    report = remove_experts(opened(moe), ExpertSettings("1"))
    before, after = weights(moe), weights(report.directory)
    for block, gone in report.record.experts.removed.items():
        left = [expert for expert in range(4) if expert not in gone]
        prefix = f"model.layers.{block}.mlp"
        assert torch.equal(after[f"{prefix}.gate.weight"], before[f"{prefix}.gate.weight"][left])
        for new, old in enumerate(left):
            for kind in ("gate", "up", "down"):
                one, other = (f"{prefix}.experts.{expert}.{kind}_proj.weight" for expert in (new, old))
                assert torch.equal(after[one], before[other])
    others = [name for name in before if ".mlp." not in name]
    assert all(torch.equal(after[name], before[name]) for name in others)
    assert len(after) == len(before) - 3 * BLOCKS
    config = json.loads((report.directory / "config.json").read_text())
    assert (config["num_local_experts"], config["num_experts_per_tok"]) == (3, 2)
    assert report.record.num_parameters == sum(tensor.numel() for tensor in after.values())


def test_plain_transformers_gives_what_the_source_gives_without_these_experts(opened, moe):
    report = remove_experts(opened(moe), ExpertSettings("2"))
    source, cut = (AutoModelForCausalLM.from_pretrained(path).eval() for path in (moe, report.directory))
    tokens = torch.randint(3, 300, (2, 24), generator=torch.Generator().manual_seed(3))
    for block, gone in report.record.experts.removed.items():  # logits so low that no softmax gives them anything
        gate = source.model.layers[block].mlp.gate
        forward = gate.forward

        def masked(hidden, gate=gate, gone=gone):
            logits = (hidden.reshape(-1, 32) @ gate.weight.T).index_fill(1, torch.tensor(gone), -1e9)
            values, chosen = logits.softmax(-1).topk(2)
            return logits, values, chosen

        with torch.no_grad():
            hidden = torch.randn(7, 32)
            assert torch.allclose(forward(hidden)[1], forward(hidden)[0].softmax(-1).topk(2).values)
        gate.forward = masked
    with torch.no_grad():
        torch.testing.assert_close(cut(tokens).logits, source(tokens).logits, rtol=1e-4, atol=1e-4)


def test_a_narrow_checkpoint_is_compared_where_experts_do_not_tie(opened, tmp_path):
    model = save_zoo_model(tmp_path / "narrow", "mixtral", num_hidden_layers=4)
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(model)
    report = remove_experts(opened(model), ExpertSettings("1"))
    assert report.record.verification.dtype == "float32"
    assert {tensor.dtype for tensor in weights(report.directory).values()} == {torch.bfloat16}


def test_a_written_checkpoint_that_computes_something_else_is_not_kept(opened, moe, monkeypatch):
    monkeypatch.setattr(
        "llmprune.stages.expert_removal.write.kept_blocks",
        lambda before, gone: [0, 1, 2],  # other experts than those that are said to have gone
    )
    space = opened(moe)
    with pytest.raises(VerificationError, match="logits differ"):
        remove_experts(space, ExpertSettings("1"))
    assert space.run.existing_checkpoints() == []


def test_an_equal_removal_is_kept_and_another_is_refused(opened, moe, run):
    listener = Listener()
    space = opened(moe, listener)
    first = remove_experts(space, ExpertSettings("1", out=run / "new"))
    again = remove_experts(space, ExpertSettings("1", out=run / "new"))
    assert again.record == first.record
    assert listener.heard("is complete already")
    with pytest.raises(OutputExistsError, match=r"pruned with other settings \(other experts removed\)"):
        remove_experts(space, ExpertSettings("2", out=run / "new"))


def test_a_measurement_of_another_model_is_refused_and_one_of_another_calibration_made_anew(opened, moe, run):
    space = opened(moe)
    remove_experts(space, ExpertSettings("1"))
    known = ExpertImportance.read(space.run.experts)
    known.model_copy(update={"windows_fingerprint": "0"}).write(space.run.experts)
    seen = []
    remove_experts(space, ExpertSettings("1", force=True), on_block=seen.append)
    assert [one.block for one in seen] == [0, 1]
    known.model_copy(update={"model": known.model.model_copy(update={"fingerprint": "0"})}).write(space.run.experts)
    with pytest.raises(ArtifactError, match="is of the experts of"):
        remove_experts(space, ExpertSettings("1"))


def test_named_experts_need_no_measurement_that_can_be_read_and_that_is_said(opened, moe, run):
    listener = Listener()
    space = opened(moe, listener)
    named = ExpertSettings(experts={0: (1,), 1: (2,)}, verify=False)
    assert remove_experts(space, named).record.experts.metric is None
    assert not listener.heard("how these experts were measured")
    space.run.experts.write_text("{")
    assert remove_experts(space, replace(named, out=run / "again")).record.experts.metric is None
    assert listener.heard("will not say how these experts were measured")


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ("3", "leaves 1 of 4 experts, and each token is sent to 2; at most 2 can go"),
        ("90%", "leaves 0 of 4 experts"),
        ("0", "removes no expert"),
        ("much", "is not a removal target"),
    ],
)
def test_what_could_not_be_routed_is_refused_before_anything_is_written(target, match, moe, run):
    space = open_workspace(run, str(moe), compute=choose_compute("cpu"))
    with pytest.raises(TargetError, match=match):
        remove_experts(space, ExpertSettings(target))
    assert not run.exists()


def test_a_model_without_experts_is_refused(model, run):
    with pytest.raises(ModelError, match="LlamaForCausalLM has no experts"):
        remove_experts(open_workspace(run, str(model), compute=choose_compute("cpu")), ExpertSettings())
    assert not run.exists()


@pytest.mark.parametrize("promised", [3, 5])
def test_a_config_that_contradicts_the_weights_is_refused(promised, moe, run, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in moe.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "num_local_experts": promised}))
    with pytest.raises(CheckpointError, match=r"experts|gate\.weight"):
        remove_experts(open_workspace(run, str(broken), compute=choose_compute("cpu")), ExpertSettings("1"))
    assert not run.exists()


@pytest.fixture(scope="module")
def grouped(tmp_path_factory) -> Path:
    """A DeepSeek-V3 with 8 experts in 2 groups and a correction bias that decides."""
    sizes = {"num_hidden_layers": 3, "first_k_dense_replace": 1, "n_routed_experts": 8, "n_group": 2, "topk_group": 1}
    model = save_zoo_model(tmp_path_factory.mktemp("grouped") / "deepseek", "deepseek_v3", **sizes)
    stored = weights(model)
    for name in stored:
        if "e_score_correction_bias" in name:
            stored[name] = torch.linspace(-2, 2, 8)[torch.randperm(8, generator=torch.Generator().manual_seed(1))]
    save_file(stored, model / "model.safetensors", {"format": "pt"})
    return model


def test_as_many_go_from_every_group_and_the_correction_bias_is_cut(opened, grouped):
    report = remove_experts(opened(grouped), ExpertSettings("50%"))
    before, after = weights(grouped), weights(report.directory)
    assert sorted(report.record.experts.removed) == [1, 2]
    for block, gone in report.record.experts.removed.items():
        assert [sum(expert // 4 == group for expert in gone) for group in (0, 1)] == [2, 2]
        left = [expert for expert in range(8) if expert not in gone]
        name = f"model.layers.{block}.mlp.gate.e_score_correction_bias"
        assert torch.equal(after[name], before[name][left])
    assert report.record.verification.largest_difference < 1e-5


@pytest.mark.parametrize(
    ("target", "match"), [("1", "2 groups of equal size; type a multiple of 2"), ("6", "leaves 1 experts in each of 2")]
)
def test_groups_that_do_not_divide_are_refused(target, match, grouped, run):
    with pytest.raises(TargetError, match=match):
        remove_experts(open_workspace(run, str(grouped), compute=choose_compute("cpu")), ExpertSettings(target))
    assert not run.exists()


def test_experts_removed_after_pruning_keep_their_zeros_on_record(opened, moe, tmp_path, settings):
    sparse = global_prune(opened(moe), PruningSettings(method=Method.MAGNITUDE)).directory
    second = open_workspace(tmp_path / "second", str(sparse), compute=choose_compute("cpu"))
    calibrate(second, settings)
    record = remove_experts(second, ExpertSettings("1")).record
    after = weights(second.run.newest_checkpoint())
    assert record.source_record.sparsity is not None
    zeroed = [name for name in record.zeroed_tensors if ".experts." in name]
    assert sorted(zeroed) == sorted(name for name in after if ".experts." in name)
    assert all(int((after[name] == 0).sum()) * 2 == after[name].numel() for name in zeroed)


def test_the_measurement_is_published_beside_the_checkpoint(opened, moe, tmp_path):
    space = opened(moe)
    report = remove_experts(space, ExpertSettings("1"))
    record = PruningRecord.read(report.directory / "llmprune.json")
    assert record == report.record
    checkpoint = open_checkpoint(report.directory)
    files = collect_artifacts(space.run, checkpoint, record, {}, scratch=tmp_path, progress=Listener())
    assert [file.path for file in files] == ["experts.json"]
    card = (report.directory / "README.md").read_text()
    for said in ("1 of 4 experts removed", "REAP", "experts in a block that has some | 4 | 3", "lasby2025reap"):
        assert said in card
    assert "llmprune remove-experts" in card


def test_nothing_is_left_in_the_run_and_the_source_is_untouched(opened, moe):
    before = snapshot(moe)
    space = opened(moe)
    remove_experts(space, ExpertSettings("1"))
    assert snapshot(moe) == before
    names = {path.name for path in space.run.path.iterdir()} - {".lock"}
    assert names == {"run.json", "calibration", "experts.json", "moe-3of4experts-reap"}

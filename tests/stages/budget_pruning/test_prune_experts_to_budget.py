"""prune, of a mixture: blocks or experts, whichever loses less on windows that healing held back."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmprune.errors import TargetError
from llmprune.models.compute import choose_compute
from llmprune.report.budget_text import budget_remarks
from llmprune.stages.benchmark import BenchSettings
from llmprune.stages.budget_pruning import BudgetSettings, plan_budget, prune_to_budget
from llmprune.stages.budget_pruning.experts import fewest_experts, others_beside
from llmprune.stages.budget_pruning.footprint import measure_parameters
from llmprune.stages.calibration import calibrate, calibrated
from llmprune.stages.common.workspace import open_workspace
from llmprune.stages.expert_removal import ExpertSettings, layout_of, remove_experts
from tests.zoo import save_zoo_model


@pytest.fixture(scope="module")
def mixture(tmp_path_factory) -> Path:
    """A Qwen3-MoE of four blocks, two of them protected. Four experts are nearly all of each; one computes a token."""
    sizes = {"num_hidden_layers": 4, "moe_intermediate_size": 128, "num_experts_per_tok": 1}
    return save_zoo_model(tmp_path_factory.mktemp("moe") / "mixture", "qwen3_moe", **sizes)


@pytest.fixture
def space(mixture, run, settings, listener):
    space = open_workspace(run, str(mixture), compute=choose_compute("cpu"), progress=listener)
    calibrate(space, settings)
    return space


@pytest.fixture
def budget(text):
    measured = BenchSettings(ppl=(str(text),), ppl_seq_len=32, max_windows=2, speed=False, agreement=0)
    return lambda size: BudgetSettings(size=size, measured=measured, verify=False)


def mean_loss(directory, tokens):
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(directory)(tokens).logits[:, :-1].double()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()


def test_what_loses_less_on_held_back_windows_is_chosen_and_stands_beside_the_other(space, budget, listener):
    report = prune_to_budget(space, budget("80%"))
    result = report.result
    blocks, experts = "1 block removed", "1 expert of each block removed"
    assert set(result.losses) == {blocks, experts}
    assert result.chosen == min(result.losses, key=result.losses.get)
    other = blocks if result.chosen == experts else experts
    assert other in result.beside
    assert result.point(result.chosen).params <= 0.8 * space.model.num_parameters
    assert result.point(experts).removed == () and len(result.point(blocks).removed) == 1
    tokens = calibrated(space).tokens()
    held = tokens[len(tokens) - max(1, len(tokens) // 8) :]
    assert result.losses[result.chosen] == pytest.approx(mean_loss(report.directory, held), abs=1e-5)
    assert listener.heard("1 of 4 blocks go, healed or 1 expert of each block go")
    (compared,) = (remark for remark in budget_remarks(result) if remark.startswith("Compared"))
    assert f"{blocks} {result.losses[blocks]:.4f}" in compared and f"{experts} {result.losses[experts]:.4f}" in compared
    alone = result.model_copy(update={"beside": ()})  # as where the losses are of an earlier budget
    assert not any(remark.startswith("Compared") for remark in budget_remarks(alone))
    again = prune_to_budget(space, budget("80%")).result
    assert (again.points, again.losses, again.chosen) == (result.points, result.losses, result.chosen)


def test_where_blocks_cannot_keep_the_size_experts_do(space, budget, listener):
    report = prune_to_budget(space, budget("45%"))
    assert listener.heard("Only experts are removed, and no blocks: Removing 1 of 4 blocks, the most that can go")
    assert report.result.chosen == "3 experts of each block removed"
    assert report.result.beside == ("2 experts of each block removed",)
    assert report.record.experts.left == 1 and report.record.num_parameters <= 0.45 * space.model.num_parameters
    assert report.result.losses == {}


def test_as_few_experts_go_as_keep_the_size(space, budget, listener, tmp_path):
    footprint = measure_parameters(space.open_shell())
    made = {0: footprint.stored}
    for count in (1, 2, 3):
        made[count] = remove_experts(
            space, ExpertSettings(str(count), out=tmp_path / str(count), verify=False)
        ).record.num_parameters
    for count in (1, 2, 3):
        for size in (made[count], made[count - 1] - 1):
            assert fewest_experts(space, budget(str(size)), footprint) == count
    assert fewest_experts(space, budget(str(footprint.stored)), footprint) is None
    assert not listener.heard("Only blocks")
    assert fewest_experts(space, budget(str(made[3] - 1)), footprint) is None
    assert listener.heard("would take 4 of 4 experts of each block, and tokens could not be sent to the rest")
    assert others_beside(1, layout_of(space)) == [2]


def test_a_speed_is_kept_by_blocks_alone_and_a_size_that_nothing_keeps_is_refused(space, budget):
    footprint = measure_parameters(space.open_shell())
    assert fewest_experts(space, BudgetSettings(speed_up=1.2), footprint) is None
    with pytest.raises(TargetError, match="the most that can go"):
        prune_to_budget(space, budget("5%"))


def test_a_plan_has_both_ways(space, budget):
    *_, blocks, fewer, experts, again = plan_budget(space, budget("80%")).steps
    assert [step.step for step in (blocks, fewer, experts, again)] == [
        "without 1 block",
        "without 2 experts of each block",
        "without 1 expert of each block",
        "the better of both, made again",
    ]
    assert [step.kept for step in (blocks, fewer, experts)] == [0, 0, 0]
    assert again.kept > 0

"""A search only ever takes blocks without which a config can say what is left."""

from functools import partial

import pytest

from llmprune.artifacts.checkpoints.block_numbers import kept_blocks
from llmprune.choices import Metric
from llmprune.errors import ModelError
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from llmprune.stages.block_search import RedundancySettings, Removable, open_check, verify_redundancy
from llmprune.stages.calibration import calibrate
from tests.zoo import DEPTH, save_zoo_model

PERIODS = {"attn_layer_period": 3, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}


@pytest.fixture(scope="module")
def jamba(tmp_path_factory):
    return save_zoo_model(tmp_path_factory.mktemp("zoo") / "jamba", "jamba", **PERIODS)


class Counted:
    """A check that counts how often it is asked."""

    def __init__(self, check):
        self.check, self.asked = check, 0

    def allows(self, kept):
        self.asked += 1
        return self.check.allows(kept)


def removable_of(workspace, count):
    counted = Counted(open_check(workspace))
    return Removable(lambda: counted, RedundancySettings(), num_blocks=DEPTH, count=count), counted


def test_a_model_of_blocks_alike_is_tried_a_few_times_and_then_trusted(open_run):
    removable, counted = removable_of(open_run(), 2)
    assert counted.asked == 0
    assert all(removable.may_go([], block) and removable.may_go([1], block) for block in range(2, 5))
    assert counted.asked == 6
    removable.require_some()


def test_a_model_whose_blocks_follow_a_rule_is_tried_for_each_of_them(open_run, jamba):
    workspace = open_run(of=jamba)
    removable, counted = removable_of(workspace, 2)

    def may_follow(gone, allowed):
        return [block for block in range(1, 5) if block not in gone and allowed(gone, block)]

    def tried(gone, block):
        return counted.check.allows(kept_blocks(DEPTH, [*gone, block]))

    may = [may_follow(gone, removable.may_go) for gone in ([], [3])]
    assert may == [may_follow(gone, tried) for gone in ([], [3])]
    assert may[0] == [3]  # experts stay in every n-th block only without it
    assert may[1]


def test_the_whole_way_of_a_model_whose_blocks_follow_a_rule(open_run, jamba, settings):
    workspace = open_run(of=jamba)
    calibrate(workspace, settings)
    report = remove_blocks(workspace, RemovalSettings(target="2"))
    assert report.record.removal.removed[0] == 3
    assert len(report.record.removal.removed) == 2
    assert report.record.verification is not None


def test_a_one_shot_ranking_keeps_to_it_too(open_run, jamba, settings):
    workspace = open_run(of=jamba)
    calibrate(workspace, settings)
    ranked = verify_redundancy(workspace, RedundancySettings("2", metric=Metric.BLOCK_INFLUENCE))
    check = open_check(workspace)
    for count in (1, 2):
        check.require(kept_blocks(DEPTH, ranked.order[:count]))


@pytest.mark.parametrize("metric", [Metric.SLEB, Metric.BLOCK_INFLUENCE])
def test_a_model_of_which_no_block_can_go_is_refused_before_it_is_calibrated(metric, open_run, run, tmp_path):
    workspace = open_run(of=save_zoo_model(tmp_path / "model", "diffllama"))
    with pytest.raises(ModelError, match="None of the blocks can be removed"):
        verify_redundancy(workspace, RedundancySettings("1", metric=metric))
    assert not run.exists()
    check = partial(open_check, workspace)
    removable = Removable(check, RedundancySettings(protect_last=0), num_blocks=DEPTH, count=1)
    removable.require_some()  # the last block takes no other one's place
    assert [block for block in range(DEPTH) if removable.may_go([], block)] == [DEPTH - 1]

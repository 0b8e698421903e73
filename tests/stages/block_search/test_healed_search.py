"""A search with healing: each loss is that of the plain model with the block before its candidate solved in float64."""

import copy
import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmprune.artifacts.activations import open_calibration
from llmprune.artifacts.records.importance import Importance
from llmprune.choices import Heal
from llmprune.errors import ArtifactError, TargetError
from llmprune.models.loading import open_decoder
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from llmprune.stages.block_search import RedundancySettings, verify_redundancy
from llmprune.stages.block_search.healer import CutHealer
from llmprune.stages.calibration import CalibrationSettings, calibrate
from llmprune.stages.healing import RIDGES
from tests.edits import edit_json
from tests.tiny import NUM_BLOCKS
from tests.tiny_models import random_tokens

HEALED = RedundancySettings("3", heal=True)
SAMPLES, HELD = 24, 1  # 12 windows to solve on, of which one chooses the ridge


class Oracle:
    """The tiny model in float64, whose list of blocks is cut and whose down projections are solved directly."""

    def __init__(self, model, tokens):
        self.dense = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64).eval()
        self.model = copy.deepcopy(self.dense)
        self.left = list(range(NUM_BLOCKS))
        order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))
        half = len(tokens) // 2
        self.solved_on, self.held = tokens[order[: half - HELD]], tokens[order[half - HELD : half]]
        self.measured = tokens[order[half:]]

    def healed_without(self, candidate):
        """The model without one more block, the block before it solved anew."""
        place = self.left.index(candidate)
        goal = self.left[place + 1] if place + 1 < len(self.left) else NUM_BLOCKS
        cut = copy.deepcopy(self.model)
        cut.model.layers = torch.nn.ModuleList(b for at, b in enumerate(cut.model.layers) if at != place)
        cut.config.num_hidden_layers -= 1
        if place:
            down = cut.model.layers[place - 1].mlp.down_proj
            (inputs, lacking), judge = (self._sums(tokens, place, goal) for tokens in (self.solved_on, self.held))
            gram = inputs.T @ inputs
            found = []
            for ridge in RIDGES:
                held = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
                change = torch.linalg.solve(held, inputs.T @ lacking).T
                found.append(((judge[1] - judge[0] @ change.T).square().sum().item(), change))
            error, change = min(found, key=lambda one: one[0])
            if error < judge[1].square().sum().item():
                with torch.no_grad():
                    down.weight += change
        return cut

    def _sums(self, tokens, place, goal):
        """What the down projection before a hole is given, and what is lacking behind it, a row for each token."""
        seen = []
        block = self.model.model.layers[place - 1]
        hooks = [
            block.mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1))),
            block.register_forward_hook(lambda *call: seen.append(call[-1].flatten(0, 1))),
        ]
        goals = []
        target = self.dense.model.layers[goal - 1]
        hooks.append(target.register_forward_hook(lambda *call: goals.append(call[-1].flatten(0, 1))))
        with torch.no_grad():
            self.model(tokens, use_cache=False)
            self.dense(tokens, use_cache=False)
        for hook in hooks:
            hook.remove()
        inputs, output = seen
        lengths = goals[0].norm(dim=-1, keepdim=True)
        lengths = lengths.clamp(min=0.1 * lengths.median())
        return inputs / lengths, (goals[0] - output) / lengths

    def loss(self, model):
        with torch.no_grad():
            logits = model(self.measured, use_cache=False).logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), self.measured[:, 1:].flatten()).item()

    def remove(self, block):
        self.model = self.healed_without(block)
        self.left.remove(block)


def test_every_loss_is_that_of_the_plain_model_healed_by_hand(written, model):
    oracle = Oracle(model, open_calibration(written.run.calibration).tokens())
    settings = RedundancySettings("3", search="exhaustive", protect_first=0, heal=True)
    found = verify_redundancy(written, settings)
    assert found.dense_loss == pytest.approx(oracle.loss(oracle.dense), abs=1e-4)
    for decided in found.rounds:
        for candidate in decided.candidates:
            expected = oracle.loss(oracle.healed_without(candidate.block))
            assert candidate.loss == pytest.approx(expected, abs=2e-4), candidate
            assert candidate.tokens == SAMPLES // 2 * 63
        oracle.remove(decided.removed)
    assert found.measured_on == "12 windows of 64 tokens of self, healed on 12 others"


def test_a_healed_search_loses_less_than_one_without(written, open_run):
    healed = verify_redundancy(written, HEALED)
    plain = verify_redundancy(written, RedundancySettings("3"), force=True)
    assert healed.rounds[-1].loss < plain.rounds[-1].loss - 0.05


def content(run):
    """importance.json, less what differs from run to run."""
    data = json.loads((run / "importance.json").read_text())
    del data["created"], data["content_sha256"]
    for decided in data["rounds"]:
        del decided["seconds"]
    return data


def test_a_search_that_is_gone_on_with_decides_the_same(written, run, open_run, listener):
    whole = verify_redundancy(written, HEALED)
    expected = content(run)
    (run / "importance.json").unlink()
    verify_redundancy(written, RedundancySettings("2", heal=True))
    assert verify_redundancy(open_run(), HEALED).order == whole.order
    assert content(run) == expected
    assert listener.heard("The corrections for the 2 blocks that an earlier search removed are solved again.")


def test_a_search_with_healing_and_one_without_are_not_mixed(written):
    verify_redundancy(written, RedundancySettings("1", heal=True))
    with pytest.raises(ArtifactError, match="other settings or another calibration \\(sleb, eliminate, with healing"):
        verify_redundancy(written, RedundancySettings("2"))


def test_a_removal_by_such_a_search_is_healed_unless_asked_otherwise(written, listener):
    verify_redundancy(written, HEALED)
    report = remove_blocks(written, RemovalSettings("3"))
    assert report.record.healing.settings.scope == "all"
    assert report.record.removal.search_heals
    assert "--heal all" in report.record.command
    assert listener.heard("The search chose these blocks with healing, so `heal=all` is taken")
    assert remove_blocks(written, RemovalSettings("3", heal=Heal.NONE)).record.healing is None
    by_hand = tuple(report.record.removal.removed)
    assert remove_blocks(written, RemovalSettings(blocks=by_hand, verify=False)).record.healing is None


def test_files_of_the_schema_before_are_searches_without_healing(written, run):
    verify_redundancy(written, RedundancySettings("1"))
    path = run / "importance.json"
    data = json.loads(path.read_text())
    assert data["schema_version"] == 3
    del data["settings"]["heal"]
    edit_json(path, settings=data["settings"], schema_version=2)
    longer = verify_redundancy(written, RedundancySettings("2"))
    assert (longer.settings.heal, longer.schema_version, len(longer.rounds)) == (None, 3, 2)
    assert Importance.read(path) == longer


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "angular"}, "measures no loss that healing or swaps could lower"),
        ({"error_rate": 2.0}, "not between"),
    ],
)
def test_what_does_not_go_with_healing_is_refused(settings, message):
    with pytest.raises(TargetError, match=message):
        RedundancySettings("2", heal=True, **settings)


def test_too_few_windows_are_refused(run, model, text, open_run):
    calibrate(open_run(), CalibrationSettings(source=str(text), samples=3, seq_len=32))
    with pytest.raises(TargetError, match=r"The calibration has 3 windows.*calibrate with `samples=4` or more"):
        verify_redundancy(open_run(), HEALED)


def test_blocks_that_cannot_be_healed_are_measured_without_and_named(checkpoint):
    decoder = open_decoder(checkpoint("gemma2"), device=torch.device("cpu"))  # a norm between each layer and the stream
    said = []
    healer = CutHealer(decoder, random_tokens(4, 12), batch=2, masked=frozenset(), say=said.append)
    assert healer.solve([0, 1, 2, 3], [0, 1, 3]) == frozenset()
    assert said[0] == "No block stands before block 0, so its absence is measured without healing."
    assert [line.split(":")[0] for line in said[1:]] == ["Block 0", "Block 2"]


def test_swaps_are_recorded_and_gone_on_with_and_what_they_found_is_removed(written, run, open_run):
    tried = []
    settings = RedundancySettings("3", heal=True, swap=2)
    found = verify_redundancy(written, settings, on_swap=tried.append)
    assert found.refinement.swaps == tuple(tried)
    assert found.first(2) == found.order[:2]
    assert found.first(3) == found.refinement.removed
    refinement = json.loads((run / "importance.json").read_text())["refinement"]
    edit_json(run / "importance.json", refinement={**refinement, "swaps": refinement["swaps"][:1]})
    again = verify_redundancy(open_run(), settings)
    assert [swap.model_copy(update={"seconds": 0}) for swap in again.refinement.swaps] == [
        swap.model_copy(update={"seconds": 0}) for swap in tried
    ]
    assert again.refinement.removed == found.refinement.removed
    removed = RemovalSettings("3", heal=Heal.NONE, verify=False)
    assert remove_blocks(open_run(), removed).record.removal.removed == found.refinement.removed
    assert remove_blocks(open_run(), removed).record.removal.pruned_loss == found.refinement.loss


@pytest.mark.parametrize("family", ["opt", "gpt2"])  # biases; matrices that are stored the other way round
def test_a_healed_block_comes_closer_to_the_dense_hidden_states(family, checkpoint):
    decoder, tokens = open_decoder(checkpoint(family), device=torch.device("cpu")), random_tokens(8, 24)
    healer = CutHealer(decoder, tokens, batch=3, masked=frozenset(), say=pytest.fail)
    assert healer.solve([0, 1, 2, 3, 4, 5], [2]) == {2}
    runner = decoder.runner
    states, calls = [runner.embed(tokens)], runner.calls(tokens)
    for block in range(3):
        with decoder.block(block):
            states.append(runner.forward_block(block, states[-1], calls[block]))
    with decoder.block(1), healer.without(2):
        healed = runner.forward_block(1, states[1], calls[1])
    unhealed, goal = states[2], states[3]
    assert (healed - goal).square().sum() < 0.9 * (unhealed - goal).square().sum()
    with decoder.block(1), healer.as_it_is(1):
        assert torch.equal(runner.forward_block(1, states[1], calls[1]), unhealed), "nothing is kept yet"
    healer.keep(2)
    with decoder.block(1), healer.as_it_is(1):
        assert torch.equal(runner.forward_block(1, states[1], calls[1]), healed)

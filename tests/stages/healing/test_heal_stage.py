"""Healing: closer to the dense model, resumable to the byte, zeros exact, and nothing else touched."""

import itertools
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from llmprune.algorithms.weights.patterns import SemiStructured, Unstructured
from llmprune.api.windows import windows_of
from llmprune.artifacts.activations import open_calibration
from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.choices import Heal, Method, Reference, Scope
from llmprune.errors import ArtifactError, OutputExistsError, TargetError
from llmprune.evaluation.sparsity import measure_sparsity
from llmprune.models.compute import choose_compute
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from llmprune.stages.calibration import calibrate
from llmprune.stages.common.workspace import open_workspace
from llmprune.stages.healing import HealSettings, heal
from llmprune.stages.healing.block import BlockSolver
from llmprune.stages.passes import Stream
from llmprune.stages.weight_pruning import PruningSettings, global_prune
from tests.tiny import save_tiny_llama, snapshot

HOLES = (1, 3, 4)  # of 6 blocks: 0, 2 and 5 are left, and 0 and 2 stand before holes


def weights(directory):
    return load_file(directory / "model.safetensors")


def cut(space, heal=Heal.NONE, blocks=HOLES, **settings):
    return remove_blocks(space, RemovalSettings(blocks=blocks, heal=heal, **{"verify": False, **settings}))


def loss_on(directory, tokens):
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    with torch.no_grad():
        return float(model(tokens, labels=tokens).loss)


def held_back(space):
    return open_calibration(space.run.calibration).tokens()[-3:]  # an eighth of 24


@pytest.mark.parametrize("scope", Scope)
def test_the_loss_falls_as_the_record_says(scope, written):
    plain, healed = cut(written), cut(written, Heal(scope.value))
    healing = healed.record.healing
    before, after = healing.losses
    assert before == pytest.approx(loss_on(plain.directory, held_back(written)), abs=1e-5)
    assert after == pytest.approx(loss_on(healed.directory, held_back(written)), abs=1e-5)
    assert after < before - 0.05
    assert [block.block for block in healing.blocks] == ([0, 1] if scope is Scope.CUT else [0, 1, 2])
    assert [block.before for block in healing.blocks][:2] == [2, 5]
    assert (healing.settings.windows, healing.settings.held_back) == (24, 3)


def test_cached_hidden_states_take_the_place_of_the_dense_models_blocks(written, settings, monkeypatch):
    calibrate(written, settings, force=True)
    plain, read, computed = cut(written, Heal.ALL), [], []
    calibrate(written, replace(settings, cache="all"), force=True)
    from_cache, write = Stream.from_cache, Stream.write
    monkeypatch.setattr(Stream, "from_cache", lambda self, block: read.append(block) or from_cache(self, block))
    monkeypatch.setattr(
        Stream, "write", lambda self, block, batches: computed.append((self.name, block)) or write(self, block, batches)
    )
    cached = cut(written, Heal.ALL, out=written.run.path / "again")
    ours, theirs = weights(cached.directory), weights(plain.directory)
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())
    assert read == [2, 2, 5, 5, 6, 6]  # of the windows to solve on, and of those that are held back
    assert {block for name, block in computed if name.startswith("dense")} == {0, *read}


def test_nothing_but_the_healed_layers_changes(written):
    plain, healed = cut(written), cut(written, Heal.ALL)
    old, new = weights(plain.directory), weights(healed.directory)
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    # The record names tensors as the dense model does, whose blocks 0, 2 and 5 are the new 0, 1 and 2.
    places = {"0": "0", "2": "1", "5": "2"}
    parts = [name.removeprefix("model.layers.").split(".", 1) for name in healed.record.healing.healed_tensors]
    assert changed == {f"model.layers.{places[block]}.{rest}" for block, rest in parts} != set()
    assert {name.split(".")[-2] for name in changed} <= {"o_proj", "down_proj"}


def test_healing_a_checkpoint_is_what_healing_the_removal_gives(written):
    plain, whole = cut(written), cut(written, Heal.ALL)
    report = heal(written, str(plain.directory), HealSettings())
    ours, theirs = weights(report.directory), weights(whole.directory)
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert report.record.source_record.removal.removed == HOLES
    assert report.record.healing.losses == whole.record.healing.losses
    assert written.run.newest_checkpoint() == report.directory


class _Killed(BaseException):
    pass


def test_an_interrupted_healing_goes_on_and_ends_with_the_same_bytes(written, monkeypatch, listener):
    whole = cut(written, Heal.ALL, out=written.run.path / "whole")
    calls, solve = itertools.count(), BlockSolver.heal

    def dying(self, path, loss_before):
        if next(calls) == 3:  # in the second of three blocks, with two layers each
            raise _Killed
        return solve(self, path, loss_before)

    monkeypatch.setattr(BlockSolver, "heal", dying)
    with pytest.raises(_Killed):
        cut(written, Heal.ALL)
    monkeypatch.setattr(BlockSolver, "heal", solve)
    seen = []
    settings = RemovalSettings(blocks=HOLES, heal=Heal.ALL, verify=False)
    report = remove_blocks(written, settings, on_block=lambda block: seen.append(block.block))
    assert seen == [1, 2]
    assert listener.heard("Going on at block 1 of 3.")
    ours, theirs = weights(report.directory), weights(whole.directory)
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert not report.directory.with_name(f"{report.directory.name}.partial").exists()


def test_a_healing_stopped_behind_its_last_block_only_writes(written, monkeypatch):
    whole = cut(written, Heal.CUT, out=written.run.path / "whole")

    def dying(*_, **__):
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr("llmprune.stages.block_removal.stage.write_checkpoint", dying)
        with pytest.raises(_Killed):
            cut(written, Heal.CUT)
    settings = RemovalSettings(blocks=HOLES, heal=Heal.CUT, verify=False)
    report = remove_blocks(written, settings, on_block=lambda _: pytest.fail("solved again"))
    assert report.record.healing.losses == whole.record.healing.losses
    ours, theirs = weights(report.directory), weights(whole.directory)
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_zeros_stay_where_they_are_and_the_loss_falls(written):
    pattern = SemiStructured(2, 4)
    by_size = PruningSettings(pattern, Method.MAGNITUDE, reference=Reference.PRUNED, refit_steps=0)
    sparse = global_prune(written, by_size)
    report = heal(written, str(sparse.directory), HealSettings())
    names = [matrix.tensor for block in sparse.record.sparsity.blocks for matrix in block.matrices]
    counted = measure_sparsity(open_checkpoint(report.directory), names, pattern)
    assert (counted.zeros, counted.violations) == (sparse.record.sparsity.zeros, 0)
    old, new = weights(sparse.directory), weights(report.directory)
    assert all(torch.equal(old[name] == 0, new[name] == 0) for name in names)
    before, after = report.record.healing.losses
    assert after < before
    assert [block.block for block in report.record.healing.blocks] == list(range(6))
    assert all(layer.masked for layer in report.record.healing.layers)
    assert set(report.record.zeroed_tensors) == set(names)


def test_a_sparse_model_keeps_its_zeros_when_blocks_are_removed_and_healed(written, tmp_path):
    sparse = global_prune(written, PruningSettings(SemiStructured(2, 4), Method.MAGNITUDE)).directory
    second = open_workspace(tmp_path / "second", str(sparse), compute=choose_compute("cpu"))
    windows = windows_of(open_calibration(written.run.calibration))
    report = remove_blocks(second, RemovalSettings(blocks=(3,), heal=Heal.CUT), windows=windows)
    counted = measure_sparsity(open_checkpoint(report.directory), report.record.zeroed_tensors, SemiStructured(2, 4))
    assert counted.violations == 0
    assert [layer.masked for layer in report.record.healing.layers] == [True, True]


def test_what_was_healed_before_is_kept_and_other_settings_are_refused(written, listener):
    plain = cut(written).directory
    out = written.run.path / "healed"
    first = heal(written, str(plain), HealSettings(out=out))
    again = heal(written, str(plain), HealSettings(out=out), on_block=lambda _: pytest.fail("healed again"))
    assert again.record == first.record
    assert listener.heard(f"{out} is complete already: nothing to do.")
    with pytest.raises(OutputExistsError, match=r"other settings \(scope all, not cut\)"):
        heal(written, str(plain), HealSettings(scope=Scope.CUT, out=out))
    with pytest.raises(OutputExistsError, match=r"other settings \(not healed\)"):
        cut(written, Heal.ALL, out=plain)
    healed = cut(written, Heal.CUT, out=written.run.path / "cut").directory
    with pytest.raises(OutputExistsError, match=r"other settings \(healed\)"):
        cut(written, out=healed)
    with pytest.raises(OutputExistsError, match=r"other settings \(scope cut, not all\)"):
        cut(written, Heal.ALL, out=healed)


def test_a_healed_checkpoint_can_be_pruned_and_healed_again(written, tmp_path):
    healed = cut(written, Heal.CUT, blocks=(2,)).directory
    second = open_workspace(tmp_path / "second", str(healed), compute=choose_compute("cpu"))
    smaller = cut(second, blocks=(2,)).directory
    report = heal(written, str(smaller), HealSettings())
    assert report.record.healing.settings.origins == (0, 1, 4, 5)
    assert report.record.healing.losses[1] < report.record.healing.losses[0]


def test_few_windows_and_a_part_of_them(written):
    report = heal(written, str(cut(written).directory), HealSettings(samples=2))
    assert (report.record.healing.settings.windows, report.record.healing.settings.held_back) == (2, 1)
    with pytest.raises(TargetError, match="`samples=1` is out of range; type 2 or more"):
        HealSettings(samples=1)


def test_blocks_missing_at_the_beginning_are_said(written):
    report = cut(written, Heal.ALL, blocks=(0, 3))
    assert any("before the hole at the beginning" in remark for remark in report.record.healing.remarks)
    assert [block.block for block in report.record.healing.blocks] == [0, 1, 2, 3]


def test_a_model_that_was_made_from_another_one_is_refused(written, tmp_path):
    plain = cut(written).directory
    other = save_tiny_llama(tmp_path / "other", seed=1)
    elsewhere = open_workspace(tmp_path / "elsewhere", str(other), compute=choose_compute("cpu"))
    with pytest.raises(ArtifactError, match="was made from tiny, not from other"):
        heal(elsewhere, str(plain), HealSettings())
    with pytest.raises(ArtifactError, match=r"llmprune.json is missing"):
        heal(written, str(other), HealSettings())


def test_where_nothing_differs_there_is_nothing_to_heal(written):
    same = global_prune(written, PruningSettings(Unstructured(0))).directory
    with pytest.raises(TargetError, match="there is nothing to heal"):
        heal(written, str(same), HealSettings())
    assert not (written.run.path / f"{same.name}-healed-all").exists()


def test_sources_are_left_as_they_were(written, model):
    plain = cut(written).directory
    before = snapshot(model), snapshot(plain)
    heal(written, str(plain), HealSettings())
    assert (snapshot(model), snapshot(plain)) == before

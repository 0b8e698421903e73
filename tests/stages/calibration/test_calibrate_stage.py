"""calibrate: the same numbers as plain transformers, one block at a time, whatever interrupts it."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llmprune.artifacts.activations import open_calibration
from llmprune.artifacts.run import RunDirectory
from llmprune.errors import ArtifactError, CheckpointError, NumericalError, TargetError
from llmprune.stages.calibration import CalibrationSettings, calibrate, dense_pass
from llmprune.stages.calibration.stage import draw_calibration
from tests.edits import edit_json
from tests.tiny import NUM_BLOCKS, POSITIONS, SAMPLES, SEQ_LEN, Listener, save_tiny_llama, snapshot


@pytest.fixture(scope="module")
def plain(model, calibrated):
    """What plain transformers computes on the calibration windows: states around each block, losses."""
    tokens = open_calibration(calibrated / "calibration").tokens()
    whole = AutoModelForCausalLM.from_pretrained(model).eval()
    leaving = []
    whole.model.norm.register_forward_pre_hook(lambda _, args: leaving.append(args[0]))
    with torch.no_grad():
        output = whole(tokens, output_hidden_states=True, use_cache=False)
    losses = torch.nn.functional.cross_entropy(
        output.logits[:, :-1].reshape(-1, output.logits.shape[-1]), tokens[:, 1:].reshape(-1), reduction="none"
    )
    # transformers gives the last hidden states behind the final norm; what leaves the last block is before it.
    return [*output.hidden_states[:-1], leaving[0]], losses.view(len(tokens), -1).mean(dim=1)


def without_times(path):
    files = snapshot(path)
    manifest = json.loads(files.pop("manifest.json"))
    return files, {key: value for key, value in manifest.items() if key not in {"created", "content_sha256"}}


def test_statistics_of_every_block_are_those_of_a_plain_forward(calibrated, plain):
    states, _ = plain
    blocks = open_calibration(calibrated / "calibration").manifest.blocks
    for block, before, after in zip(blocks, states[:-1], states[1:], strict=True):
        assert block.influence == pytest.approx(1 - torch.cosine_similarity(before, after, dim=-1).mean().item(), 1e-4)
        assert block.input_norm == pytest.approx(before.norm(dim=-1).mean().item(), 1e-4)
        assert block.update_norm == pytest.approx((after - before).norm(dim=-1).mean().item(), 1e-4)


def test_angular_distances_are_those_of_the_last_tokens(calibrated, plain):
    states, _ = plain
    distances = open_calibration(calibrated / "calibration").manifest.angular_distances
    first, third = states[1][:, -1], states[3][:, -1]
    expected = torch.arccos(torch.cosine_similarity(first, third, dim=-1)).mean() / torch.pi
    assert len(distances) == NUM_BLOCKS + 1
    assert distances[1][3] == pytest.approx(expected.item(), 1e-4)


def test_dense_losses_are_those_of_the_plain_model(calibrated, plain):
    _, losses = plain
    manifest = open_calibration(calibrated / "calibration").manifest
    assert manifest.dense_losses == pytest.approx(losses.tolist(), 1e-5)
    assert manifest.dense_loss == pytest.approx(losses.mean().item(), 1e-5)


def test_nothing_is_kept_that_nobody_reads(calibrated):
    calibration = open_calibration(calibrated / "calibration")
    assert {path.name for path in calibration.directory.iterdir()} == {"manifest.json", "tokens.safetensors"}
    assert not any(calibration.keeps(block) for block in range(NUM_BLOCKS + 1))
    with pytest.raises(ArtifactError, match="--cache all"), calibration.hidden_states(1):
        pass


@pytest.mark.parametrize(("places", "kept"), [(0, 0), (3, 3), (100, NUM_BLOCKS + 1)])
def test_cache_auto_keeps_the_first_states_that_the_disk_allows(places, kept, open_run, settings, plain, monkeypatch):
    each = SAMPLES * SEQ_LEN * 32 * 4
    monkeypatch.setattr(dense_pass, "free_space", lambda _: 10 * places * each + each)
    states, _ = plain
    calibration = calibrate(open_run(), replace(settings, cache="auto"))
    assert [calibration.keeps(block) for block in range(NUM_BLOCKS + 1)] == [k < kept for k in range(NUM_BLOCKS + 1)]
    for block in range(kept):
        with calibration.hidden_states(block) as entering:
            torch.testing.assert_close(entering.windows(2, 5), states[block][2:5])


def test_windows_alone_are_run_through_the_model_once_somebody_needs_it(open_run, settings, calibrated, run):
    alone = draw_calibration(open_run(), settings)
    assert {path.name for path in alone.directory.iterdir()} == {"manifest.json", "tokens.safetensors"}
    assert (alone.manifest.measured, alone.manifest.dtype) == (False, None)
    listener = Listener()
    assert calibrate(open_run(listener=listener), settings).manifest.measured
    assert listener.heard("holds windows alone")
    assert without_times(run / "calibration") == without_times(calibrated / "calibration")


def test_windows_alone_are_other_settings_where_they_are_other_windows(open_run, settings):
    draw_calibration(open_run(), settings)
    with pytest.raises(ArtifactError, match=r"in no dtype yet .* made with other settings"):
        calibrate(open_run(), replace(settings, seed=5))


def test_a_manifest_from_before_the_cache_could_hold_nothing_is_read(calibrated, tmp_path):
    shutil.copy(calibrated / "calibration" / "manifest.json", tmp_path)
    edit_json(tmp_path / "manifest.json", cache="first")
    assert open_calibration(tmp_path).manifest.cache == "none"


def test_cache_all_keeps_the_states_around_every_block(open_run, settings, plain):
    states, _ = plain
    calibration = calibrate(open_run(), replace(settings, cache="all"))
    for block in range(NUM_BLOCKS + 1):
        with calibration.hidden_states(block) as entering:
            torch.testing.assert_close(entering.windows(2, 5), states[block][2:5])


def test_the_manifest_says_what_was_run_on_what(calibrated, text):
    manifest = open_calibration(calibrated / "calibration").manifest
    assert (manifest.num_windows, manifest.seq_len, manifest.seed) == (SAMPLES, SEQ_LEN, 0)
    assert (manifest.model.name, manifest.model.num_blocks, manifest.dtype) == ("tiny", NUM_BLOCKS, "float32")
    assert manifest.corpus.name == text.name


def test_no_path_of_this_machine_stands_in_the_manifest(calibrated, text, model):
    written = (calibrated / "calibration" / "manifest.json").read_text()
    assert str(text.parent) not in written
    assert str(model.parent) not in written


def test_a_note_about_a_local_file_names_no_path_either(open_run, settings, text):
    manifest = calibrate(open_run(), replace(settings, samples=1000)).manifest
    assert "overlap" in manifest.corpus.note
    assert str(text.parent) not in manifest.corpus.note


@pytest.mark.parametrize("cache", ["none", "all"])
@pytest.mark.parametrize("blocks_done", [1.5, 3, NUM_BLOCKS])
def test_an_interrupted_pass_goes_on_and_gives_the_same_bytes(blocks_done, cache, open_run, settings, run):
    settings = replace(settings, cache=cache)
    whole = calibrate(open_run(), settings).directory
    expected = without_times(whole)
    shutil.rmtree(run)

    def interrupt(task, share):
        if task == "Calibrating" and share >= blocks_done / NUM_BLOCKS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(open_run(listener=Listener(interrupt)), settings)
    assert not whole.exists()
    listener = Listener()
    calibrate(open_run(listener=listener), settings)
    assert listener.heard("Going on at block")
    assert without_times(whole) == expected
    assert not (run / "calibration.partial").exists()


def test_a_pass_interrupted_while_the_losses_are_computed_runs_no_block_again(open_run, settings, calibrated, run):
    def interrupt(task, _):
        if task == "Dense loss":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(open_run(listener=Listener(interrupt)), settings)
    listener = Listener()
    calibrate(open_run(listener=listener), settings)
    assert listener.heard(f"Going on at block {NUM_BLOCKS} of {NUM_BLOCKS}")
    assert without_times(run / "calibration") == without_times(calibrated / "calibration")


def test_a_pass_killed_after_its_manifest_was_written_is_only_put_in_place(open_run, settings, calibrated, run):
    shutil.copytree(calibrated / "calibration", run / "calibration.partial")
    (run / "calibration.partial" / "state.json").write_text("{}")

    def refuse(task, _):
        raise AssertionError(f"{task} was run again")

    calibrate(open_run(listener=Listener(refuse)), settings)
    assert snapshot(run / "calibration") == snapshot(calibrated / "calibration")


@pytest.mark.parametrize("damage", ["states", "last"])
def test_a_stopped_pass_whose_files_were_damaged_begins_anew(damage, open_run, settings, calibrated, run):
    def interrupt(_, share):
        if share >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(open_run(listener=Listener(interrupt)), settings)
    partial = run / "calibration.partial"
    if damage == "states":
        path = max(partial.glob("hidden-*"))
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)
    else:
        min(partial.glob("last-*")).unlink()
    listener = Listener()
    calibrate(open_run(listener=listener), settings)
    assert not listener.heard("Going on")
    assert listener.heard("are not what an earlier pass wrote: it begins anew")
    assert without_times(run / "calibration") == without_times(calibrated / "calibration")


def test_a_pass_interrupted_before_its_first_block_leaves_nothing_behind(open_run, settings, run):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(open_run(listener=Listener(interrupt)), settings)
    assert not run.exists()


def test_a_finished_calibration_says_so_and_is_not_touched(workspace, settings, listener, run):
    before = snapshot(run)
    calibrate(workspace, settings)
    assert listener.heard("complete already")
    assert snapshot(run) == before


@pytest.mark.parametrize("other", [{"samples": 8}, {"seq_len": 16}, {"seed": 1}, {"cache": "all"}, {"source": "self"}])
def test_other_settings_are_refused_and_force_replaces(other, workspace, settings, run):
    before, settings = snapshot(run), replace(settings, **other)
    with pytest.raises(ArtifactError, match=r"other settings; type `force=True` .* or `run=OTHER`"):
        calibrate(workspace, settings)
    assert snapshot(run) == before
    manifest = calibrate(workspace, settings, force=True).manifest
    assert {"seq_len": manifest.seq_len, "samples": manifest.num_windows, "cache": manifest.cache} == {
        "seq_len": settings.seq_len,
        "samples": settings.samples,
        "cache": settings.cache,
    }


def test_another_dtype_is_another_setting(workspace, settings, open_run):
    with pytest.raises(ArtifactError, match="float32"):
        calibrate(open_run(dtype="bfloat16"), settings)
    assert calibrate(open_run(dtype="bfloat16"), settings, force=True).manifest.dtype == "bfloat16"


def test_the_model_can_write_its_own_calibration_text(open_run, run):
    settings = CalibrationSettings(source="self", samples=3, seq_len=16)
    first = calibrate(open_run(), settings)
    assert first.manifest.corpus.name == "self"
    assert first.tokens()[:, 0].tolist() == [1, 1, 1]  # BOS
    listener = Listener(lambda task, _: pytest.fail(f"{task} was run again"))
    calibrate(open_run(listener=listener), settings)
    assert listener.heard("complete already")
    with pytest.raises(ArtifactError, match="other settings"):
        calibrate(open_run(), replace(settings, seed=1))


def test_windows_are_as_long_as_a_short_model_allows(open_run, text):
    calibration = calibrate(open_run(), CalibrationSettings(source=str(text), samples=2))
    assert calibration.manifest.seq_len == POSITIONS


def test_a_window_beyond_the_models_positions_is_refused(open_run, settings, run):
    with pytest.raises(TargetError, match=f"type `seq_len={POSITIONS}` or less"):
        calibrate(open_run(), replace(settings, seq_len=POSITIONS + 1))
    assert not run.exists()


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"seq_len": 1}, {"seed": -1}, {"seed": 2**63}])
def test_numbers_that_no_model_allows_are_refused_before_one_is_opened(wrong):
    with pytest.raises(TargetError):
        CalibrationSettings(**wrong)


def test_weights_that_are_not_finite_are_named_and_nothing_is_written(open_run, settings, run, tmp_path):
    broken = save_tiny_llama(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model\.layers\.2\.mlp\.up_proj\.weight"):
        calibrate(open_run(of=broken), settings)
    assert not run.exists()


def test_a_block_that_overflows_is_named_and_what_was_there_is_kept(open_run, settings, run, tmp_path):
    loud = save_tiny_llama(tmp_path / "loud")
    weights = load_file(loud / "model.safetensors")
    weights["model.layers.2.mlp.down_proj.weight"] *= 1e5
    save_file(weights, loud / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NumericalError, match=r"Block 2 .* float16; try `dtype=float32`"):
        calibrate(open_run(of=loud, dtype="float16"), settings)
    assert not RunDirectory(run).calibration.exists()


def test_a_calibration_of_other_weights_says_so(workspace, settings, model, open_run, tmp_path, run):
    changed = save_tiny_llama(tmp_path / "changed", seed=1)
    edit_json(run / "run.json", model=str(changed), directory=str(changed))
    with pytest.raises(ArtifactError, match="config or weights differ"):
        calibrate(open_run(of=changed), settings)

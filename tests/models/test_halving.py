"""A batch that a device has no memory for runs in halves; said once, and remembered."""

import pytest
import torch

from llmprune.models.capture import BlockRunner
from llmprune.models.loading import open_decoder
from llmprune.stages.calibration import CalibrationSettings, calibrate

CPU = torch.device("cpu")
TOKENS = torch.randint(128, (6, 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def small_device(monkeypatch):
    """A device with memory for so many windows at a time; every run of a block is noted."""

    def give(windows):
        seen, original = [], BlockRunner._run_block

        def run(self, index, hidden, call):
            seen.append(len(hidden))
            if len(hidden) > windows:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return original(self, index, hidden, call)

        monkeypatch.setattr(BlockRunner, "_run_block", run)
        return seen

    return give


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_halves_give_what_the_whole_gives(family, checkpoint, small_device):
    decoder, said = open_decoder(checkpoint(family), device=CPU), []
    decoder.runner.halving.say = said.append
    with decoder.block(1), torch.inference_mode():
        hidden, call = decoder.runner.embed(TOKENS), decoder.runner.calls(TOKENS)[1]
        expected = decoder.runner.forward_block(1, hidden, call)
        assert decoder.runner.halving.remarks == ()
        seen = small_device(2)
        found = [decoder.runner.forward_block(1, hidden, call) for _ in range(2)]
    assert seen == [6, 3, *[1] * 6, *[1] * 6]  # the second time it is known
    assert all(torch.allclose(one, expected, atol=1e-5) for one in found)
    assert len(said) == 1 and "no memory for 6 windows at a time" in said[0]
    assert "1 windows at a time" in decoder.runner.halving.remarks[0]


def test_a_window_that_does_not_fit_is_an_error_and_so_is_a_batch_that_somebody_watches(checkpoint, small_device):
    decoder = open_decoder(checkpoint("llama"), device=CPU)
    with decoder.block(1), torch.inference_mode():
        hidden, call = decoder.runner.embed(TOKENS), decoder.runner.calls(TOKENS)[1]
        small_device(0)
        with pytest.raises(torch.OutOfMemoryError):
            decoder.runner.forward_block(1, hidden, call)
        small_device(3)
        hook = decoder.blocks[1].register_forward_pre_hook(lambda *_: None)
        with pytest.raises(torch.OutOfMemoryError):
            decoder.runner.forward_block(1, hidden, call)
        hook.remove()


def test_a_calibration_goes_on_in_halves_and_records_it(tmp_path, checkpoint, small_device):
    from llmprune.models.compute import choose_compute
    from llmprune.stages.common.workspace import open_workspace
    from tests.tiny import Listener, save_tiny_llama, write_text

    model, text = save_tiny_llama(tmp_path / "model"), write_text(tmp_path / "sea.txt")
    settings, made = CalibrationSettings(source=str(text), samples=8, seq_len=16), {}
    for run in ("whole", "halves"):
        listener = Listener()
        workspace = open_workspace(tmp_path / run, str(model), compute=choose_compute("cpu"), progress=listener)
        made[run] = calibrate(workspace, settings).manifest
        assert listener.heard("windows at a time") == (run == "halves")
        small_device(4)
    assert made["whole"].remarks == ()
    assert "4 windows at a time went through a block" in made["halves"].remarks[0]
    assert made["halves"].dense_losses == pytest.approx(made["whole"].dense_losses, abs=1e-5)

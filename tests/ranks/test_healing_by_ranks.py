"""heal and remove-blocks --heal by several processes: what one heals, whoever dies and however many go on."""

import json
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from llmprune.stages.healing.share import HealingShare
from tests.ranks.together import run_ranks
from tests.tiny import save_tiny_llama, write_text


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A run of a model of five blocks in float64, and one of it without two blocks; one window of 7 is held back."""
    folder = tmp_path_factory.mktemp("ranks")
    model, text = save_tiny_llama(folder / "model", num_blocks=5), write_text(folder / "sea.txt")
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64).save_pretrained(model)
    for words in (
        ["calibrate", model, "--source", text, "--samples", 7, "--seq-len", 48, "--run", folder / "run"],
        ["remove-blocks", "--blocks", "1,3", "--run", folder / "run", "--out", folder / "pruned"],
    ):
        (ended,) = run_ranks(1, words, folder / "out")
        assert ended.exit_code == 0, ended.stderr
    return folder


@pytest.fixture
def command(calibrated, tmp_path):
    """Type a command in ``size`` processes, in a copy of the run; gives where it writes."""

    def typed(size, *words, name, before=lambda _: None, exit_code=0):
        run = tmp_path / name
        if not run.exists():
            shutil.copytree(calibrated / "run", run)
        ended = run_ranks(
            size, [*words, "--run", run, "--out", run / "out", "--quiet"], tmp_path / "out", before=before
        )
        assert ended[0].exit_code == exit_code, ended
        assert all(not one.stdout and not one.stderr for one in ended[1:])
        return run / "out"

    return typed


def assert_same(one, other):
    ours, theirs = (load_file(directory / "model.safetensors") for directory in (one, other))
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-7)
    records = [json.loads((directory / "llmprune.json").read_text())["healing"] for directory in (one, other)]
    for before, after in zip(*(record["blocks"] for record in records), strict=True):
        for mine, yours in zip(before["layers"], after["layers"], strict=True):
            assert yours == {**mine, **{key: pytest.approx(mine[key]) for key in mine if isinstance(mine[key], float)}}


def test_three_processes_heal_what_one_heals(calibrated, command):
    """Of three processes, two have none of the windows that are held back."""
    one, three = (command(size, "heal", calibrated / "pruned", name=f"by-{size}") for size in (1, 3))
    assert_same(one, three)


def test_blocks_before_a_hole_in_the_middle_run_once_for_both_models(command):
    """Then the pruned model's states are written where the first block is healed, and all look at the first window."""
    words = ("remove-blocks", "--blocks", "3", "--heal", "cut")
    assert_same(*(command(size, *words, name=f"middle-{size}") for size in (1, 2)))


def test_after_a_death_another_number_goes_on(command, tmp_path):
    plain = HealingShare.pass_block

    def die(rank):
        def pass_block(self, place, *asked):
            if (rank, place) == (1, 2):
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(self, place, *asked)

        HealingShare.pass_block = pass_block

    words = ("remove-blocks", "--blocks", "1,3", "--heal", "all")
    command(2, *words, name="run", before=die, exit_code=1)
    assert json.loads((tmp_path / "run" / "out.partial" / "state.json").read_text())["entering"] == 2
    assert_same(command(1, *words, name="whole"), command(3, *words, name="run"))

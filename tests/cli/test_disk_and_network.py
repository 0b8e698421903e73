"""A full disk, a silent Hub, a model that computes no number: what was there before is intact."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.cli.conftest import ROOT
from tests.cli.world import refused
from tests.forked import run_forked


def fill(place: Path, *, leave: int) -> None:
    free = shutil.disk_usage(place).free
    (place / "filler").write_bytes(bytes(free - leave))


def test_hidden_states_that_do_not_fit_are_not_begun(small_disk, world, llmprune):
    words = ["calibrate", world.intact, "--source", world.text, "--samples", 500, "--seq-len", 64]
    complaint = refused(llmprune, small_disk, [*words, "--run", small_disk / "run"], code=1)
    assert "is full" in complaint
    assert "What was there before is intact" in complaint


def test_a_disk_that_fills_up_keeps_the_old_calibration(small_disk, world, llmprune):
    run = small_disk / "run"
    shutil.copytree(world.run, run)
    fill(small_disk, leave=60_000)
    words = ["calibrate", "--source", world.text, "--samples", 16, "--seq-len", 32, "--force", "--run", run]
    assert "is full" in refused(llmprune, small_disk, words, code=1)


def test_a_checkpoint_that_does_not_fit_leaves_the_old_one(small_disk, world, llmprune):
    out = small_disk / "out"
    assert llmprune("remove-blocks", "--blocks", 2, "--run", world.run, "--out", out).exit_code == 0
    fill(small_disk, leave=50_000)
    words = ["remove-blocks", "--blocks", 3, "--run", world.run, "--out", out, "--force"]
    assert "is full" in refused(llmprune, small_disk, words, code=1)


def test_a_limit_in_the_middle_of_a_file_leaves_nothing_behind(world):
    run = world.folder / "new"
    words = ["calibrate", world.intact, "--source", world.text, "--samples", 24, "--seq-len", 64, "--run", run]
    done = run_forked(
        words,
        environment=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.returncode == 1
    assert "has reached the limit on a file's size" in done.stderr
    assert not run.exists()


def test_a_hub_that_does_not_answer_is_found_out_quickly(tmp_path):
    # Where the Hub is, huggingface_hub reads when it is imported.
    hub = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "llmprune", "calibrate", "owner/name", "--run", tmp_path / "run"]
    done = subprocess.run(words, env={**os.environ, **hub}, capture_output=True, text=True, timeout=45)
    assert done.returncode == 2
    assert "the Hub cannot be reached; to go on offline, type the path of a checkpoint directory" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_model_that_computes_no_number_is_a_failure_and_not_measured(world, llmprune):
    path = world.model / "model.safetensors"
    weights = {name: weight * (1e5 if "down_proj" in name else 1) for name, weight in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    words = ["bench", world.model, "--ppl", world.text, "--ppl-seq-len", 32, "--no-speed", "--dtype", "float16"]
    complaint = refused(llmprune, world.folder, [*words, "--run", world.folder / "new"], code=1)
    assert "try --dtype float32" in complaint

"""A bit flipped in anything that llmprune wrote is met by the commands that read it, before they use it."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.artifacts.masks.mask import write_mask
from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.cli.app import app
from tests.cli.world import refused
from tests.edits import DIGEST, edit_json
from tests.tiny import save_tiny_llama

QUICK = ["--ppl-seq-len", 32, "--max-windows", 4, "--no-speed"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory, ranked, text) -> Path:
    """A run with everything in it: ``cut``, ``sparse`` and its mask, and a benchmark."""
    run = Path(shutil.copytree(ranked, tmp_path_factory.mktemp("finished") / "run"))
    commands = [
        ["remove-blocks", "--target", 2, "--out", run / "cut"],
        ["global-prune", "--pattern", "2:4", "--method", "magnitude", "--no-refit", "--out", run / "sparse"],
        ["bench", run / "cut", "--ppl", text, *QUICK],
    ]
    for words in commands:
        result = CliRunner().invoke(app, [*map(str, words), "--run", str(run), "--quiet"])
        assert result.exit_code == 0, result.stderr
    zeroed = PruningRecord.read(run / "sparse" / "llmprune.json").zeroed_tensors
    write_mask(open_checkpoint(run / "sparse"), zeroed, run / "zeros.safetensors", pattern="2:4")
    return run


@pytest.fixture
def run(tmp_path, finished) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "world" / "run"))


def flip(path: Path, share: float = 0.7) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 4
    path.write_bytes(content)


def count_up(path: Path, share: float = 0.4) -> None:
    """Another digit in the JSON of an artifact."""
    text = path.read_text()
    digit = re.compile(r"(?<=: )[0-8](?=[0-9.,\n])").search(text, int(len(text) * share))
    assert digit is not None
    path.write_text(f"{text[: digit.start()]}{int(digit[0]) + 1}{text[digit.end() :]}")


def train(cut: Path) -> None:
    weights = load_file(cut / "model.safetensors")
    trained = {name: weight + 0.01 * torch.ones_like(weight) for name, weight in weights.items()}
    save_file(trained, cut / "model.safetensors", {"format": "pt"})


def swap(cut: Path) -> None:
    weights = load_file(cut / "model.safetensors")
    one, other = (f"model.layers.0.mlp.{name}_proj.weight" for name in ("up", "gate"))
    save_file({**weights, one: weights[other], other: weights[one]}, cut / "model.safetensors", {"format": "pt"})


def add_shard(cut: Path) -> None:
    shutil.copyfile(cut / "model.safetensors", cut / "model-00001-of-00002.safetensors")


def commands(run: Path, text: Path) -> dict[str, list]:
    at = ["--run", run]
    return {
        "remove-blocks": ["remove-blocks", "--target", 2, "--out", run / "cut", *at],
        "bench": ["bench", run / "cut", "--ppl", text, *QUICK, *at],
        "push": ["push", run / "cut", "ada/model", "--dry-run", *at],
        "again": ["remove-blocks", run / "cut", "--blocks", 1, "--run", run.parent / "other"],
        "heal": ["heal", run / "cut", *at],
    }


DAMAGES = {
    "a bit of the weights": (lambda cut: flip(cut / "model.safetensors"), "is damaged: model.safetensors has another"),
    "two tensors swapped": (swap, "is damaged: model.safetensors has another"),
    "trained": (train, "tensors have other weights, as after a fine-tune"),
    "another config": (lambda cut: edit_json(cut / "config.json", rms_norm_eps=1e-3), "has another config.json than"),
    "no tokenizer": (lambda cut: (cut / "tokenizer.json").unlink(), "lacks tokenizer.json, which llmprune wrote"),
    "another tokenizer": (lambda cut: edit_json(cut / "tokenizer.json", version="1.1"), "has another tokenizer.json"),
    "another shard": (add_shard, "holds model-00001-of-00002.safetensors, which"),
    "the record": (lambda cut: count_up(cut / "llmprune.json"), "its content does not fit its digest"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("command", ["remove-blocks", "bench", "push", "again", "heal"])
def test_a_checkpoint_that_is_not_what_was_written_is_refused(damage, command, run, text, llmprune):
    change, words = DAMAGES[damage]
    change(run / "cut")
    said = refused(llmprune, run.parent, commands(run, text)[command])
    assert words in said or (damage == "another shard" and "it is not a shard of this checkpoint" in said)
    assert "force" in said or "--no-check" in said or "delete the line" in said or "Move it out" in said


@pytest.mark.parametrize("command", ["remove-blocks", "bench"])
def test_without_the_check_it_is_taken_and_that_is_said(run, text, llmprune, command):
    flip(run / "cut" / "model.safetensors")
    result = llmprune(*commands(run, text)[command], "--no-check")
    assert result.exit_code == 0, result.stderr
    assert "Whether cut is what llmprune wrote is not checked." in result.stderr


def test_a_card_and_a_licence_are_for_people_to_edit(run, text, llmprune):
    (run / "cut" / "README.md").write_text("Mine.")
    (run / "cut" / "LICENSE").write_text("Mine.")
    assert llmprune(*commands(run, text)["remove-blocks"]).exit_code == 0


def test_weights_are_hashed_once_a_command(run, text, llmprune, monkeypatch):
    from llmprune.artifacts.checkpoints import scanning
    from llmprune.stages.common import intact

    read = []

    def noted(checkpoint):
        read.append(checkpoint.directory.name)
        return scanning.digest_weights(checkpoint)

    monkeypatch.setattr(intact, "digest_weights", noted)
    for command, times in (("remove-blocks", 1), ("bench", 1), ("heal", 1), ("again", 1)):
        read.clear()
        assert llmprune(*commands(run, text)[command]).exit_code == 0
        assert read.count("cut") == times, command


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("run.json", "verify-redundancy --target 2"),
        ("importance.json", "remove-blocks --target 2"),
        ("calibration/manifest.json", "verify-redundancy --target 3"),
        ("bench", "report"),
    ],
)
def test_a_digit_of_an_artifact(name, command, run, llmprune):
    path = next((run / "bench").iterdir()) if name == "bench" else run / name
    if name == "run.json":
        path.write_text(path.read_text().replace('"name": "', '"name": "not-'))
    else:
        count_up(path, 0.2)
    said = refused(llmprune, run.parent, [*command.split(), "--run", run])
    assert "its content does not fit its digest" in said


@pytest.mark.parametrize("damage", [flip, Path.unlink])
@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("tokens.safetensors", "calibrate"),
        ("tokens.safetensors", "verify-redundancy"),
    ],
)
def test_files_of_the_calibration(run, model, small, llmprune, name, damage, command):
    damage(run / "calibration" / name)
    words = ["calibrate", model, *small] if command == "calibrate" else ["verify-redundancy", "--target", 3]
    said = refused(llmprune, run.parent, [*words, "--run", run])
    assert f"{name} is missing or is not what calibrate wrote; type: llmprune calibrate --force" in said


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
def test_a_bit_of_a_mask(run, tmp_path, llmprune, share):
    sibling = save_tiny_llama(tmp_path / "world" / "sibling", seed=1)
    flip(run / "zeros.safetensors", share)
    refused(llmprune, run.parent, ["apply-mask", sibling, run / "zeros.safetensors", "--run", run.parent / "tuned"])


def test_a_mask_from_a_checkpoint_that_changed(run, tmp_path, llmprune):
    sibling = save_tiny_llama(tmp_path / "world" / "sibling", seed=1)
    flip(run / "sparse" / "model.safetensors")
    said = refused(llmprune, run.parent, ["apply-mask", sibling, run / "sparse", "--run", run.parent / "tuned"])
    assert "is damaged: model.safetensors has another SHA-256" in said


def test_what_an_earlier_version_wrote_is_taken_and_that_is_said_in_one_line(run, text, llmprune):
    for path in (run / "run.json", run / "importance.json", run / "cut" / "llmprune.json"):
        content = json.loads(path.read_text())
        for name in (DIGEST, "written"):
            content.pop(name, None)
        path.write_text(json.dumps(content))
    result = llmprune(*commands(run, text)["remove-blocks"])
    assert result.exit_code == 0, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if "Not checked" in line]
    assert "an earlier llmprune wrote" in line
    assert "run.json" in line
    assert "complete already" in result.stderr

"""Paths that no file can have, or that files of weights cannot: one sentence, exit code 2, and nothing written."""

import os
import shutil
from pathlib import Path

import pytest

from tests.cli.world import refused

COMMANDS = {
    "run": ["calibrate", "MODEL", "--source", "TEXT", "--samples", "4", "--seq-len", "32", "--run", "BAD"],
    "run of a search": ["verify-redundancy", "MODEL", "--run", "BAD"],
    "run of a sweep": ["sweep", "MODEL", "--sparsity", "0.5", "--no-speed", "--run", "BAD"],
    "run of quickstart": ["quickstart", "--run", "BAD"],
    "model": ["remove-blocks", "BAD", "--blocks", "2", "--run", "new"],
    "model to measure": ["bench", "BAD", "--no-speed", "--run", "new"],
    "baseline": ["bench", "MODEL", "--baseline", "BAD", "--no-speed", "--run", "new"],
    "out without blocks": ["remove-blocks", "MODEL", "--blocks", "2", "--run", "new", "--out", "BAD"],
    "out with zeros": ["global-prune", "--method", "magnitude", "--run", "run", "--out", "BAD"],
    "out of a mask": ["apply-mask", "MODEL", "MASK", "--run", "new", "--out", "BAD"],
    "calibration": ["global-prune", "MODEL", "--method", "magnitude", "--run", "new", "--calibration", "BAD"],
    "mask": ["apply-mask", "MODEL", "BAD", "--run", "new"],
    "text": ["calibrate", "MODEL", "--source", "BAD", "--run", "new"],
    "tasks": ["bench", "MODEL", "--no-ppl", "--no-speed", "--tasks", "x", "--lm-eval-include", "BAD", "--run", "new"],
    "report": ["report", "BAD"],
    "out of a report": ["report", "run", "--out", "BAD"],
    "checkpoint": ["push", "BAD", "owner/name", "--dry-run", "--run", "new"],
}
BAD = {"name": "x" * 300, "path": "/".join(["y" * 200] * 30), "bytes": os.fsdecode(b"caf\xe9")}


@pytest.fixture
def here(world, monkeypatch):
    """The current folder, with a run."""
    monkeypatch.chdir(world.folder)
    return world


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("case", COMMANDS)
def test_a_path_that_cannot_be_is_refused_in_a_sentence(case, kind, here, llmprune):
    if case == "tasks":
        pytest.importorskip("lm_eval", reason="lm-eval is not installed (extra 'eval')")
    places = {"MODEL": here.intact, "TEXT": here.text, "MASK": here.intact, "BAD": BAD[kind]}
    complaint = refused(llmprune, here.folder, [places.get(word, word) for word in COMMANDS[case]])
    if kind == "bytes":
        assert r"caf\udce9' is not valid UTF-8" in complaint


def test_a_folder_of_such_a_name_is_refused_wherever_it_stands(here, llmprune, monkeypatch):
    odd = here.folder / BAD["bytes"]
    shutil.copytree(here.intact, odd / "model")
    assert "is not valid UTF-8" in refused(llmprune, odd, ["remove-blocks", odd / "model", "--blocks", "2"])
    monkeypatch.chdir(odd)
    assert "is not valid UTF-8" in refused(llmprune, odd, ["remove-blocks", "model", "--blocks", "2"])


def test_a_working_directory_that_was_removed_is_named(here, llmprune, monkeypatch):
    gone = here.folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    result = llmprune("report")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "The working directory is not there any more; go to another one." in result.stderr


def test_the_longest_name_that_is_allowed_can_be_written(here, llmprune):
    out = here.folder / ("z" * 255)
    result = llmprune("global-prune", "--method", "magnitude", "--run", "run", "--out", out)
    assert result.exit_code == 0, result.output
    assert (out / "llmprune.json").is_file()


def test_a_run_that_leaves_no_room_for_its_files_is_refused_and_leaves_nothing(here, llmprune, text):
    deep = Path("/".join(["d" * 250] * 15)) / ("e" * (4070 - len(str(here.folder)) - 15 * 251))
    words = ["calibrate", here.intact, "--source", text, "--samples", "4", "--seq-len", "32", "--run", deep]
    assert "cannot be read: File name too long; type --run OTHER" in refused(llmprune, here.folder, words)


def test_a_checkpoint_whose_files_had_no_room_is_refused_before_it_is_made(here, llmprune):
    deep = Path("/".join(["d" * 250] * 15)) / ("e" * (4070 - len(str(here.folder)) - 15 * 251))
    words = ["remove-blocks", here.intact, "--blocks", "2", "--run", "new", "--out", deep]
    assert "is longer than the file system allows" in refused(llmprune, here.folder, words)

"""What bad input is tried on, and how a command must refuse it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.edits import edit_json
from tests.tiny import snapshot


@dataclass
class World:
    """A folder of its own: a model to damage, a run of the undamaged one, a text."""

    folder: Path
    intact: Path
    text: Path
    lock: list[FileLock] = field(default_factory=list)

    @property
    def model(self) -> Path:
        path = self.folder / "mine"
        return path if path.exists() else Path(shutil.copytree(self.intact, path))

    @property
    def sharded(self) -> Path:
        path = self.folder / "mine"
        AutoModelForCausalLM.from_pretrained(self.intact).save_pretrained(path, max_shard_size="60KB")
        return path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def edit_json(self, path: Path, **changes: object) -> None:
        edit_json(path, **changes)

    def edit_weights(self, name: str, value: float) -> None:
        path = self.model / "model.safetensors"
        weights = load_file(path)
        weights[name].view(-1)[-1] = value
        save_file(weights, path, metadata={"format": "pt"})


def refused(llmprune: Callable, folder: Path, words: list, *, code: int = 2) -> str:
    """Run a command that must fail; see that it left no trace, and give what it said."""
    before = snapshot(folder)
    result = llmprune(*words)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert snapshot(folder) == before
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert "Unexpected" not in result.stderr
    complaint = " ".join(result.stderr.replace("│", " ").split())
    assert "Error" in complaint
    assert len(complaint) < 700
    return complaint

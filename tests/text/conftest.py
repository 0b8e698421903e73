"""A Hub of data sets on 127.0.0.1, and load_corpus run against it in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hub.data_sets import DataSetHandler
from tests.hub.server import Hub
from tests.hub.storage import serving
from tests.hub.store import Repository

ROOT = Path(__file__).parents[2]

# HF_ENDPOINT and HF_HUB_OFFLINE are read when huggingface_hub is imported: hence a process.
DRIVER = """
import json, sys
from llmprune.text.corpora import load_corpus
answers = []
for spec, purpose in json.load(sys.stdin):
    try:
        corpus = load_corpus(spec, purpose=purpose)
        answers.append({"name": corpus.name, "rows": corpus.rows, "separator": corpus.separator,
                        "origin": corpus.origin, "note": corpus.note})
    except Exception as error:
        answers.append({"error": type(error).__name__, "message": str(error)})
print(json.dumps(answers))
"""


@dataclass
class TextHub(Hub):
    """A Hub whose repositories are data sets, and the cache (``HF_HOME``) of the processes that ask it."""

    home: Path = Path()

    def add(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Commit files to a branch, made if it is missing; gives the commit."""
        found = self.repositories.setdefault(repo, Repository(repo.split("/")[0]))
        if branch not in found.branches:
            found.branches[branch] = found.record({}, f"Begin {branch}")
        return found.add(files, branch=branch)

    def load(self, *specs: str | tuple[str, str], **environment: str) -> list[dict]:
        """load_corpus of each spec, or (spec, purpose); fails if anything appears on stderr."""
        pairs = [(spec, "calibration") if isinstance(spec, str) else spec for spec in specs]
        done = self.run(DRIVER, "-W", "error", asked=json.dumps(pairs), **environment)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    def run(self, code: str, *options: str, asked: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python code in a process that knows this Hub alone."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
        environment = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(self.home), **environment}
        return subprocess.run(
            [sys.executable, *options, "-c", code],
            input=asked,
            env={**kept, "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serving(TextHub(home=tmp_path / "hf-home"), handler=DataSetHandler) as running:
        yield running

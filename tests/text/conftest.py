"""A Hub of data sets on 127.0.0.1, and load_corpus run against it in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fresh import Fresh, fresh_processes
from tests.hub.data_sets import DataSetHandler
from tests.hub.server import Hub
from tests.hub.storage import serving
from tests.hub.store import Repository

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
    fresh: Fresh | None = None

    def add(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Commit files to a branch, made if it is missing; gives the commit."""
        found = self.repositories.setdefault(repo, Repository(repo.split("/")[0]))
        if branch not in found.branches:
            found.branches[branch] = found.record({}, f"Begin {branch}")
        return found.add(files, branch=branch)

    def load(self, *specs: str | tuple[str, str], **environment: str) -> list[dict]:
        """load_corpus of each spec, or (spec, purpose); fails if anything appears on stderr."""
        pairs = [(spec, "calibration") if isinstance(spec, str) else spec for spec in specs]
        done = self.run(DRIVER, asked=json.dumps(pairs), **environment)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    def run(
        self, code: str, *, asked: str = "", strict: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run Python code in a process that knows this Hub alone; if ``strict``, warnings are errors."""
        assert self.fresh is not None
        environment = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(self.home), **environment}
        kept = {**_without_hub(), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
        return self.fresh.run(code, folder=self.home.with_name("streams"), environment=kept, asked=asked, strict=strict)


def _without_hub() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}


@pytest.fixture(scope="session")
def fresh() -> Iterator[Fresh]:
    with fresh_processes(_without_hub()) as waiting:
        yield waiting


@pytest.fixture
def hub(tmp_path: Path, fresh: Fresh) -> Iterator[Hub]:
    with serving(TextHub(home=tmp_path / "hf-home", fresh=fresh), handler=DataSetHandler) as running:
        yield running

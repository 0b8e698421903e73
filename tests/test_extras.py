"""What an extra brings is said to be missing, and which extra brings it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import save_tiny_llama

ROOT = Path(__file__).parents[1]

# A process in which one package cannot be found.
WITHOUT = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == sys.argv[1] else find(name, *more)
from llmprune.cli.app import app
app(sys.argv[2:])
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("extras")
    save_tiny_llama(folder / "model")
    (folder / "model.gguf").write_bytes(b"GGUF")
    return folder


@pytest.mark.parametrize(
    ("module", "extra", "words"),
    [
        ("matplotlib", "report", ["report", "run"]),
        ("gguf", "gguf", ["calibrate", "model.gguf", "--source", "python-docs", "--samples", "1", "--seq-len", "8"]),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(module, extra, words, run):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, module, *words],
        capture_output=True,
        text=True,
        cwd=run,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HOME": str(run)},
    )
    assert done.returncode == 2, done.stderr
    complaint = " ".join(done.stderr.replace("│", " ").split())
    assert f"need {module}, which is not installed; type: pip install 'llmprune[{extra}]'" in complaint
    assert "Unexpected" not in complaint and "Traceback" not in complaint

"""The side-by-side measurements under benchmarks/ can be run."""

import subprocess
import sys
from pathlib import Path

from tests.tiny import save_tiny_llama

ROOT = Path(__file__).parents[1]


def test_bench_agrees_with_ten_lines_of_plain_transformers(tmp_path):
    model, text = save_tiny_llama(tmp_path / "tiny"), tmp_path / "wiki.test.raw"
    text.write_text(" \n = The sea = \n \n" + " A small boat goes out at dawn . \n" * 60, encoding="utf-8")
    script = [sys.executable, ROOT / "benchmarks" / "independent_perplexity.py", model, text, "--seq-len", "64"]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "llmprune bench" in done.stdout

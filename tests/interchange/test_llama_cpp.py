"""llama.cpp finds the token likeliest that transformers finds: benchmarks/llama_cpp.py on a real, pruned model.

Not part of every run: it fetches llama.cpp's sources (LLAMA_CPP names a copy that is there) and converts. Type:
pytest -m slow tests/interchange/test_llama_cpp.py
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmprune.models.demo import demo_model
from llmprune.models.gguf import convert_gguf

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(demo_model() is None, reason="the demo model is not installed (extra 'demo')"),
    pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed"),
]


def test_the_same_token_is_likeliest_after_twenty_prompts(prune, tmp_path):
    convert_gguf(demo_model(), tmp_path / "dense")
    pruned = prune("remove-blocks", tmp_path / "dense", "--blocks", "13,14,15,16,17,26")
    words = [sys.executable, ROOT / "benchmarks" / "llama_cpp.py", pruned]
    words += ["--llama-cpp", os.environ["LLAMA_CPP"]] if "LLAMA_CPP" in os.environ else []
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 of 20 top tokens the same" in done.stdout

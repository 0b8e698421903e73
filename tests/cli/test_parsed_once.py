"""A command parses the model's config and headers once; transformers reads the config by itself, once beside it."""

import builtins
from collections import Counter
from pathlib import Path

import pytest

from llmprune.artifacts.checkpoints import header
from llmprune.artifacts.files import remembered
from llmprune.artifacts.files.reading import open_regular, read_small
from llmprune.models import config
from tests.tiny import save_tiny_llama, write_text

COMMANDS = {
    "calibrate": ["--source", "{text}", "--samples", "4", "--seq-len", "32"],
    "verify-redundancy": ["--target", "1"],
    "remove-blocks": ["--target", "1"],
    "global-prune": ["--sparsity", "50%", "--rounds", "1"],
    "apply-mask": ["{run}/model-sparsellm-50pct"],
    "bench": ["--ppl", "{text}", "--ppl-seq-len", "32", "--no-speed"],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model, a text, and a run directory in which each command finds what those before it have made."""
    place = tmp_path_factory.mktemp("once")
    return {
        "model": save_tiny_llama(place / "model"),
        "text": write_text(place / "sea.txt"),
        "run": place / "run",
    }


@pytest.fixture
def opened(world, monkeypatch):
    """What is opened of the model's config and headers, and by whom."""
    counted: Counter[str] = Counter()

    def counting(what, opener):
        def opened(file, *args, **kwargs):
            if isinstance(file, str | Path) and Path(file).parent == world["model"]:
                counted[what.format(Path(file).name)] += 1
            return opener(file, *args, **kwargs)

        return opened

    monkeypatch.setattr(header, "open_regular", counting("header", open_regular))
    monkeypatch.setattr(config, "read_small", counting("{} by llmprune", read_small))
    monkeypatch.setattr(builtins, "open", counting("{} by transformers", open))
    monkeypatch.setattr(remembered, "_SETTLED", -1)
    for module, name in ((header, "_HEADERS"), (config, "_FIELDS"), (config, "_CONFIGS")):
        monkeypatch.setattr(module, name, remembered.Remembered(most=100))  # nothing of an earlier command
    return counted


@pytest.mark.parametrize("command", COMMANDS)
def test_config_and_headers_are_read_once(command, world, opened, llmprune):
    words = [word.format(**world) for word in COMMANDS[command]]
    result = llmprune(command, str(world["model"]), *words, "--run", str(world["run"]))
    assert result.exit_code == 0, result.stderr
    whole = command == "bench"  # it loads the model as any user does
    expected = {"config.json by llmprune": 1, "config.json by transformers": 1 + whole, "header": 1}
    assert {name: opened[name] for name in expected} == expected

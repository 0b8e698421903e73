"""What bounds memory and what is checked first, by the same arguments as at the command line."""

import importlib
import inspect
from functools import partial

import pytest

import llmprune
from llmprune.errors import TargetError
from llmprune.models.memory import MemoryBudget
from tests.api.conftest import whole
from tests.tiny_models import random_tokens

COMMANDS = {
    "prune": "prune",
    "rank_blocks": "verify_redundancy",
    "remove_blocks": "remove_blocks",
    "remove_experts": "remove_experts",
    "heal": "heal",
    "prune_weights": "global_prune",
    "apply_mask": "apply_mask",
    "bench": "bench",
    "push": "push",
}
ARGUMENTS = {  # that are needed beside a model, so that the memory is what is wrong
    "prune": {"size": "70%", "run": "run"},
    "remove_blocks": {"blocks": [1]},
    "remove_experts": {"experts": {0: [0]}},
    "heal": {"teacher": "dense", "out": "out"},
    "apply_mask": {"mask": "mask.safetensors"},
    "push": {"repo": "owner/name"},
}


@pytest.mark.parametrize(("function", "command"), COMMANDS.items())
def test_what_a_command_takes_its_function_takes(function, command):
    typed = inspect.signature(getattr(importlib.import_module(f"llmprune.cli.commands.{command}"), command))
    given = inspect.signature(getattr(llmprune, function))
    for name in {"memory_budget", "check"} & typed.parameters.keys():
        assert given.parameters[name].default == typed.parameters[name].default
    assert {"memory_budget", "check"} <= given.parameters.keys()


class OpenedError(Exception):
    """What a workspace was opened with."""


@pytest.mark.parametrize("function", [name for name in COMMANDS if name not in ("bench", "push")])
def test_budget_and_check_reach_the_workspace(function, checkpoint, tmp_path, monkeypatch):
    def opened(*args, compute, intact, **kwargs):
        raise OpenedError(compute.budget, intact.check)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("llmprune.api.models.open_workspace", opened)
    given = {"windows": random_tokens(2, 8), **ARGUMENTS.get(function, {})}
    taken = inspect.signature(getattr(llmprune, function)).parameters.keys()
    with pytest.raises(OpenedError) as found:
        call = partial(getattr(llmprune, function), str(checkpoint("llama")), memory_budget="2GB", check=False)
        call(**{name: value for name, value in given.items() if name in taken})
    assert found.value.args == (MemoryBudget(2_000_000_000), False)


@pytest.mark.parametrize("function", COMMANDS)
def test_what_is_no_size_is_refused(function, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TargetError, match="12XB"):
        getattr(llmprune, function)(str(checkpoint("llama")), **ARGUMENTS.get(function, {}), memory_budget="12XB")


def test_a_budget_of_a_model_in_memory_is_refused(checkpoint, tokens):
    with pytest.raises(TargetError, match=r"memory_budget=1GB.*in memory"):
        llmprune.rank_blocks(whole(checkpoint("llama")), tokens, memory_budget="1GB")

"""``import llmprune`` is light, and what it offers is all there."""

import inspect
import subprocess
import sys

import pytest

import llmprune
from llmprune.api.apply_mask import MaskOptions
from llmprune.api.prune_weights import PruningOptions
from llmprune.api.remove_blocks import RemovalOptions

HEAVY = ("torch", "transformers", "pydantic", "numpy", "huggingface_hub", "datasets")


def modules_after(code: str) -> set[str]:
    """Top-level modules that a new Python has loaded after some code."""
    report = f"{code}; import sys; print(*(name for name in sys.modules if '.' not in name))"
    return set(
        subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.mark.parametrize("code", ["import llmprune", "import llmprune; dir(llmprune); llmprune.errors.TargetError"])
def test_importing_loads_nothing_heavy(code):
    assert modules_after(code).isdisjoint(HEAVY)


def test_what_is_asked_for_is_loaded():
    assert "torch" in modules_after("import llmprune; llmprune.rank_blocks")


@pytest.mark.parametrize("name", llmprune.__all__)
def test_everything_that_is_offered_is_there_and_listed(name):
    assert getattr(llmprune, name) is not None
    assert name in dir(llmprune)


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="has no attribute 'pruned'"):
        _ = llmprune.pruned


@pytest.mark.parametrize("name", [name for name in llmprune.__all__ if inspect.isfunction(getattr(llmprune, name))])
def test_every_argument_is_documented_in_order(name):
    function = getattr(llmprune, name)
    documented = inspect.getdoc(function).split("Args:\n")[1].split("\n\n")[0]
    arguments = [
        line.strip().split(":")[0] for line in documented.splitlines() if line.startswith("    ") and line[4] != " "
    ]
    assert arguments == list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (llmprune.remove_blocks, RemovalOptions),
        (llmprune.prune_weights, PruningOptions),
        (llmprune.apply_mask, MaskOptions),
    ],
)
def test_type_checkers_are_told_of_every_keyword(function, options):
    parameters = inspect.signature(function).parameters.values()
    keywords = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    assert [name for name in keywords if name != "out"] == list(options.__annotations__)

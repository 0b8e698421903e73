"""What the calibration keeps of the dense model's hidden states is taken from there, to the last bit the same."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from llmprune.algorithms.weights.patterns import Unstructured
from llmprune.artifacts.activations import open_calibration
from llmprune.artifacts.records.environment import Environment
from llmprune.choices import Method, Reference
from llmprune.models.capture import BlockRunner
from llmprune.models.compute import choose_compute
from llmprune.stages.calibration import calibrate
from llmprune.stages.common.workspace import open_workspace
from llmprune.stages.passes import Stream
from llmprune.stages.weight_pruning import PruningSettings, Selection, global_prune, plan_pruning
from tests.tiny import NUM_BLOCKS, SAMPLES, Listener

HALF = Unstructured(0.5)
pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.fixture
def cached(workspace, settings):
    """A run whose calibration keeps all hidden states."""
    calibrate(workspace, replace(settings, cache="all"), force=True)
    return workspace


@pytest.fixture
def read(monkeypatch):
    """The streams and blocks whose states came from the cache."""
    found, from_cache = [], Stream.from_cache
    monkeypatch.setattr(
        Stream, "from_cache", lambda self, block: found.append((self.name, block)) or from_cache(self, block)
    )
    return found


def pruned(space, name, layers, **settings):
    chosen = PruningSettings(
        HALF, selection=Selection(layers), rounds=2, verify=False, out=space.run.path / name, **settings
    )
    return load_file(global_prune(space, chosen).directory / "model.safetensors")


@pytest.mark.parametrize(
    ("layers", "reference", "expected"),
    [
        ("2,4", Reference.DENSE, [("pruned", 2), ("dense", 4)]),
        ("2,4", Reference.PRUNED, [("pruned", 2)]),
        ("0-1", Reference.DENSE, []),
    ],
)
@pytest.mark.parametrize("method", [Method.SPARSELLM, Method.WANDA])
def test_no_dense_block_is_run_whose_states_are_cached(workspace, settings, read, layers, reference, expected, method):
    plain = pruned(workspace, "plain", layers, reference=reference, method=method)
    assert not read
    calibrate(workspace, replace(settings, cache="all"), force=True)
    again = pruned(workspace, "again", layers, reference=reference, method=method)
    assert read == expected
    assert all(torch.equal(tensor, again[name]) for name, tensor in plain.items())


def test_blocks_before_the_first_that_is_pruned_are_not_opened(cached, monkeypatch):
    run, forward = [], BlockRunner.forward_block
    monkeypatch.setattr(
        BlockRunner,
        "forward_block",
        lambda self, block, *args: run.append(block) or forward(self, block, *args),
    )
    pruned(cached, "some", "3", reference=Reference.DENSE)
    assert 3 in run
    assert not {1, 2} & set(run)  # block 0 is tried when the model is opened


@pytest.mark.parametrize("difference", ["dtype", "samples", "threads"])
def test_states_that_are_not_the_same_to_the_last_bit_are_not_used(cached, read, difference, monkeypatch):
    heard = Listener()
    space = replace(cached, progress=heard)
    more = {}
    if difference == "dtype":
        space = replace(space, compute=choose_compute("cpu", "bfloat16"))
    elif difference == "samples":
        more["samples"] = SAMPLES - 1
    else:
        now = Environment.now()
        monkeypatch.setattr(Environment, "now", lambda **_: now.model_copy(update={"threads": 99}))
    pruned(space, "other", "2", **more)
    assert not read
    assert any("are not used" in said for said in heard.said) == (difference == "threads")


def test_the_plan_leaves_out_what_is_cached(cached, settings, model, tmp_path):
    chosen = PruningSettings(HALF, selection=Selection("3"), samples=SAMPLES)
    assert open_calibration(cached.run.calibration).keeps(NUM_BLOCKS)
    other = open_workspace(tmp_path / "other", str(model), compute=choose_compute("cpu"))
    calibrate(other, settings)

    def written(space):
        (step,) = (one for one in plan_pruning(space, chosen).steps if one.step == "pruning")
        return step.written

    assert written(cached) < written(other)

"""The zeros of a measured checkpoint, held against the pattern that its record claims."""

from safetensors.torch import load_file, save_file

from llmprune.algorithms.weights.patterns import SemiStructured, Unstructured
from llmprune.artifacts.checkpoints.checkpoint import SINGLE_NAME, open_checkpoint
from llmprune.artifacts.records.pruning import RECORD_NAME
from llmprune.choices import Method
from llmprune.models.compute import choose_compute
from llmprune.stages.benchmark import count_zeros
from llmprune.stages.calibration import CalibrationSettings, calibrate
from llmprune.stages.common.workspace import open_workspace
from llmprune.stages.weight_pruning import PruningSettings, global_prune
from tests.tiny import save_tiny_tokenizer
from tests.tiny_models import save_tiny

PATTERN = SemiStructured(2, 4)


def pruned_by_magnitude(workspace, pattern):
    return global_prune(workspace, PruningSettings(pattern=pattern, method=Method.MAGNITUDE, verify=False)).directory


def fill_one_zero(directory):
    path = directory / SINGLE_NAME
    weights = load_file(path)
    weight = next(weight for name, weight in weights.items() if "down_proj" in name)
    weight.view(-1)[int((weight.view(-1) == 0).nonzero()[0])] = 1.0
    save_file(weights, path, metadata={"format": "pt"})


def test_a_claimed_pattern_is_looked_for_in_the_matrices_that_it_is_claimed_of(workspace):
    directory = pruned_by_magnitude(workspace, PATTERN)
    report = count_zeros(open_checkpoint(directory))
    assert (report.pattern, report.violations) == ("2:4", 0)
    assert [tensor.name for tensor in report.tensors] == list(open_checkpoint(directory).tensors)
    assert all(("_proj" in tensor.name) == (tensor.groups > 0) for tensor in report.tensors)
    fill_one_zero(directory)
    assert count_zeros(open_checkpoint(directory)).violations == 1


def test_matrices_that_are_stored_inputs_first_keep_their_pattern_too(tmp_path, text):
    model = save_tiny("gpt2", tmp_path / "gpt2")
    save_tiny_tokenizer(model)
    workspace = open_workspace(tmp_path / "run", str(model), compute=choose_compute("cpu"))
    calibrate(workspace, CalibrationSettings(source=str(text), samples=4, seq_len=16))
    report = count_zeros(open_checkpoint(pruned_by_magnitude(workspace, PATTERN)))
    assert (report.pattern, report.violations) == ("2:4", 0)
    assert report.groups > 0


def test_without_a_pattern_zeros_are_counted_all_the_same(workspace):
    directory = pruned_by_magnitude(workspace, Unstructured(0.5))
    report = count_zeros(open_checkpoint(directory))
    assert (report.pattern, report.groups) == (None, 0)
    assert report.ratio > 0.2
    (directory / RECORD_NAME).write_text("{")
    assert count_zeros(open_checkpoint(directory)) == report


def test_a_dense_model_has_no_zeros(model):
    assert count_zeros(open_checkpoint(model)).zeros == 0

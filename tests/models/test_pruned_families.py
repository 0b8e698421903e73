"""What weight pruning must do for every family: one contract, over a tiny model of each."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from llmprune.algorithms.weights.patterns import SemiStructured, Unstructured, zero_count
from llmprune.artifacts.activations import open_calibration
from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.choices import Method, Reference
from llmprune.evaluation.sparsity import measure_sparsity
from llmprune.models.loading import load_whole
from llmprune.stages.calibration import calibrate_on
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.weight_pruning import PruningReport, PruningSettings, Selection, global_prune
from llmprune.text.windows import TokenWindows
from tests.tiny_models import DEPTH, FAMILIES, random_tokens

CPU = torch.device("cpu")
PATTERNS = {"60%": Unstructured(0.6), "2:4": SemiStructured(2, 4)}
LAYERS = {"60%": "all", "2:4": "0-1"}  # what a wiring has to do with a pattern shows in two blocks
DENSE = ("llama4",)  # whose experts take all tokens at once, and stay dense
EXPERTS = ("mixtral", "qwen3-moe")
WHOLE = tuple(family for family in FAMILIES if family not in (*DENSE, *EXPERTS))
WINDOWS = TokenWindows(
    random_tokens(12, 32),
    bos=False,
    sampling="windows",
    seed=0,
    text_tokens=384,
    corpus_name="random",
    corpus_origin="this test",
    corpus_fingerprint="0",
)
Pruned = Callable[..., PruningReport]


@pytest.fixture(scope="session")
def calibrated(checkpoint: Callable[[str], Path], workspace: Callable[[Path], Workspace]):
    """A family's run directory with its calibration, 12 windows of 32 tokens."""

    @cache
    def calibrated(family: str) -> Workspace:
        space = workspace(checkpoint(family))
        calibrate_on(space, WINDOWS)
        return space

    return calibrated


@pytest.fixture(scope="session")
def pruned(calibrated: Callable[[str], Workspace]) -> Pruned:
    """A family's checkpoint, pruned and written; the stage verifies it where all blocks are pruned in earnest."""

    @cache
    def pruned(family: str, pattern: str, method: Method = Method.SPARSELLM, *, plain: bool = False) -> PruningReport:
        reference, steps = (Reference.PRUNED, 0) if plain else (Reference.DENSE, 10)
        settings = PruningSettings(
            PATTERNS[pattern],
            method,
            Selection(LAYERS[pattern]),
            reference=reference,
            rounds=2,
            refit_steps=steps,
            out=out(family, pattern, method),
            verify=not plain and pattern == "60%",
        )
        return global_prune(calibrated(family), settings)

    def out(family: str, pattern: str, method: Method) -> Path:
        return calibrated(family).run.path / f"{method.value}-{pattern.replace(':', 'of').replace('%', '')}"

    return pruned


def whole(directory: Path) -> PreTrainedModel:
    return load_whole(directory, device=CPU, dtype=torch.float32)


def matrices(report: PruningReport):
    return [matrix for block in report.record.sparsity.blocks for matrix in block.matrices]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_matrix_has_the_zeros_that_were_asked_for(family, pattern, pruned):
    report = pruned(family, pattern)
    found = matrices(report)
    turned = {matrix.tensor for matrix in found} if family == "gpt2" else ()
    counted = measure_sparsity(
        open_checkpoint(report.directory),
        [name for matrix in found for name in matrix.tensors],
        PATTERNS[pattern],
        inputs_first=turned,
    )
    zeros = {tensor.name: tensor.zeros for tensor in counted.tensors}
    assert counted.violations == 0
    for matrix in found:
        count = matrix.rows * matrix.columns
        for name in matrix.tensors:
            assert abs(zeros[name] - zero_count(PATTERNS[pattern].ratio, count)) <= 1
    assert sum(zeros.values()) == report.record.sparsity.zeros


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_but_the_pruned_matrices_changes(family, pruned, checkpoint):
    report = pruned(family, "60%")
    changed = {name for matrix in matrices(report) for name in matrix.tensors}
    before, after = open_checkpoint(checkpoint(family)), open_checkpoint(report.directory)
    assert before.tensors.keys() == after.tensors.keys()
    old, new = before.load(before.tensors), after.load(after.tensors)
    assert changed == {name for name in old if not torch.equal(old[name], new[name])}


@pytest.mark.parametrize("family", WHOLE)
def test_all_blocks_are_pruned_whole_with_their_ffn_as_one_problem(family, pruned, checkpoint):
    report = pruned(family, "60%")
    blocks = report.record.sparsity.blocks
    assert len(blocks) == DEPTH
    assert report.record.sparsity.remarks == ()
    assert all(block.ffn is not None for block in blocks)
    assert all(block.ffn.errors[block.ffn.kept] == min(block.ffn.errors) for block in blocks)


@pytest.mark.parametrize("family", EXPERTS)
def test_every_expert_is_pruned_as_one_problem_on_its_own_tokens(family, pruned):
    report = pruned(family, "60%")
    assert all("is a router, and stays dense" in remark for remark in report.record.sparsity.remarks)
    sparse = [experts for block in report.record.sparsity.blocks for experts in block.experts]
    assert len(sparse) == {"mixtral": DEPTH, "qwen3-moe": 2}[family]
    for experts in sparse:
        assert sum(experts.tokens) == 12 * 32 * 2  # two experts a token
        assert experts.shared == ()
        assert [ffn.errors[ffn.kept] == min(ffn.errors) for ffn in experts.ffns] == [True] * 4


@pytest.mark.parametrize("family", DENSE)
def test_experts_that_take_all_tokens_at_once_stay_dense_and_it_is_said(family, pruned):
    remarks = pruned(family, "60%").record.sparsity.remarks
    assert any("experts" in remark and "stays dense" in remark for remark in remarks)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_result_loads_and_generates(family, pruned):
    report = pruned(family, "60%")
    assert report.record.verification.generated_tokens > 0  # with the cache as without
    model = whole(report.directory)
    assert torch.isfinite(model(input_ids=random_tokens(1, 8)).logits).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_it_stays_closer_to_the_dense_model_than_magnitude_pruning(family, pattern, pruned, calibrated):
    space = calibrated(family)
    tokens = open_calibration(space.run.calibration).tokens()
    with torch.inference_mode():
        dense, ours, magnitude = (
            whole(directory)(input_ids=tokens).logits.log_softmax(-1)
            for directory in (
                space.directory,
                pruned(family, pattern).directory,
                pruned(family, pattern, Method.MAGNITUDE, plain=True).directory,
            )
        )
    assert (ours - dense).square().sum() <= (magnitude - dense).square().sum()

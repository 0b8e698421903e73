"""Which tensors of a checkpoint llmprune gave zeros, through steps that take blocks and experts away."""

import pytest
from pydantic import ValidationError

from llmprune.artifacts.records.provenance import ModelIdentity
from llmprune.artifacts.records.pruning import (
    RECORD_NAME,
    BlockRemoval,
    ExpertRemoval,
    MaskApplication,
    PruningRecord,
    zeroed_tensors,
)
from llmprune.artifacts.records.weight_sparsity import BlockRecord, ExpertsRecord, FfnRecord, MatrixRecord
from tests.report.made import zeroed

NAMES = (
    "lm_head.weight",
    "model.layers.0.mlp.experts.0.up.weight",
    "model.layers.0.mlp.experts.2.up.weight",
    "model.layers.1.mlp.up.weight",
    "model.layers.3.mlp.experts.1.up.weight",
)


def step(before=None, **fields):
    source = ModelIdentity(name="m", fingerprint="f", model_type="llama", num_blocks=4, num_parameters=1)
    known = {"num_blocks": 4, "num_parameters": 1, "weight_bytes": 1, "command": "llmprune x"}
    return PruningRecord(source=source, source_record=before, **{**known, **fields})


def masked(names=NAMES, pattern="2:4"):
    counts = {"numel": 8, "zeros_before": 0, "zeros": 4}
    return MaskApplication(mask="m", sha256="s", fingerprint="f", pattern=pattern, tensors=names, **counts)


def test_names_follow_the_blocks_that_are_left():
    zeros = step(masked=masked())
    assert (zeros.pruned_tensors, zeros.pattern) == (NAMES, "2:4")
    smaller = step(before=zeros, removal=BlockRemoval(removed=(1, 2)), num_blocks=2)
    assert smaller.zeroed_tensors == (*NAMES[:3], "model.layers.1.mlp.experts.1.up.weight")
    assert (smaller.pruned_tensors, smaller.pattern, smaller.zeros_pattern) == ((), None, "2:4")


def test_names_follow_the_experts_that_are_left():
    removal = ExpertRemoval(removed={0: (0, 1), 1: (2,)}, before=3, left=1)
    fewer = step(before=step(masked=masked()), experts=removal)
    assert fewer.zeroed_tensors == (
        "lm_head.weight",
        "model.layers.0.mlp.experts.0.up.weight",  # it was the third
        "model.layers.1.mlp.up.weight",
        "model.layers.3.mlp.experts.1.up.weight",
    )


def test_a_pattern_holds_for_all_zeros_or_is_none():
    zeros = step(masked=masked())
    assert step().zeros_pattern is None and zeros.zeros_pattern == "2:4"
    again = step(before=zeros, masked=masked(NAMES[:1], "50%"))
    assert again.pattern == "50%" and again.zeros_pattern is None
    assert again.zeroed_tensors == NAMES
    assert step(before=step(), masked=masked(pattern="50%")).zeros_pattern == "50%"


def test_what_was_pruned_matrix_by_matrix_and_how_it_is_made_again():
    sparsity = zeroed().record.sparsity
    record = step(sparsity=sparsity)
    expected = [matrix.tensor for block in sparsity.blocks for matrix in block.matrices]
    assert expected and list(record.zeroed_tensors) == expected
    assert record.zeros_pattern == record.pattern == sparsity.settings.pattern
    assert record.made_by == "llmprune x"
    assert step(command=None).made_by == "# in Python, on windows of tokens that no command has"


def test_of_a_folder_without_a_record_none(tmp_path):
    assert zeroed_tensors(tmp_path) == frozenset()
    step(masked=masked()).write(tmp_path / RECORD_NAME)
    assert zeroed_tensors(tmp_path) == frozenset(NAMES)


@pytest.mark.parametrize("removed", [(1, 1), (4,), (0, 1, 2, 3)])
def test_what_is_not_there_cannot_have_been_removed(removed):
    with pytest.raises(ValidationError, match="does not have, or twice, or everything"):
        step(removal=BlockRemoval(removed=removed))
    with pytest.raises(ValidationError, match="does not have, or twice, or everything"):
        step(experts=ExpertRemoval(removed={0: removed}, before=4, left=1))


def test_what_is_said_of_a_pruned_block():
    sizes = {"rows": 2, "columns": 5, "damping": 0.01}
    small = MatrixRecord(tensor="a", kind="q", zeros=3, error=0.25, **sizes)
    large = MatrixRecord(tensor="b", kind="o", zeros=9, error=0.5, experts=2, others=("c",), **sizes)
    assert large.tensors == ("b", "c") and large.numel == 20
    block = BlockRecord(block=4, matrices=(small, large), ffn=None, output_error=None, seconds=1.4)
    assert (block.zeros, block.numel) == (12, 30)
    assert str(block) == "block   4: largest error 0.5000 (o), 40.0% zeros (1 s)"
    ffn = FfnRecord(errors=(0.5, 0.25, 0.375), kept=1)
    experts = ExpertsRecord(path="mlp", tokens=(3, 1, 0), shared=(2,))
    told = block.model_copy(update={"ffn": ffn, "experts": (experts,), "output_error": 0.125})
    assert str(told) == (
        "block   4: FFN error 0.5000 -> 0.2500 (round 1 of 2), 3 experts (1 on tokens of all), output error 0.1250, "
        "40.0% zeros (1 s)"
    )
    own = block.model_copy(update={"experts": (experts.model_copy(update={"shared": ()}),)})
    assert "(o), 3 experts, 40.0% zeros" in str(own)
    assert str(block.model_copy(update={"matrices": ()})) == "block   4: no matrix to prune (1 s)"

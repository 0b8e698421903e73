"""Which blocks of an earlier model a checkpoint has left, through several steps of pruning."""

from llmprune.artifacts.records.provenance import ModelIdentity
from llmprune.artifacts.records.pruning import BlockRemoval, PruningRecord, blocks_left


def step(fingerprint, num_blocks, removed=None, before=None):
    source = ModelIdentity(
        name="m", fingerprint=fingerprint, model_type="llama", num_blocks=num_blocks, num_parameters=1
    )
    return PruningRecord(
        source=source,
        source_record=before,
        removal=BlockRemoval(removed=removed) if removed is not None else None,
        num_blocks=num_blocks - len(removed or ()),
        num_parameters=1,
        weight_bytes=1,
        command="",
    )


def test_blocks_are_followed_to_the_model_that_is_asked_for():
    first = step("dense", 6, (3, 1))  # leaves 0, 2, 4, 5
    zeros = step("smaller", 4, None, first)
    last = step("sparse", 4, (1,), zeros)
    assert blocks_left(first, "dense") == (0, 2, 4, 5)
    assert blocks_left(zeros, "dense") == (0, 2, 4, 5)
    assert blocks_left(last, "dense") == (0, 4, 5)
    assert blocks_left(last, "sparse") == (0, 2, 3)
    assert blocks_left(last, "another") is None

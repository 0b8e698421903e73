"""A written checkpoint is held against what the source does, and blamed for nothing else."""

import json

import pytest
from transformers import LlamaForCausalLM

from llmprune.errors import VerificationError
from llmprune.models.compute import choose_compute
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from llmprune.stages.common.workspace import open_workspace
from llmprune.stages.output import verification
from llmprune.stages.output.verification import verify_checkpoint
from tests.tiny import save_tiny_llama
from tests.zoo import save_zoo_model

REMOVED = (2,)


@pytest.fixture
def space(tmp_path, listener):
    """A workspace of a model directory of the test's own."""
    return lambda directory: open_workspace(
        tmp_path / "run", str(directory), compute=choose_compute("cpu"), progress=listener
    )


@pytest.fixture
def source(tmp_path):
    return save_tiny_llama(tmp_path / "source")


def written(space):
    return remove_blocks(space, RemovalSettings(blocks=REMOVED, verify=False)).directory


@pytest.mark.parametrize(
    "asked",
    [
        {"penalty_alpha": 0.6, "top_k": 4},
        {"num_beams": 4, "early_stopping": True},
        {"do_sample": True, "temperature": 2.0},
        {"stop_strings": ["the"], "repetition_penalty": 3.0},
        {"cache_implementation": "static"},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_generation_is_plain_and_greedy_whatever_the_generation_config_asks_for(asked, source, space):
    (source / "generation_config.json").write_text(json.dumps(asked))
    report = remove_blocks(space(source), RemovalSettings(blocks=REMOVED))
    assert report.record.verification.generated_tokens == 16
    assert report.record.verification.remark is None
    assert json.loads((report.directory / "generation_config.json").read_text()) == asked


class _CacheDiffers(LlamaForCausalLM):
    """A Llama whose logits with a cache are not those without."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        if output.past_key_values is not None and output.logits.shape[1] == 1:
            output.logits = output.logits.flip(-1)
        return output


def test_what_the_source_too_does_with_its_cache_is_a_remark_and_no_fault(source, space, listener, monkeypatch):
    workspace = space(source)
    monkeypatch.setattr(verification, "load_whole", lambda directory, **_: _CacheDiffers.from_pretrained(directory))
    record = remove_blocks(workspace, RemovalSettings(blocks=REMOVED)).record
    assert record.verification.generated_tokens < 16
    assert record.verification.remark.startswith(
        "The source itself generates other text with the KV cache than without"
    )
    assert listener.heard("Loading the source model whole")
    assert listener.heard(record.verification.remark)


def test_what_the_written_checkpoint_alone_does_with_its_cache_is_its_fault(source, space, monkeypatch):
    workspace = space(source)
    pruned = written(workspace)

    def load(directory, **_):
        kind = _CacheDiffers if directory == pruned else LlamaForCausalLM
        return kind.from_pretrained(directory)

    monkeypatch.setattr(verification, "load_whole", load)
    with pytest.raises(VerificationError, match=r"generates other text with the KV cache than without .*the source"):
        verify_checkpoint(workspace, pruned, removed=REMOVED)


def test_a_model_that_can_make_no_cache_is_checked_without_one(tmp_path, space):
    """A hybrid of linear attention alone: transformers itself cannot generate from it with a cache."""
    source = save_zoo_model(tmp_path / "source", "granitemoehybrid", layer_types=["mamba"] * 6)
    record = remove_blocks(space(source), RemovalSettings(blocks=REMOVED)).record
    assert record.verification.generated_tokens == 0
    assert record.verification.remark.count("cannot generate with the KV cache (transformers: `get_seq_length`") == 2


def test_what_cannot_be_loaded_again_says_why(source, space):
    workspace = space(source)
    pruned = written(workspace)
    config = json.loads((pruned / "config.json").read_text())
    (pruned / "config.json").write_text(json.dumps({**config, "hidden_act": "no-such-function"}))
    with pytest.raises(VerificationError, match=r"cannot be loaded again, so it was not kept: .*no-such-function"):
        verify_checkpoint(workspace, pruned, removed=REMOVED)


def test_other_logits_are_refused(source, space):
    workspace = space(source)
    pruned = written(workspace)
    with pytest.raises(VerificationError, match=r"logits differ from the source's by"):
        verify_checkpoint(workspace, pruned, removed=(3,))

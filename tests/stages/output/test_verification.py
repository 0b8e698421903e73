"""A written checkpoint is held against what the source does, and blamed for nothing else."""

import json

import pytest
from transformers import LlamaForCausalLM

from llmprune.errors import VerificationError
from llmprune.models.compute import Compute, choose_compute
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
    assert record.verification.remark.count("cannot generate with the KV cache (transformers: 'get_seq_length'") == 2


def test_what_cannot_be_loaded_again_says_why(source, space):
    workspace = space(source)
    pruned = written(workspace)
    config = json.loads((pruned / "config.json").read_text())
    (pruned / "config.json").write_text(json.dumps({**config, "hidden_act": "no-such-function"}))
    with pytest.raises(VerificationError, match=r"cannot be loaded again: .*no-such-function"):
        verify_checkpoint(workspace, pruned, removed=REMOVED)


def test_other_logits_are_refused(source, space):
    workspace = space(source)
    pruned = written(workspace)
    with pytest.raises(VerificationError, match=r"logits differ from the source's by .*, block 2 first of all"):
        verify_checkpoint(workspace, pruned, removed=(3,))


def test_a_model_larger_than_memory_is_compared_block_by_block_alone(source, space, listener, monkeypatch):
    monkeypatch.setattr(Compute, "free_bytes", lambda _: 1000)
    monkeypatch.setattr(verification, "load_whole", None)  # nothing is loaded whole
    workspace = space(source)
    record = remove_blocks(workspace, RemovalSettings(blocks=REMOVED)).record
    assert record.verification.largest_difference < 1e-4
    assert record.verification.generated_tokens is None
    assert record.verification.remark.startswith("It was compared block by block alone, and did not generate: to load")
    assert listener.heard(record.verification.remark)
    with pytest.raises(VerificationError, match="block 2 first of all"):
        verify_checkpoint(workspace, written(workspace), removed=(3,))


def test_one_block_of_each_is_in_memory_at_a_time(source, space, monkeypatch):
    """No block's weights are there before it is lent, nor after, in the written model nor in the source."""
    seen = []
    compare = verification._compare_blocks

    def watch(source, written, tokens, removed, experts):
        for decoder in (source, written):
            forward = decoder.runner.forward_block

            def forward_block(block, hidden, call, decoder=decoder, forward=forward):
                there = [any(not p.is_meta for p in one.parameters()) for one in decoder.blocks]
                seen.append((sum(there), there[block]))
                return forward(block, hidden, call)

            monkeypatch.setattr(decoder.runner, "forward_block", forward_block)
        return compare(source, written, tokens, removed, experts)

    monkeypatch.setattr(verification, "_compare_blocks", watch)
    remove_blocks(space(source), RemovalSettings(blocks=REMOVED))
    assert len(seen) > 8
    assert set(seen) == {(1, True)}


def test_where_the_source_does_not_fit_in_memory_a_fault_is_not_excused(source, space, monkeypatch):
    workspace = space(source)
    pruned = written(workspace)
    free = iter([10**9, 1000])
    monkeypatch.setattr(Compute, "free_bytes", lambda _: next(free))
    monkeypatch.setattr(verification, "load_whole", lambda directory, **_: _CacheDiffers.from_pretrained(directory))
    with pytest.raises(VerificationError, match=r"generates other .* Whether the source does so too cannot be seen"):
        verify_checkpoint(workspace, pruned, removed=REMOVED)


def test_what_fails_is_set_aside_and_named(source, space, monkeypatch, tmp_path):
    workspace, out = space(source), tmp_path / "out"

    def fail(*_, **__):
        raise VerificationError("The logits differ.")

    monkeypatch.setattr("llmprune.stages.output.finish.verify_checkpoint", fail)
    for aside in (tmp_path / "out.failed", tmp_path / "out.failed-1"):
        with pytest.raises(VerificationError, match=rf"^The logits differ. What was written is in {aside}\.$"):
            remove_blocks(workspace, RemovalSettings(blocks=REMOVED, out=out))
        assert (aside / "model.safetensors").exists()
        assert not out.exists()

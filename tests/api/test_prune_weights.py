"""Zeros from Python: the model in memory and the checkpoint on disk are one result."""

import pytest
import torch

import llmprune
from llmprune.algorithms import parse_pattern, parse_sparsity
from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.choices import Method
from llmprune.errors import TargetError
from llmprune.models.loading import load_whole
from llmprune.stages.calibration import calibrate_on
from llmprune.stages.weight_pruning import PruningSettings, global_prune
from tests.api.conftest import same_tensors, whole
from tests.tiny_models import random_tokens, tiny_model

FAMILIES = ("llama", "opt", "gpt2", "mixtral", "gemma2")


@pytest.fixture(scope="module")
def windows(tokens):
    return llmprune.calibration_windows("", tokens)


@pytest.fixture(scope="module")
def written(checkpoint, workspace, windows):
    """What the command writes, on the same windows."""

    def written(family, out, **settings):
        space = workspace(checkpoint(family))
        calibrate_on(space, windows)
        return global_prune(space, PruningSettings(out=out, **settings)).directory

    return written


@pytest.mark.parametrize("family", FAMILIES)
def test_in_memory_it_is_what_the_command_writes(family, loaded, windows, written, tmp_path):
    theirs = whole(written(family, tmp_path / "theirs", pattern=parse_sparsity("60%")))
    ours = llmprune.prune_weights(loaded(family), windows, sparsity=0.6)
    assert same_tensors(ours, theirs)
    with torch.no_grad():
        assert torch.equal(ours(random_tokens(1, 8)).logits, theirs(random_tokens(1, 8)).logits)


@pytest.mark.parametrize("method", ["sparsegpt", "wanda", "magnitude"])
def test_by_every_method(method, loaded, windows, written, tmp_path):
    theirs = whole(written("llama", tmp_path / "theirs", pattern=parse_pattern("2:4"), method=Method(method)))
    ours = llmprune.prune_weights(loaded("llama"), windows, pattern="2:4", method=method)
    assert same_tensors(ours, theirs)


def test_in_bfloat16_too(windows, tmp_path):
    directory = tmp_path / "bfloat16"
    tiny_model("llama").to(torch.bfloat16).save_pretrained(directory)
    model = load_whole(directory, device=torch.device("cpu"), dtype=torch.bfloat16)
    ours = llmprune.prune_weights(model, windows, sparsity=0.5)
    on_disk = llmprune.prune_weights(directory, windows, sparsity=0.5, out=tmp_path / "theirs")
    theirs = open_checkpoint(on_disk.directory).load(ours.state_dict())
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.state_dict().items())


def test_with_out_it_is_the_commands_checkpoint_bit_for_bit(checkpoint, windows, written, tmp_path):
    theirs = written("gpt2", tmp_path / "theirs", pattern=parse_sparsity("60%"))
    ours = llmprune.prune_weights(checkpoint("gpt2"), windows, sparsity="60%", out=tmp_path / "ours")
    for shard in open_checkpoint(theirs).shards:
        assert shard.read_bytes() == (ours.directory / shard.name).read_bytes()
    assert "60.00%) in the pruned matrices" in repr(ours)


def test_a_command_is_recorded_only_where_it_makes_the_same_bytes(checkpoint, windows, tmp_path):
    own = llmprune.prune_weights(checkpoint("llama"), windows, pattern="2:4", out=tmp_path / "own")
    assert own.record.command is None  # no command has these windows
    assert "# in Python, on windows of tokens that no command has" in (own.directory / "README.md").read_text()
    run = tmp_path / "run"
    llmprune.rank_blocks(checkpoint("llama"), windows, run=run).first(1)
    for given in (windows, None):
        kept = llmprune.prune_weights(checkpoint("llama"), given, pattern="2:4", run=run, out=run / f"{given is None}")
        assert kept.record.command is not None
        assert kept.record.command.startswith("llmprune global-prune")


def test_a_run_gives_its_windows(checkpoint, windows, tmp_path, loaded):
    llmprune.rank_blocks(checkpoint("llama"), windows, run=tmp_path / "run").first(1)
    expected = llmprune.prune_weights(loaded("llama"), windows, pattern="2:4")
    in_memory = llmprune.prune_weights(checkpoint("llama"), pattern="2:4", run=tmp_path / "run")
    on_disk = llmprune.prune_weights(checkpoint("llama"), pattern="2:4", run=tmp_path / "run", out=tmp_path / "out")
    assert same_tensors(in_memory, expected)
    assert same_tensors(whole(on_disk.directory), expected)


def test_the_model_is_left_as_it_was_and_only_pruned_matrices_take_memory(windows):
    model = tiny_model("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruned = llmprune.prune_weights(model, windows, sparsity=0.5, parts="ffn", layers="0-2")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    own = {
        name
        for name, parameter in pruned.named_parameters()
        if parameter.data_ptr() != model.get_parameter(name).data_ptr()
    }
    assert own == {
        f"model.layers.{block}.mlp.{matrix}_proj.weight" for block in range(3) for matrix in ("gate", "up", "down")
    }
    pruned(random_tokens(1, 8), labels=random_tokens(1, 8)).loss.backward()  # and it can be trained


def test_parts_may_be_a_list(loaded, windows):
    one, other = (
        llmprune.prune_weights(loaded("llama"), windows, pattern="2:4", method="magnitude", parts=parts)
        for parts in ("attention,ffn", ["attention", "ffn"])
    )
    assert same_tensors(one, other)


def test_every_block_is_told(loaded, windows):
    told = []
    llmprune.prune_weights(loaded("llama"), windows, sparsity=0.5, layers="first-half", on_block=told.append)
    assert [block.block for block in told] == [0, 1, 2]
    assert all(block.zeros == block.numel // 2 for block in told)
    assert str(told[0]).startswith("block   0: FFN error ")
    assert ", 50.0% zeros (" in str(told[0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sparsity": 1.5}, "at least 0 and below 1"),
        ({"sparsity": 0.5, "pattern": "2:4"}, "exclude each other"),
        ({"pattern": "2:5"}, "multiple of 5"),
        ({"method": "obd"}, "`method=obd` is none of sparsellm"),
        ({"targets_from": "sparse"}, "`targets_from=sparse` is none of dense, pruned"),
        ({"out": "somewhere"}, "`out=somewhere` is about a model on disk"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, words, loaded, windows):
    with pytest.raises(TargetError, match=words):
        llmprune.prune_weights(loaded("llama"), windows, **arguments)

"""llmprune takes what it pruned as its next input, and llmprune.json tells the whole story, oldest last."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmprune.artifacts.records.pruning import RECORD_NAME, PruningRecord
from llmprune.models.source import check_model, identify
from tests.tiny import NUM_BLOCKS


def fingerprint(directory):
    return identify("any", directory, *check_model(directory)).fingerprint


def history(directory):
    """The records of a checkpoint, newest first."""
    records = [PruningRecord.read(directory / RECORD_NAME)]
    while records[-1].source_record is not None:
        records.append(records[-1].source_record)
    return records


def test_four_prunings_one_after_another_are_chained(model, shorter, sparse, prune, tokens):
    third = prune("remove-blocks", sparse, "--blocks", "0")
    fourth = prune("global-prune", third, "--sparsity", "60%", "--rounds", "1")
    chain = [fourth, third, sparse, shorter]
    records = history(fourth)
    assert records == [PruningRecord.read(directory / RECORD_NAME) for directory in chain]
    assert [record.source.fingerprint for record in records] == [fingerprint(path) for path in (*chain[1:], model)]
    assert [record.num_blocks for record in records] == [3, 3, 4, 4]
    assert [record.removal.removed if record.removal else None for record in records] == [None, (0,), None, (1, 4)]
    assert [record.sparsity.settings.pattern if record.sparsity else None for record in records] == [
        "60%", None, "2:4", None,
    ]  # fmt: skip
    assert records[-1].source.num_blocks == NUM_BLOCKS
    assert records[0].sparsity.zeros_before == records[0].sparsity.numel // 2
    assert records[0].sparsity.zeros / records[0].sparsity.numel == pytest.approx(0.6, abs=1e-4)
    with torch.no_grad():
        assert AutoModelForCausalLM.from_pretrained(fourth)(tokens).logits.isfinite().all()


def test_no_path_of_this_machine_is_in_the_record(sparse, tmp_path_factory):
    text = (sparse / RECORD_NAME).read_text()
    assert str(tmp_path_factory.getbasetemp()) not in text
    assert json.loads(text)["source_record"]["removal"]["removed"] == [1, 4]


@pytest.mark.parametrize("command", ["verify-redundancy", "bench"])
def test_other_commands_take_it_too(command, sparse, text, prune, tmp_path):
    from typer.testing import CliRunner

    from llmprune.cli.app import app

    options = {
        "verify-redundancy": ["--target", "1", "--metric", "sleb"],
        "bench": ["--ppl", text, "--ppl-seq-len", 32, "--max-windows", 2, "--no-speed"],
    }[command]
    run = ["--run", tmp_path / "run"]
    if command == "verify-redundancy":
        words = ["calibrate", sparse, "--source", text, "--samples", 4, "--seq-len", 32, *run]
        assert CliRunner().invoke(app, [str(word) for word in words]).exit_code == 0
    result = CliRunner().invoke(app, [str(word) for word in (command, sparse, *options, *run)])
    assert result.exit_code == 0, result.output

"""llmprune remove-experts, typed: what is shown, what is recorded, and what is refused in a sentence."""

import json
import shlex
from pathlib import Path

import pytest

from tests.tiny import snapshot
from tests.zoo import save_zoo_model


@pytest.fixture(scope="module")
def moe(tmp_path_factory) -> Path:
    small = {"num_hidden_layers": 2, "moe_intermediate_size": 16}
    return save_zoo_model(tmp_path_factory.mktemp("moe") / "moe", "mixtral", **small)


@pytest.fixture
def begun(llmprune, moe, small, tmp_path, monkeypatch) -> Path:
    """The current folder, with a run that has its calibration."""
    monkeypatch.chdir(tmp_path)
    assert llmprune("calibrate", moe, *small, "--run", "run").exit_code == 0
    return tmp_path


def test_it_says_what_went_and_records_a_command_that_makes_it_again(llmprune, begun):
    result = llmprune("remove-experts", "--target", "25%", "--run", "run")
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "4 -> 3 experts in each of 2 blocks" in said
    assert "source whose routers cannot choose these experts" in said
    made = begun / "run" / "moe-3of4experts-reap"
    record = json.loads((made / "llmprune.json").read_text())
    assert record["command"].count("--experts") == 2
    first = snapshot(made)
    again = llmprune(*shlex.split(record["command"])[1:], "--force")
    assert again.exit_code == 0, again.output
    second = snapshot(made)
    assert json.loads(second["llmprune.json"])["experts"] == record["experts"]  # what chose them is known from the run
    assert all(first[name] == second[name] for name in first if name.endswith(("safetensors", "config.json")))


def test_experts_that_are_named_go_and_the_result_can_be_measured_and_reported(llmprune, begun, text):
    named = ("--experts", "0:1,3", "--experts", "1:0,2")
    result = llmprune("remove-experts", *named, "--run", "run", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["experts"]["removed"] == {"0": [1, 3], "1": [0, 2]}
    bench = ("bench", "--ppl", text, "--ppl-seq-len", "32", "--max-windows", "2", "--no-speed", "--run", "run")
    assert llmprune(*bench).exit_code == 0
    assert llmprune("report", "--run", "run").exit_code == 0
    page = (begun / "run" / "report" / "index.html").read_text()
    assert "2 of 4 experts" in page
    assert "Removed experts, by their index before" in page


REFUSED = {
    "--target 80%": "leaves 0 of 4 experts, and each token is sent to 2; at most 2 can go",
    "--target 3": "leaves 1 of 4 experts",
    "--target none": "is not a removal target; type a share such as 20% or 0.2",
    "--experts 0:1": "names blocks 0, and the blocks with experts are 0, 1",
    "--experts 0:1 --experts 1:0,1": "as many must go of each block",
    "--experts 0:1 --experts 1:4": "which has experts 0 to 3",
    "--experts 0:1 --experts 0:2": "type for example --experts 3:0,5",
    "--experts all": "type for example --experts 3:0,5",
    "--experts 0:0,1,2 --experts 1:0,1,2": "leaves 1 of 4 experts",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_is_refused_in_a_sentence(words, llmprune, begun):
    before = snapshot(begun)
    result = llmprune("remove-experts", *words.split(), "--run", "run")
    assert result.exit_code == 2
    said = " ".join(result.stderr.replace("│", " ").split())
    assert REFUSED[words] in said
    assert said.count("Error") == 1
    assert snapshot(begun) == before


def test_a_model_without_experts_is_refused(llmprune, model, tmp_path):
    result = llmprune("remove-experts", model, "--run", tmp_path / "run")
    assert result.exit_code == 2
    assert "has no experts that llmprune can tell apart" in " ".join(result.stderr.replace("│", " ").split())
    assert not (tmp_path / "run").exists()

"""--plan on every command: an estimate on stdout, and nothing made."""

import json
import shutil

import pytest

from llmprune.ranks.group import Ranks
from tests.tiny import snapshot


@pytest.fixture(scope="module")
def made(tmp_path_factory, ranked):
    """A run with a smaller and a sparse checkpoint."""
    from typer.testing import CliRunner

    from llmprune.cli.app import app

    run = tmp_path_factory.mktemp("runs") / "made"
    shutil.copytree(ranked, run)
    sparse = ["global-prune", "--method", "wanda", "--sparsity", "0.5", "--no-verify", "--out", run / "sparse"]
    for words in (["remove-blocks", "--target", "2", "--no-verify", "--out", run / "smaller"], sparse):
        result = CliRunner().invoke(app, [*map(str, words), "--run", str(run)])
        assert result.exit_code == 0, result.stderr
    return run


BENCH = ["--ppl", "TEXT", "--ppl-seq-len", "32", "--max-windows", "2", "--batch", "2", "--gen", "4", "--prompt", "4"]
COMMANDS = {
    "calibrate": ["calibrate", "MODEL", "--source", "TEXT", "--samples", "4", "--seq-len", "32", "--run", "NEW"],
    "verify-redundancy": ["verify-redundancy", "--target", "3", "--run", "RUN"],
    "remove-blocks": ["remove-blocks", "MODEL", "--target", "2", "--heal", "all", "--run", "NEW"],
    "heal": ["heal", "RUN/smaller", "--run", "RUN"],
    "global-prune": ["global-prune", "--sparsity", "0.5", "--layers", "0-1", "--run", "RUN"],
    "apply-mask": ["apply-mask", "MODEL", "RUN/sparse", "--run", "RUN"],
    "bench": ["bench", "RUN/smaller", *BENCH, "--prefill", "16", "--run", "RUN"],
    "prune": ["prune", "--size", "80%", *BENCH[:6], "--run", "RUN"],
    "sweep": ["sweep", "--targets", "2", "--sparsity", "0.5", *BENCH[:6], "--no-speed", "--run", "RUN"],
    "report": ["report", "--prompt", "The sea", "--run", "RUN"],
    "push": ["push", "RUN/smaller", "owner/name", "--dry-run"],
}


@pytest.fixture
def words(made, model, text, tmp_path):
    """The words of a command, with paths in place of names."""
    paths = {"MODEL": model, "TEXT": text, "RUN": made, "NEW": tmp_path / "new"}

    def fill(command):
        return [str(paths.get(word, word)).replace("RUN/", f"{made}/") for word in COMMANDS[command]]

    return fill


@pytest.mark.parametrize("command", COMMANDS)
def test_a_plan_tells_what_a_command_takes_and_makes_nothing(command, words, made, tmp_path, llmprune):
    before = snapshot(made)
    result = llmprune(*words(command), "--plan", "--json")
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    total, steps = plan["total"], plan["steps"]
    assert (plan["command"], plan["device"], plan["dtype"]) == (command, "cpu", "float32")
    assert total["host"] == plan["base"] + max(step["host"] for step in steps)
    for name in ("read", "written", "kept"):
        assert total[name] == sum(step[name] for step in steps) >= 0
    assert total["disk"] >= max(step["disk"] for step in steps)
    assert total["seconds"] > 0
    assert snapshot(made) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "divided"),
    {
        "calibrate": "dense pass",
        "verify-redundancy": "search",
        "heal": "healing",
        "global-prune": "pruning",
        "bench": "smaller: quality",
        "sweep": "blocks 2",
    }.items(),
)
def test_a_plan_of_two_processes_is_of_each_of_them(command, divided, words, llmprune, monkeypatch):
    """A block's time is given, so that all of it is told beforehand; what reading adds to it is little."""
    monkeypatch.setattr("llmprune.stages.common.block_times.time_in_turn", lambda runs, _: [[1.0]] * len(runs))
    plans = []
    for size in (1, 2):
        monkeypatch.setattr("llmprune.models.compute.joined", lambda size=size: Ranks(0, size))
        plans.append(json.loads(llmprune(*words(command), "--plan", "--json").stdout))
    one, two = ({step["step"]: step for step in plan["steps"]} for plan in plans)
    assert [plan["processes"] for plan in plans] == [1, 2]
    assert two[divided]["seconds"] / one[divided]["seconds"] == pytest.approx(0.5, abs=0.1)
    for name in ("disk", "kept", "written"):
        assert plans[0]["total"][name] == plans[1]["total"][name]
    assert two[divided]["read"] <= one[divided]["read"]
    assert two[divided]["host"] <= one[divided]["host"]


def test_a_plan_is_a_table_for_people(words, llmprune):
    result = llmprune(*words("verify-redundancy"), "--plan")
    assert result.exit_code == 0, result.stderr
    assert "search" in result.stdout and "Nothing was made" in result.stdout


def test_what_is_there_already_takes_nothing(ranked, llmprune):
    plan = json.loads(llmprune("verify-redundancy", "--target", "2", "--run", ranked, "--plan", "--json").stdout)
    assert (plan["steps"], plan["total"]["written"]) == ([], 0)


def test_a_plan_refuses_what_the_command_refuses(words, llmprune):
    result = llmprune(*words("global-prune"), "--seq-len", "7", "--plan")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "windows of 32 tokens, not of 7" in " ".join(result.stderr.split())


def test_what_takes_more_than_a_memory_budget_is_said_beforehand_and_when_it_is_done(words, llmprune, run):
    planned = json.loads(llmprune(*words("global-prune"), "--plan", "--json", "--memory-budget", "1MB").stdout)
    assert any("and the budget is 1.0 MB" in remark for remark in planned["remarks"])
    command = [
        "global-prune",
        "--method",
        "sparsegpt",
        "--sparsity",
        "0.5",
        "--layers",
        "0",
        "--no-verify",
        "--run",
        run,
    ]
    done = llmprune(*command, "--memory-budget", "1MB")
    assert done.exit_code == 0
    assert "more memory than is free or the memory budget allows" in " ".join(done.stderr.split())
    assert "memory budget" not in llmprune(*words("global-prune"), "--plan").stdout

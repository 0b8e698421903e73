"""llmprune sweep as typed: table, JSON, limits, a process that is killed, and wrong input row by row."""

import json
import os
import signal
import time
from types import SimpleNamespace

import pytest

from llmprune.artifacts.records.pruning import RECORD_NAME
from llmprune.artifacts.records.sweep import SweepResult
from llmprune.cli.views.sweep import _accuracies
from tests.cli.world import refused
from tests.steady import steady_speed
from tests.tiny import POSITIONS, snapshot

GRID = ["--targets", "1", "--sparsity", "0.5", "--method", "wanda", "--no-verify"]


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture(scope="session")
def measured(text):
    return ["--ppl", text, "--ppl-seq-len", 64, "--max-windows", 4, "--no-speed"]


def test_a_line_a_point_then_a_table_and_what_it_means(run, measured, llmprune):
    result = llmprune("sweep", *GRID, *measured, "--run", run)
    assert result.exit_code == 0, result.stderr
    for words in ("3 points to make and measure", "1/3 sparsity 50%: ", "3/3 blocks 1 + sparsity 39.83%: ", " left)"):
        assert words in result.stderr
    found = SweepResult.read(run / "sweep.json")
    for point in found.measured:
        row = next(line for line in result.stdout.splitlines() if f"│ {point.name} " in line)
        assert f"{point.effective_params:,.0f}" in row
        assert f"{point.metrics['ppl'].value:,.2f}" in row
        assert f"{point.ppl_ratio.value:.3f}" in row
        assert (" P" in row) == (point.name in found.pareto.params)
        assert (" N" in row) == (point.name in found.pareto.effective_params)
    assert f"Pareto set P, by stored parameters: {'; '.join(found.pareto.params)}." in result.stdout
    assert "4 windows of 64 tokens, no BOS, float32" in result.stdout
    assert "Calibrated on 24 x 32 tokens of sea.txt; blocks ranked by sleb." in result.stdout
    assert "Best of all, without a limit (lowest perplexity): " in result.stdout


def test_a_text_that_is_called_like_a_task_is_not_its_accuracy():
    names = ("ppl", "ppl.sea", "acc", "acc.sea", "acc_norm", "acc_norm.sea", "generation", "generation.8")
    dense = SimpleNamespace(metrics=dict.fromkeys(names))
    result = SimpleNamespace(measuring=SimpleNamespace(tasks=SimpleNamespace(tasks=("sea",))), dense=dense)
    assert _accuracies(result) == {"acc.sea": "sea acc"}


def test_json_is_the_file_and_the_best(run, measured, llmprune):
    words = ["sweep", *GRID, *measured, "--max-ppl-ratio", 50, "--run", run, "--json", "--quiet"]
    result = llmprune(*words)
    assert (result.exit_code, result.stderr) == (0, "")
    content = json.loads(result.stdout)
    best = content.pop("best")
    assert SweepResult.model_validate(content) == SweepResult.read(run / "sweep.json")
    assert [one["what"] for one in best] == ["fewest stored parameters", "fewest parameters not zero"]
    assert {one["point"] for one in best} <= set(content["planned"])


def test_a_limit_that_nothing_keeps_ends_with_3_once_all_is_shown(run, measured, llmprune):
    result = llmprune("sweep", *GRID, *measured, "--run", run, "--max-params", "5%")
    assert result.exit_code == 3
    assert "No point of the sweep is within --max-params 5%" in result.stderr
    assert "Pareto set P" in result.stdout
    again = llmprune("sweep", *GRID, *measured, "--run", run, "--max-params", "99%")
    assert again.exit_code == 0
    assert "has all of these points already: nothing to do" in again.stderr
    assert "Best within --max-params 99% (lowest perplexity): blocks 1" in again.stdout


def test_speed_has_a_column_and_a_front(run, text, llmprune, monkeypatch):
    steady_speed(monkeypatch)
    speed = ["--batch", "1,2", "--gen", 2, "--prompt", 3, "--prefill", 8, "--repeats", 2, "--max-seconds", 0]
    words = [*GRID[:2], "--ppl", text, "--ppl-seq-len", 64, "--max-windows", 4, *speed, "--run", run]
    result = llmprune("sweep", *words, "--max-latency-ratio", 1e6)
    assert result.exit_code == 0, result.stderr
    assert "Pareto set T, by time of a generated token: " in result.stdout
    assert "batch 1, 2 x 2 tokens after 3, the worst of several sizes" in result.stdout
    assert ", time per token x " in result.stderr


def test_discarded_checkpoints_leave_the_commands(run, measured, llmprune):
    result = llmprune("sweep", *GRID, *measured, "--discard-checkpoints", "--run", run, "--max-params", "99%")
    points = SweepResult.read(run / "sweep.json").points
    assert any(f"to make it again: {point.commands[0]}" in result.stdout for point in points)
    assert not list(run.glob("sweep/*/*.safetensors"))
    assert "each deleted once it is measured" in result.stderr


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_is_killed_half_way_goes_on(sign, run, measured, llmprune, process):
    words = ["sweep", *GRID, *measured, "--run", run]
    started = process(*words)
    until = time.monotonic() + 120
    while time.monotonic() < until and started.poll() is None:
        if (run / "sweep.json").exists() and json.loads((run / "sweep.json").read_text())["points"]:
            os.kill(started.pid, sign)
            break
        time.sleep(0.005)
    started.communicate(timeout=60)
    assert started.returncode == (130 if sign == signal.SIGINT else -sign)
    done = [point.name for point in SweepResult.read(run / "sweep.json").points]
    assert 1 <= len(done) < 3
    again = llmprune(*words)
    assert again.exit_code == 0, again.stderr
    assert len(SweepResult.read(run / "sweep.json").points) == 3
    for name in done:
        assert f" {name}: " not in again.stderr
    assert all((run / point.checkpoint / RECORD_NAME).exists() for point in SweepResult.read(run / "sweep.json").points)


WRONG = {
    "nothing": ("", "There is nothing to sweep; type --targets 10%,20%"),
    "target 0": ("--targets 0", "A target of 0 removes no block"),
    "target 100%": ("--targets 20%,100%", "A target of 100% is not between 0% and 100%"),
    "target in letters": ("--targets 20%,most", "'most' is not a removal target"),
    "target empty": ("--targets 10%,", "has an empty value; type for example --targets 10%,20%,30%"),
    "target twice": ("--targets 10%,10%", "names 10% twice"),
    "target twice in other words": ("--targets 1,10%", "both remove 1 of 6 blocks"),
    "target beyond the ends": ("--targets 1,5", "at most 3 can go"),
    "target -1": ("--targets=-1", "A target of -1 removes no block"),
    "sparsity 0": ("--sparsity 0.5,0", "is the dense model"),
    "sparsity 1": ("--sparsity 1", "at least 0 and below 1"),
    "sparsity nan": ("--sparsity nan", "neither a ratio such as 0.7"),
    "sparsity in letters": ("--sparsity half", "neither a ratio such as 0.7"),
    "sparsity empty": ("--sparsity ,", "has an empty value"),
    "sparsity twice": ("--sparsity 0.5,50%", "names 50% twice"),
    "pattern": ("--pattern 2-4", "not of the form ZEROS:GROUP"),
    "pattern 4:4": ("--pattern 4:4", "at least one zero"),
    "pattern twice": ("--pattern 2:4,2:4", "names 2:4 twice"),
    "pattern that does not fit": ("--pattern 2:5", "The pattern 2:5 needs a multiple of 5 inputs"),
    "method": ("--sparsity 0.5 --method obc", "sparsegpt"),
    "combine": ("--targets 1 --combine all", "budget"),
    "metric": ("--targets 1 --metric size", "block-influence"),
    "metric of another ranking": ("--targets 1 --metric angular", "ranks blocks by sleb, not by angular"),
    "samples 0": ("--targets 1 --samples 0", "--samples 0 is out of range"),
    "seq-len 1": ("--targets 1 --seq-len 1", "--seq-len 1 is out of range"),
    "another calibration": ("--targets 1 --samples 3 --source {text}", "made with other settings"),
    "ppl-seq-len 1": ("--targets 1 --ppl-seq-len 1", "--ppl-seq-len 1 is out of range; type 2 or more"),
    "ppl-seq-len beyond": (
        f"--targets 1 --ppl-seq-len {POSITIONS + 1}",
        f"--ppl-seq-len {POSITIONS + 1} is beyond the model's {POSITIONS} positions",
    ),
    "max-windows 0": ("--targets 1 --max-windows 0", "--max-windows 0 is out of range"),
    "unknown text": ("--targets 1 --ppl wikitex2", "Did you mean wikitext2?"),
    "missing text": ("--targets 1 --ppl nosuch.txt", "There is no file 'nosuch.txt'"),
    "empty text": ("--targets 1 --ppl {folder}/empty.txt", "empty"),
    "text without network": ("--targets 1 --ppl owner/data", "--ppl python-docs or a local file"),
    "batch 0": ("--targets 1 --batch 0", "--batch 0 is out of range"),
    "gen beyond": ("--targets 1 --ppl {text} --gen 1000", "together are beyond the model's 256 positions"),
    "max-params": ("--targets 1 --max-params lots", "--max-params 'lots' is no number of weights"),
    "max-effective-params": ("--targets 1 --max-effective-params 0", "--max-effective-params '0' is no number"),
    "max-latency-ratio": ("--targets 1 --max-latency-ratio 0", "--max-latency-ratio 0 is out of range"),
    "max-latency-ratio without speed": ("--targets 1 --no-speed --max-latency-ratio 0.8", "leave out --no-speed"),
    "max-ppl-ratio": ("--targets 1 --max-ppl-ratio nan", "--max-ppl-ratio nan is out of range"),
    "device": ("--targets 1 --device gpu", "type auto, cpu or cuda"),
    "a model of another run": ("{model} --targets 1", "belongs to the model"),
    "no model": ("{folder}/nosuch --targets 1", "There is no model at"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused_before_anything_is_made(case, world, llmprune):
    options, words = WRONG[case]
    (world.folder / "empty.txt").write_text("")
    places = {"model": world.model, "text": world.text, "folder": world.folder}
    typed = ["sweep", *options.format(**places).split(), "--run", world.run]
    assert words in refused(llmprune, world.folder, typed)


NEW = ["nothing", "target 100%", "pattern that does not fit", "missing text", "ppl-seq-len beyond", "gen beyond"]


@pytest.mark.parametrize("case", NEW)
def test_a_first_sweep_with_wrong_input_makes_no_run_directory(case, world, llmprune):
    options, words = WRONG[case]
    typed = ["sweep", world.intact, *options.format(text=world.text).split(), "--run", world.folder / "new"]
    assert words in refused(llmprune, world.folder, typed)


def test_a_sweep_of_other_settings_is_refused_and_left_as_it_is(run, measured, llmprune, tmp_path):
    assert llmprune("sweep", *GRID[2:], *measured, "--run", run).exit_code == 0
    before = snapshot(run)
    for change in (["--method", "magnitude"], ["--max-windows", 3], ["--ppl-seq-len", 32], ["--dtype", "bfloat16"]):
        result = llmprune("sweep", *GRID[2:], *measured, *change, "--run", run)
        assert result.exit_code == 2
        assert "type --force to start anew, or --run OTHER to keep both" in result.stderr.replace("\n", " ")
        assert snapshot(run) == before

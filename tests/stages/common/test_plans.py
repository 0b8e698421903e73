"""Estimates: added up, and held against what then happens in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llmprune.models.footprint import most_alive
from llmprune.stages.common.plans import Estimate, Plan, spell_seconds, together
from tests.tiny import save_tiny_llama, write_text

ROOT = Path(__file__).parents[3]
SIZES = {
    "vocab_size": 16384,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "tie_word_embeddings": False,
    "num_blocks": 4,
}

# Plans a few stages, runs each, and prints for each: planned and found bytes of memory, written, kept.
SCRIPT = """
import json, os, sys, traceback
from pathlib import Path
import psutil
from llmprune.models.compute import choose_compute
from llmprune.stages.block_removal import RemovalSettings, plan_removal, remove_blocks
from llmprune.stages.block_search import RedundancySettings, plan_search, verify_redundancy
from llmprune.stages.calibration import CalibrationSettings, calibrate, plan_calibration
from llmprune.stages.common.workspace import open_workspace

model, text, run = sys.argv[1:]
workspace = open_workspace(Path(run), model, compute=choose_compute("cpu"))
calibration = CalibrationSettings(source=text, samples=8, seq_len=128)
search, removal = RedundancySettings(target="1"), RemovalSettings(target="1")
stages = {
    "calibrate": (plan_calibration, calibrate, calibration),
    "search": (plan_search, verify_redundancy, search),
    "remove": (plan_removal, remove_blocks, removal),
}

def written():
    return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["wchar"])

def peak():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])

def files():
    return sum(path.stat().st_size for path in Path(run).rglob("*") if path.is_file())

def told(action):
    # What an action returns in a process of its own, whose memory is as the command's when it begins.
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)
        with os.fdopen(reader) as pipe:
            said = pipe.read()
        assert os.waitpid(child, 0)[1] == 0
        return json.loads(said)
    try:
        os.write(writer, json.dumps(action()).encode())
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

def planned(plan, settings):
    made = plan(workspace, settings)
    return {"host": made.total.host, "written": made.total.written, "kept": made.total.kept}

def found(stage, settings):
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    wrote, there = written(), files()
    stage(workspace, settings)
    return {"host": peak(), "written": written() - wrote, "kept": files() - there}

for name, (plan, stage, settings) in stages.items():
    print(json.dumps([name, told(lambda: planned(plan, settings)), told(lambda: found(stage, settings))]), flush=True)
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    model = save_tiny_llama(folder / "model", **SIZES)
    words = [model, write_text(folder / "sea.txt"), folder / "run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_DEACTIVATE_ASYNC_LOAD", None)  # weights are loaded as for users, whose memory this is about
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, words)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return {name: (planned, found) for name, planned, found in map(json.loads, done.stdout.splitlines())}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("stage", ["calibrate", "search", "remove"])
def test_a_plan_holds(stage, rows):
    planned, found = rows[stage]
    assert planned["host"] == pytest.approx(found["host"], rel=0.2)  # Python and its libraries too, as in the total
    assert planned["kept"] == pytest.approx(found["kept"], rel=0.02, abs=20_000)
    assert planned["written"] == pytest.approx(found["written"], rel=0.02, abs=50_000)


def test_steps_one_after_another_take_the_most_memory_of_any_and_the_sum_of_all_else():
    first = Estimate("a", host=5, device=1, disk=10, kept=4, read=1, written=10, seconds=2.0)
    second = Estimate("b", host=3, device=2, disk=7, kept=7, read=2, written=7, seconds=3.0)
    assert together("both", [first, second]) == Estimate(
        "both", host=5, device=2, disk=11, kept=11, read=3, written=17, seconds=5.0
    )
    assert together("both", [first, Estimate("c", seconds=None)]).seconds is None
    plan = Plan("sweep", "cpu", "float32", 100, 1.5, (first, second))
    assert (plan.total.host, plan.total.seconds) == (105, 6.5)
    assert plan.as_json()["total"]["disk"] == 11


@pytest.mark.parametrize(("seconds", "spelled"), [(40, "40 s"), (720, "12 min"), (12600, "3.5 h")])
def test_seconds_are_spelled(seconds, spelled):
    assert spell_seconds(seconds) == spelled


def test_tensors_count_for_as_long_as_they_live():
    given = torch.ones(100, 100)

    def several():
        first = given @ given
        second = first + 1
        del first
        third = second * 2
        third.add_(1)
        return third[3:].sum()

    assert most_alive(lambda: given @ given) == 40_000
    assert most_alive(several) == 80_004  # two at a time, and the sum
    assert most_alive(lambda: given.view(-1)[3:]) == 0
    with torch.inference_mode():
        assert most_alive(several) == 80_004

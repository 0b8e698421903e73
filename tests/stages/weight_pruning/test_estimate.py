"""What pruning takes is told from shapes, and holds: memory and disk are measured in a process of their own."""

import json
import os
import subprocess
import sys

import pytest

MEASURED = """
import json, os, threading
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil, torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmprune.algorithms.weights.patterns import Unstructured
from llmprune.choices import Method, Reference
from llmprune.models.compute import choose_compute
from llmprune.models.resident import model_decoder
from llmprune.stages.calibration import text_of_windows
from llmprune.stages.common.progress import Silent
from llmprune.stages.weight_pruning import PruningSettings
from llmprune.stages.passes import PassFolder
from llmprune.stages.weight_pruning.state import PruningPassState
from llmprune.stages.weight_pruning.decoder_pruning import prune_decoder, recorded_settings
from llmprune.stages.weight_pruning.estimate import needs_of
from llmprune.text.windows import TokenWindows

def folder_bytes(folder):
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            pass
    return total

def measured(decoder, settings, windows):
    found = {"memory": 0, "disk": 0}
    with TemporaryDirectory() as scratch:
        done = threading.Event()
        def watch():
            while not done.wait(0.005):
                found["memory"] = max(found["memory"], psutil.Process().memory_info().rss)
                found["disk"] = max(found["disk"], folder_bytes(Path(scratch)))
        watcher = threading.Thread(target=watch)
        before = psutil.Process().memory_info().rss
        watcher.start()
        text = text_of_windows(windows)
        recorded = recorded_settings(settings, (0, 1), text, dtype="float32")
        folder = PassFolder(Path(scratch) / "pass", PruningPassState)
        prune_decoder(decoder, text, settings, recorded, model="", folder=folder, compute=choose_compute("cpu"),
                      progress=Silent(), on_block=lambda _: None)
        done.set()
        watcher.join()
    shape = {"windows": len(windows.tokens), "seq_len": windows.tokens.shape[1]}
    needs = needs_of(decoder, settings, (0, 1), compute=choose_compute("cpu"), **shape)
    return {"announced": {"memory": before + needs.memory, "disk": needs.disk}, "measured": found}

torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(hidden_size=192, intermediate_size=640, num_hidden_layers=2, vocab_size=64,
                                     num_attention_heads=4, num_key_value_heads=4)).eval()
decoder = model_decoder(model)
known = {"sampling": "windows", "seed": 0, "text_tokens": 1, "corpus_name": "r", "corpus_origin": "r",
         "corpus_fingerprint": "0", "bos": False}
for count in (16, 96):
    windows = TokenWindows(torch.randint(64, (count, 256)), **known)
    for way in ({"refit_steps": 2, "rounds": 2}, {"method": Method.SPARSEGPT, "reference": Reference.PRUNED}):
        if child := os.fork():  # each in a process that has just begun: what an allocator keeps does not count
            os.waitpid(child, 0)
            continue
        print(json.dumps(measured(decoder, PruningSettings(Unstructured(0.5), **way), windows)), flush=True)
        os._exit(0)
"""


def test_memory_and_disk_are_as_announced_at_two_sizes():
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads of a pool do not survive a fork
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True, env=alone)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 4
    for row in rows:
        for what in ("memory", "disk"):
            assert row["announced"][what] == pytest.approx(row["measured"][what], rel=0.2), (what, row)

"""The real thing: processes of their own, with HF_ENDPOINT and HF_TOKEN in their environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.hub.server import TOKEN, Hub
from tests.hub.storage import serving
from tests.tiny import snapshot

ROOT = Path(__file__).parents[2]
PULL = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("ada/model")
tokenizer = AutoTokenizer.from_pretrained("ada/model")
tokens = tokenizer("the sea is wide", return_tensors="pt").input_ids
torch.save((tokens, model(tokens).logits), sys.argv[1])
"""


@pytest.fixture
def world(tmp_path):
    """A Hub, and the environment that names it, its token kept in a file as `hf auth login` keeps it."""
    with serving(Hub()) as hub:
        home = tmp_path / "hub-home"
        home.mkdir()
        (home / "token").write_text(TOKEN)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "LLMPRUNE_"))}
        yield (
            hub,
            {
                **kept,
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "HF_ENDPOINT": hub.endpoint,
                "HF_HOME": str(home),
                "HF_HUB_DISABLE_XET": "1",
            },
        )
        assert hub.leaks == []


def start(environment, *words):
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def finish(environment, *words, code=0):
    process = start(environment, *words)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    return out + err


def test_an_interrupted_push_goes_on_and_what_is_pulled_computes_the_same(world, cut, run, tmp_path):
    hub, environment = world
    model = AutoModelForCausalLM.from_pretrained(cut)
    for path in cut.glob("model*"):
        path.unlink()
    model.save_pretrained(cut, max_shard_size="60KB")
    shards = sorted(path.name for path in cut.glob("model-*"))
    assert len(shards) > 2
    push = ["-m", "llmprune", "push", cut, "ada/model", "--run", run, "--no-check"]  # which was sharded above

    held = threading.Event()
    hub.fail("PUT", "/ada/model/")  # the first file goes through: this fault is none
    hub.fail("PUT", "/ada/model/", hold=held)
    process = start(environment, *push)
    while hub.count("PUT", "") < 2 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    held.set()
    assert process.returncode == 130
    assert "type the same command again to go on" in err
    assert hub.repositories["ada/model"].files() == {}, "half a model was published"
    arrived = set(hub.repositories["ada/model"].stored)
    assert arrived

    before = hub.count("PUT", "")
    told = [out, err, finish(environment, *push, "--include-artifacts")]
    assert hub.count("PUT", "") - before <= len(shards) - len(arrived)
    assert set(shards) <= set(hub.repositories["ada/model"].files())

    found = tmp_path / "logits.pt"
    told.append(finish({**environment, "HF_HUB_CACHE": str(tmp_path / "clean")}, "-c", PULL, found))
    tokens, logits = torch.load(found, weights_only=True)
    with torch.inference_mode():
        assert torch.equal(logits, AutoModelForCausalLM.from_pretrained(cut)(tokens).logits)

    (run.parent / "told.txt").write_text("".join(told))
    published = [content for commit in hub.repositories["ada/model"].commits.values() for content in commit.values()]
    written = {name: content for name, content in snapshot(tmp_path).items() if name != "hub-home/token"}
    assert not [name for name, content in written.items() if content and TOKEN.encode() in content]
    assert not [blob for blob in published if TOKEN.encode() in blob.data]


def test_no_error_shows_the_token(world, cut, run):
    hub, environment = world
    push = ["-m", "llmprune", "push", cut, "ada/model", "--run", run]
    for debug in ("0", "1"):
        hub.fail("POST", "/commit/", times=9, status=403)
        told = finish({**environment, "LLMPRUNE_DEBUG": debug, "HF_DEBUG": debug}, *push, code=2 if debug == "0" else 1)
        assert "does not let you write to ada/model" in told
        assert TOKEN not in told

"""global-prune by several processes: what one prunes, whoever dies and however many go on."""

import json
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, batched_mm_experts_forward

from llmprune.algorithms.weights.gram import GramAccumulator
from llmprune.stages.weight_pruning.share import PassShare
from tests.ranks.together import run_ranks
from tests.tiny import save_tiny_llama, snapshot, write_text
from tests.zoo import save_zoo_model

SAMPLES, SEQ_LEN = 7, 48  # ranks have unequal shares


@pytest.fixture(scope="module", autouse=True)
def _float64():
    """The usual product of all experts at once knows no float64."""
    usual = ALL_EXPERTS_FUNCTIONS["grouped_mm"]
    ALL_EXPERTS_FUNCTIONS["grouped_mm"] = batched_mm_experts_forward
    yield
    ALL_EXPERTS_FUNCTIONS["grouped_mm"] = usual


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """Runs with a calibration, made by one process: of a Llama, a GPT-2, and a mixture of four experts."""
    folder = tmp_path_factory.mktemp("ranks")
    text = write_text(folder / "sea.txt")
    small = {"num_hidden_layers": 2, "moe_intermediate_size": 16}
    models = {
        "llama": save_tiny_llama(folder / "llama", num_blocks=3),
        "gpt2": save_zoo_model(folder / "gpt2", "gpt2"),
        "mixture": save_zoo_model(folder / "mixture", "qwen3_moe", **small),
    }
    for name, model in models.items():
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64).save_pretrained(model)  # no near-ties
        words = ["calibrate", model, "--source", text, "--samples", SAMPLES, "--seq-len", SEQ_LEN]
        (ended,) = run_ranks(1, [*words, "--run", folder / name], folder / f"calibrate-{name}")
        assert ended.exit_code == 0, ended.stderr
    return folder


@pytest.fixture
def prune(calibrated, tmp_path):
    """Prune in ``size`` processes, in a copy of the run; gives the output."""

    def pruned(size, *options, of="llama", name=None, before=lambda _: None, fails=False):
        run = tmp_path / (name or f"{of}-by-{size}")
        if not run.exists():
            shutil.copytree(calibrated / of, run)
        words = ["global-prune", *options, "--run", run, "--out", run / "out", "--quiet"]
        ended = run_ranks(size, words, tmp_path / f"ranks-{size}-{run.name}", before=before)
        assert fails or [one.exit_code for one in ended] == [0] * size, ended
        assert fails or all(not one.stdout and not one.stderr for one in ended[1:])
        return ended if fails else run / "out"

    return pruned


def weights(directory):
    return load_file(directory / "model.safetensors")


def record(directory):
    return json.loads((directory / "llmprune.json").read_text())["sparsity"]


def comparable(directory):
    """What a second run must give byte for byte: all but the record and the card, which have times."""
    return {name: held for name, held in snapshot(directory).items() if name not in ("llmprune.json", "README.md")}


CASES = {
    "sparsellm": ("llama", "--sparsity", "60%", "--layers", "0-1"),
    "wanda": ("gpt2", "--pattern", "2:4", "--method", "wanda", "--no-refit"),  # stored the other way round
    "experts": ("mixture", "--sparsity", "60%", "--targets-from", "pruned", "--rounds", "2"),
}


@pytest.mark.parametrize(("of", "options"), [(of, options) for of, *options in CASES.values()], ids=CASES)
def test_three_processes_prune_what_one_prunes(prune, of, options):
    """In float64, where scores have no near-ties. Some things are float32, and every refit makes more of it."""
    one, three = (prune(size, *options, of=of) for size in (1, 3))
    ours, theirs = weights(one), weights(three)
    for name in ours:
        assert torch.equal(ours[name] == 0, theirs[name] == 0)
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=2e-4)
    for before, after in zip(record(one)["blocks"], record(three)["blocks"], strict=True):
        assert [m["zeros"] for m in before["matrices"]] == [m["zeros"] for m in after["matrices"]]
        assert [e["tokens"] for e in before["experts"]] == [e["tokens"] for e in after["experts"]]
        errors = [m["error"] for m in before["matrices"]]
        assert [m["error"] for m in after["matrices"]] == pytest.approx(errors, rel=1e-4)
        assert after["output_error"] == (before["output_error"] and pytest.approx(before["output_error"], rel=1e-4))
        assert after["ffn"] == (
            before["ffn"] and {**before["ffn"], "errors": pytest.approx(before["ffn"]["errors"], rel=1e-4)}
        )


def test_a_second_run_of_the_same_size_has_the_same_bytes(prune):
    first, second = (prune(2, "--sparsity", "60%", name=name) for name in ("first", "second"))
    assert comparable(first) == comparable(second)


def test_after_a_death_any_number_goes_on(prune, tmp_path):
    plain = PassShare.pass_block

    def die(doomed, at):
        def install(rank):
            def pass_block(self, block, states):
                if (rank, block) == (doomed, at):
                    os.kill(os.getpid(), signal.SIGKILL)
                return plain(self, block, states)

            PassShare.pass_block = pass_block

        return install

    options = ("--sparsity", "60%", "--method", "sparsegpt", "--no-refit")
    for size, at in ((2, 1), (3, 2)):
        first, *_, last = prune(size, *options, name="run", before=die(size - 1, at), fails=True)
        assert last.exit_code == -signal.SIGKILL
        assert first.exit_code == 1
        assert f"Rank {size - 1} (process " in first.stderr
        state = json.loads((tmp_path / "run" / "out.partial" / "state.json").read_text())
        assert state["entering"] == at
        assert len(state["states"]) == size * (2 if at > 0 else 1)
    out = prune(1, *options, name="run")
    assert not (tmp_path / "run" / "out.partial").exists()
    changed = [remark for remark in record(out)["remarks"] if "instead of" in remark]
    assert ["3 processes instead of 2;" in changed[0], "1 process instead of 3;" in changed[1]] == [True, True]
    assert len(changed) == 2
    assert json.loads((out / "llmprune.json").read_text())["environment"]["processes"] == 1
    whole = prune(1, *options, name="whole")
    ours, theirs = weights(out), weights(whole)
    for name in ours:
        assert torch.equal(ours[name] == 0, theirs[name] == 0)


def test_what_all_fail_at_is_told_once(prune, tmp_path):
    """Activations that are NaN in one rank's windows alone: rank 0 tells it, and nothing of the pass is left."""
    plain, update = PassShare.pass_block, GramAccumulator.update

    def broken(rank):
        def pass_block(self, block, states):
            if block == 1 and rank == 1:
                GramAccumulator.update = lambda self, chunk: update(self, chunk * float("nan"))
            return plain(self, block, states)

        PassShare.pass_block = pass_block

    first, second = prune(2, "--sparsity", "60%", before=broken, fails=True)
    assert (first.exit_code, second.exit_code) == (1, 1)
    assert "Block 1, self_attn.q_proj, self_attn.k_proj, self_attn.v_proj: The Gram matrix holds NaN" in first.stderr
    assert second.stderr == ""
    assert not (tmp_path / "llama-by-2" / "out.partial").exists()


def test_a_plan_is_told_once_and_is_of_each_process(prune):
    first, second = prune(2, "--sparsity", "60%", "--plan", fails=True)
    assert (first.exit_code, second.exit_code, second.stdout, second.stderr) == (0, 0, "", "")
    assert "each of 2 processes: expected" in " ".join(first.stdout.split())


def test_more_processes_than_windows_are_refused(prune):
    ended = prune(8, "--sparsity", "60%", fails=True)
    assert {one.exit_code for one in ended} == {2}
    assert "8 processes were started, and there are 7 windows to divide among them" in ended[0].stderr

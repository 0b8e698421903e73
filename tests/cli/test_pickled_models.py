"""The OPT family as the Hub has it, ``pytorch_model.bin`` in half precision: every command, end to end."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import OPTForCausalLM

from llmprune import calibration_windows, rank_blocks
from llmprune.artifacts.records.pruning import RECORD_NAME
from tests.checkpoints import save_shards
from tests.edits import DIGEST
from tests.pickled import pickle_weights
from tests.tiny import save_tiny_tokenizer, snapshot, write_text
from tests.tiny_models import CONFIGS

CONVERTING = "Converting the pickled weights of tiny to safetensors in run/dense (once)."
SMALL = "--samples 12 --seq-len 24"
COMMANDS = (
    f"calibrate tiny --source sea.txt {SMALL} --run run",
    "verify-redundancy --target 1 --run run",
    "remove-blocks --target 1 --run run --out fewer",
    "global-prune --sparsity 60% --rounds 1 --run run --out sparser",
    "bench sparser --ppl sea.txt --ppl-seq-len 24 --no-speed --run run",
    "apply-mask tiny sparser --run run --out masked",
    "push fewer someone/fewer --dry-run --run run",
)
OUTPUTS = ("fewer", "sparser", "masked")
WEIGHTS = "model.safetensors"


def save_opt(folder: Path, *, pickled: bool) -> Path:
    """An OPT under the names of its first release, and a text, in ``folder``."""
    torch.manual_seed(0)
    directory = folder / "tiny"
    config = CONFIGS["opt"]()
    config.num_hidden_layers = 4
    model = OPTForCausalLM(config).half()
    model.save_pretrained(directory)
    save_tiny_tokenizer(directory)
    write_text(folder / "sea.txt")
    held = {name.removeprefix("model."): tensor for name, tensor in sorted(model.state_dict().items())}
    del held["lm_head.weight"]
    if pickled:
        pickle_weights(directory, held, num_shards=2)
    else:
        save_shards(directory, held)
    return directory


@pytest.fixture
def opt(tmp_path, monkeypatch) -> Path:
    """The folder of a pickled OPT, in which the commands are typed."""
    monkeypatch.chdir(tmp_path)
    save_opt(tmp_path, pickled=True)
    return tmp_path


def typed(llmprune, command: str):
    result = llmprune(*command.split())
    assert result.exit_code == 0, result.output
    return result


def without_times(fields: dict) -> dict:
    """Less the checksum of the importance file, too, in which there are times."""
    return {name: value for name, value in fields.items() if name not in {"created", "seconds", "importance", DIGEST}}


def everything(folder: Path) -> dict:
    """What the commands wrote, less times."""
    files = {f"{out}/{name}": data for out in OUTPUTS for name, data in snapshot(folder / out).items()}
    records = {name: json.loads(data, object_hook=without_times) for name, data in files.items() if RECORD_NAME in name}
    run = folder / "run"
    bench = json.loads(next((run / "bench").glob("*.json")).read_text(), object_hook=without_times)
    perplexities = [bench[subject]["perplexity"] for subject in ("model", "baseline")]
    manifest = json.loads((run / "calibration" / "manifest.json").read_text(), object_hook=without_times)
    losses = json.loads((run / "importance.json").read_text(), object_hook=without_times)
    return {**files, **records, "calibration": manifest, "importance": losses, "perplexities": perplexities}


def test_every_command_makes_what_it_makes_of_safetensors(llmprune, tmp_path, monkeypatch):
    found, said = [], []
    for pickled in (False, True):
        folder = tmp_path / f"pickled {pickled}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        save_opt(folder, pickled=pickled)
        said.append([" ".join(typed(llmprune, command).stderr.split()) for command in COMMANDS])
        found.append(everything(folder))
    assert found[0] == found[1]
    assert [CONVERTING in text for text in said[1]] == [True, *([False] * (len(COMMANDS) - 1))]
    assert not any("Converting" in text for text in said[0])


def test_converted_once_for_every_later_command_and_again_where_it_is_gone(llmprune, opt):
    assert CONVERTING in " ".join(typed(llmprune, COMMANDS[0]).stderr.split())
    first = snapshot(opt / "run" / "dense")
    assert first.pop("conversion.json")
    assert "Converting" not in typed(llmprune, "remove-blocks tiny --blocks 2 --run run").stderr
    shutil.rmtree(opt / "run" / "dense")
    assert "Converting" in typed(llmprune, "remove-blocks --blocks 3 --run run").stderr
    second = snapshot(opt / "run" / "dense")
    assert second.pop("conversion.json")  # with the time of another day
    assert second == first


def test_safetensors_beside_pickles_come_first(llmprune, opt):
    save_opt(opt / "other", pickled=False)
    shutil.copyfile(opt / "other" / "tiny" / WEIGHTS, opt / "tiny" / WEIGHTS)
    (opt / "tiny" / "pytorch_model-00001-of-00002.bin").write_bytes(b"of no interest")
    result = typed(llmprune, "remove-blocks tiny --blocks 2 --run run --out fewer")
    assert "Converting" not in result.stderr
    assert not (opt / "run" / "dense").exists()
    assert "pytorch_model-00001-of-00002.bin" in " ".join(result.stderr.split("Left behind in tiny:")[1].split())


def test_pickles_in_place_of_a_runs_safetensors_are_converted_too(llmprune, opt):
    shutil.rmtree(opt / "tiny")
    save_opt(opt, pickled=False)
    typed(llmprune, "remove-blocks tiny --blocks 2 --run run --out before")
    shutil.rmtree(opt / "tiny")
    save_opt(opt, pickled=True)
    for out in ("after", "later"):
        typed(llmprune, f"remove-blocks --blocks 2 --run run --out {out}")
        assert (opt / out / WEIGHTS).read_bytes() == (opt / "before" / WEIGHTS).read_bytes()


def test_a_pickled_baseline_of_another_run_is_not_converted_there(llmprune, opt):
    typed(llmprune, "remove-blocks tiny --blocks 2 --run run --out fewer")
    shutil.copytree(opt / "tiny", opt / "second")
    before = snapshot(opt)
    result = llmprune("bench", "fewer", "--baseline", "second", "--no-speed", "--ppl", "sea.txt", "--run", "run")
    assert result.exit_code == 2
    assert "belongs to the model" in " ".join(result.stderr.split())
    assert snapshot(opt) == before


@pytest.mark.parametrize("out", ["tiny", ".", "tiny/inside"])
def test_the_pickled_model_itself_is_never_replaced(out, llmprune, opt):
    typed(llmprune, "remove-blocks tiny --blocks 1 --run run")
    before = snapshot(opt)
    result = llmprune("remove-blocks", "--blocks", "2", "--run", "run", "--out", out, "--force")
    assert result.exit_code == 2
    assert "the model that is to be pruned" in " ".join(result.stderr.split())
    assert snapshot(opt) == before


def test_from_python_a_pickled_model_is_a_path_like_any_other(opt):
    ranking = rank_blocks("tiny", calibration_windows("tiny", source="sea.txt", samples=4, seq_len=24), target=1)
    assert len(list(ranking)) == 1
    assert sorted(path.name for path in opt.iterdir()) == ["sea.txt", "tiny"]


def test_a_plan_converts_nothing(opt, llmprune):
    before = snapshot(opt)
    result = llmprune("calibrate", "tiny", "--source", "sea.txt", "--run", "run", "--plan")
    assert result.exit_code == 2, result.output
    assert "tiny has no safetensors yet, and a plan converts nothing" in " ".join(result.stderr.split())
    assert snapshot(opt) == before

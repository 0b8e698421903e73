"""The command that a checkpoint records, typed again where it was typed, makes the same checkpoint to the byte."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from llmprune.artifacts.activations import open_calibration
from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.artifacts.masks.mask import write_mask
from llmprune.artifacts.records.pruning import RECORD_NAME, PruningRecord
from llmprune.artifacts.records.sweep import SweepResult
from llmprune.choices import TextKind
from llmprune.report.commands import calibrate_command
from tests.edits import DIGEST
from tests.tiny import SAMPLES, SEQ_LEN, snapshot, write_chats

CALIBRATE = f"calibrate 'my models/tiny one' --source sea.txt --samples {SAMPLES} --seq-len {SEQ_LEN} --run 'my run'"
MIXED = "calibrate 'my models/tiny one' --source sea.txt:12,chat.jsonl:4 --seq-len 32 --run 'my run'"
RANK = "verify-redundancy --target 2 --run 'my run'"
ODD = (
    "--layers 1,3-4 --exclude '*.up_proj' --exclude '*2*' --targets-from pruned --alpha 0.3 --beta 2 --gamma 0.7 "
    "--rounds 2 --damping 0.05 --block-size 16 --no-refit --samples 5 --max-shard-size 40kB --no-verify"
)
COMMANDS = {
    "blocks by a target": [CALIBRATE, RANK, "remove-blocks --target 2 --run 'my run'"],
    "blocks by a target, searched for now": [CALIBRATE, "remove-blocks --target 1 --run 'my run' --dtype bfloat16"],
    "blocks by the closest run": [
        CALIBRATE,
        "verify-redundancy --metric angular --target 2 --run 'my run'",
        "remove-blocks --target 2 --run 'my run'",
    ],
    "blocks by hand": ["remove-blocks 'my models/tiny one' --blocks 4,1 --max-shard-size 40kB --no-verify"],
    "blocks by hand elsewhere": ["remove-blocks 'my models/tiny one' --blocks 2 --run 'my run' --out 'other/a b'"],
    **{
        f"zeros by {method}": [CALIBRATE, f"global-prune --sparsity 60% --method {method} --run 'my run'"]
        for method in ("sparsellm", "sparsegpt", "wanda", "magnitude")
    },
    "zeros in groups": [CALIBRATE, "global-prune --pattern 2:4 --rounds 2 --run 'my run'"],
    "zeros in bfloat16": [CALIBRATE, "global-prune --rounds 2 --dtype bfloat16 --run 'my run'"],
    "zeros with odd settings": [CALIBRATE, f"global-prune --sparsity 0.33333333333 {ODD} --run 'my run'"],
    "zeros in the feed-forward networks": [CALIBRATE, "global-prune --parts ffn --layers first-half --run 'my run'"],
    "zeros on a mixture with conversations": [MIXED, "global-prune --method wanda --samples 8 --run 'my run'"],
    "blocks on a mixture with conversations": [MIXED, "remove-blocks --target 1 --run 'my run'"],
    "zeros on another run's calibration": [
        CALIBRATE,
        "global-prune 'my models/tiny one' --calibration 'my run/calibration' --method wanda --run second",
    ],
    "zeros in what blocks were removed from": [
        CALIBRATE,
        "remove-blocks --blocks 2 --run 'my run' --out cut",
        "global-prune cut --calibration 'my run/calibration' --method magnitude --run second",
    ],
    "blocks that are healed": [CALIBRATE, "remove-blocks --blocks 4,2 --heal cut --run 'my run' --max-shard-size 40kB"],
    "a healed checkpoint": [
        CALIBRATE,
        "remove-blocks --blocks 2 --run 'my run' --out cut",
        "heal cut --run 'my run' --samples 9 --dtype bfloat16 --no-verify",
    ],
    "healed zeros": [
        CALIBRATE,
        "global-prune --method magnitude --run 'my run' --out sparse",
        "heal sparse --teacher 'my models/tiny one' --scope cut --calibration 'my run/calibration' --run b --out 'e f'",
    ],
    "a mask": ["apply-mask 'my models/tiny one' 'masks/half of it' --run 'my run'"],
    "the mask of a checkpoint": [
        CALIBRATE,
        "global-prune --method magnitude --run 'my run' --out sparse",
        "apply-mask 'my models/tiny one' sparse --run second --max-shard-size 40kB --dtype bfloat16",
    ],
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory, model, text) -> dict[tuple[str, ...], Path]:
    """The folder as it was after some commands, of none at first: a model, a text and a mask, in places with spaces."""
    begun = tmp_path_factory.mktemp("kept") / "begun"
    shutil.copytree(model, begun / "my models" / "tiny one")
    shutil.copyfile(text, begun / "sea.txt")
    write_chats(begun / "chat.jsonl")
    (begun / "masks").mkdir()
    source = open_checkpoint(model)
    zeroed = [name for name in source.tensors if name.endswith("_proj.weight")][:3]
    write_mask(source, zeroed, begun / "masks" / "half of it")
    return {(): begun}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Where the folder is for every test: a run knows its model by its path."""
    return tmp_path_factory.mktemp("place") / "here"


@pytest.fixture
def folder(place, kept, monkeypatch) -> Path:
    """The current folder, as it is before any command."""
    put(kept[()], place)
    monkeypatch.chdir(place)
    return place


def put(source: Path, folder: Path) -> None:
    """Give a folder the content of another one."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(source, folder, dirs_exist_ok=True)


def prepare(llmprune, commands: list[str], folder: Path, kept: dict[tuple[str, ...], Path]) -> None:
    """Type commands in the folder, each row of them only once in this file."""
    for number, command in enumerate(commands, start=1):
        typed_so_far = tuple(commands[:number])
        if typed_so_far not in kept:
            typed(llmprune, command)
            name = f"after {len(kept)}"
            kept[typed_so_far] = Path(shutil.copytree(folder, kept[()].with_name(name)))
        put(kept[typed_so_far], folder)


def typed(llmprune, command: str):
    result = llmprune(*shlex.split(command.removeprefix("llmprune ")))
    assert result.exit_code == 0, result.output
    return result


def made(directory: Path) -> dict:
    """A checkpoint's files, the record less the times in it."""
    files = snapshot(directory)
    return {**files, RECORD_NAME: json.loads(files[RECORD_NAME], object_hook=without_times)}


def without_times(fields: dict) -> dict:
    return {name: value for name, value in fields.items() if name not in {"created", "seconds", DIGEST}}


@pytest.mark.parametrize("case", COMMANDS)
def test_the_recorded_command_makes_the_same_bytes(case, folder, kept, llmprune):
    *before, command = COMMANDS[case]
    prepare(llmprune, before, folder, kept)
    directory = Path(json.loads(typed(llmprune, f"{command} --json").stdout)["directory"])
    first, record = made(directory), PruningRecord.read(directory / RECORD_NAME)
    assert str(folder) not in record.command
    if "mixture" in case:
        text = record.sparsity.settings if record.sparsity is not None else record.removal.corpus
        assert [(one.name, one.kind, one.windows) for one in text.sources] == [
            ("sea.txt", TextKind.TEXT, 12),
            ("chat.jsonl", TextKind.CHAT, 4),
        ]
        assert "(sea.txt: text, chat.jsonl: chat)" in (directory / "README.md").read_text()
    shutil.rmtree(directory)
    typed(llmprune, record.command)
    assert made(directory) == first


@pytest.mark.parametrize(
    "how",
    [
        "--source sea.txt:12,chat.jsonl:4 --seed 3",
        "--source chat.jsonl --samples 5 --bos always",
        "--source chat.jsonl:messages --samples 5 --chat-template off",
        "--source chat.jsonl:4,sea.txt:2 --chat-template off --cache all",
    ],
)
def test_the_command_that_a_report_tells_draws_the_same_windows(how, folder, llmprune):
    typed(llmprune, f"calibrate 'my models/tiny one' {how} --seq-len 32 --run 'my run'")
    first = open_calibration(folder / "my run" / "calibration").manifest
    command = calibrate_command(first).replace("'tiny one'", "'my models/tiny one'")
    typed(llmprune, f"{command} --run again")
    second = open_calibration(folder / "again" / "calibration").manifest
    assert without_times(second.model_dump()) == without_times(first.model_dump())
    assert typed(llmprune, f"{command} --run again").stderr.count("complete already") == 1


def test_the_commands_of_a_sweep_make_the_same_bytes(folder, llmprune):
    calibration = "--source sea.txt:20,chat.jsonl:4 --seq-len 32 --chat-template off"
    measured = "--ppl sea.txt --ppl-seq-len 32 --max-windows 2 --no-speed"
    typed(
        llmprune,
        f"sweep 'my models/tiny one' --targets 2 --sparsity 60% --method wanda {calibration} {measured} --run 'my run'",
    )
    run = folder / "my run"
    points = SweepResult.read(run / "sweep.json").points
    firsts = [made(run / point.checkpoint) for point in points]
    for point, first in zip(points, firsts, strict=True):
        shutil.rmtree(run / "sweep")
        *making, _ = point.commands
        for command in making:
            typed(llmprune, command)
        assert made(run / point.checkpoint) == first
        typed(llmprune, point.commands[-1])


def test_a_model_that_lies_elsewhere_is_called_by_its_name_which_its_run_understands(folder, llmprune, tmp_path):
    model = Path("my models/tiny one").rename(tmp_path / "far")
    typed(llmprune, f"remove-blocks {shlex.quote(str(model))} --blocks 2 --run run")
    record = PruningRecord.read(folder / "run" / "far-5of6-2" / RECORD_NAME)
    assert record.command == "llmprune remove-blocks far --run run --blocks 2 --out run/far-5of6-2"
    first = load_file(folder / "run" / "far-5of6-2" / "model.safetensors")
    shutil.rmtree(folder / "run" / "far-5of6-2")
    typed(llmprune, record.command)
    assert load_file(folder / "run" / "far-5of6-2" / "model.safetensors").keys() == first.keys()
    assert "no model at 'near'" in llmprune("remove-blocks", "near", "--blocks", "2", "--run", "run").stderr


def test_a_run_that_lies_elsewhere_is_typed_in_the_folder_that_holds_it(folder, llmprune, tmp_path, monkeypatch):
    typed(llmprune, f"remove-blocks 'my models/tiny one' --blocks 2 --run {tmp_path / 'far' / 'run'}")
    record = PruningRecord.read(tmp_path / "far" / "run" / "tiny one-5of6-2" / RECORD_NAME)
    assert record.command == ("llmprune remove-blocks 'tiny one' --run run --blocks 2 --out 'run/tiny one-5of6-2'")
    monkeypatch.chdir(tmp_path / "far")
    shutil.rmtree(tmp_path / "far" / "run" / "tiny one-5of6-2")
    typed(llmprune, record.command)
    assert PruningRecord.read(tmp_path / "far" / "run" / "tiny one-5of6-2" / RECORD_NAME).command == record.command


def test_from_a_folder_that_holds_the_home_no_path_is_told(folder, llmprune, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "users" / "alice"))
    shutil.move(folder / "my models", folder / "users" / "alice" / "my models")
    typed(llmprune, "remove-blocks 'users/alice/my models/tiny one' --blocks 2 --run users/alice/run")
    record = PruningRecord.read(folder / "users" / "alice" / "run" / "tiny one-5of6-2" / RECORD_NAME)
    assert "users" not in record.command

"""The options of the commands: where each goes, one text and one default each, their order, completion."""

import inspect
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from llmprune.algorithms.feed_forward.subproblems import Coefficients
from llmprune.algorithms.weights.patterns import SemiStructured
from llmprune.choices import QUICK, Bos, Cache, Combine, Dtype, Method, Metric, Part, Reference, Sampling, Search
from llmprune.cli.app import app
from llmprune.errors import LlmpruneError
from llmprune.stages.benchmark.settings import BenchSettings
from llmprune.stages.block_removal import RemovalSettings
from llmprune.stages.block_search import RedundancySettings
from llmprune.stages.calibration import CalibrationSettings
from llmprune.stages.common.params import ParamLimit
from llmprune.stages.sweeping.choice import Limits
from llmprune.stages.sweeping.settings import SweepSettings
from llmprune.stages.weight_pruning.selection import Selection
from llmprune.stages.weight_pruning.settings import PruningSettings

COMMANDS = get_command(app).commands
STAGES = {
    "calibrate": "calibration",
    "verify-redundancy": "block_search",
    "remove-blocks": "block_removal",
    "global-prune": "weight_pruning",
    "bench": "benchmark",
    "sweep": "sweeping",
}


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The settings that a command line asks its stage for."""

    def see(command, *words):
        seen = []

        def stage(*args, **options):
            seen.extend([*args, *options.values()])
            raise LlmpruneError("seen")

        monkeypatch.setattr(f"llmprune.stages.{STAGES[command]}.{command.replace('-', '_')}", stage)
        monkeypatch.setattr("llmprune.stages.common.workspace.open_workspace", lambda *_, **__: None)
        result = CliRunner().invoke(app, [command, *words, "--run", str(tmp_path / "run")])
        assert result.exit_code == 1
        assert result.stderr.endswith("Error: seen\n")
        (settings,) = [value for value in seen if type(value).__name__.endswith("Settings")]
        return settings

    return see


USUAL = {
    "calibrate": CalibrationSettings(),
    "verify-redundancy": RedundancySettings(),
    "remove-blocks": RemovalSettings(),
    "global-prune": PruningSettings(),
    "bench": BenchSettings(),
}


@pytest.mark.parametrize("command", USUAL)
def test_where_nothing_is_typed_the_settings_are_their_own_defaults(command, asked):
    assert asked(command) == USUAL[command]


MEASURE = (
    "--ppl a --ppl b --ppl-seq-len 5 --max-windows 6 --bos always --tasks x,y --lm-eval-include folder --limit 7 "
    "--batch 1,2 --gen 8 --prompt 9 --prefill 10 --repeats 11 --max-seconds 12"
)
MEASURED = {
    "ppl": ("a", "b"),
    "ppl_seq_len": 5,
    "max_windows": 6,
    "bos": Bos.ALWAYS,
    "tasks": ("x", "y"),
    "lm_eval_include": Path("folder"),
    "limit": 7,
    "batch": (1, 2),
    "gen": 8,
    "prompt": 9,
    "prefill": 10,
    "repeats": 11,
    "max_seconds": 12.0,
}
TYPED = {
    "calibrate": (
        "--source t.txt --samples 3 --seq-len 5 --seed 7 --sampling rows --bos never --cache all",
        CalibrationSettings(
            source="t.txt", samples=3, seq_len=5, seed=7, sampling=Sampling.ROWS, bos=Bos.NEVER, cache=Cache.ALL
        ),
    ),
    "verify-redundancy": (
        "--target 3 --metric angular --search exhaustive --protect-first 2 --protect-last 3 --error-rate 0.25 "
        "--chunk-windows 4 --batch-size 5",
        RedundancySettings(
            target="3",
            metric=Metric.ANGULAR,
            search=Search.EXHAUSTIVE,
            protect_first=2,
            protect_last=3,
            error_rate=0.25,
            chunk_windows=4,
            batch_size=5,
        ),
    ),
    "remove-blocks": (
        "--target 7 --blocks 4,2 --out out --max-shard-size 3MB --no-verify --force",
        RemovalSettings(
            target="7", blocks=(4, 2), out=Path("out"), max_shard_bytes=3_000_000, verify=False, force=True
        ),
    ),
    "global-prune": (
        "--pattern 2:4 --method wanda --layers 0-3 --parts ffn --exclude a --exclude b --targets-from pruned --alpha 2 "
        "--beta 3 --gamma 4 --rounds 5 --damping 0.5 --block-size 6 --no-refit --samples 7 --seq-len 8 "
        "--calibration other --out out --max-shard-size 3MB --no-verify --force",
        PruningSettings(
            pattern=SemiStructured(2, 4),
            method=Method.WANDA,
            selection=Selection("0-3", frozenset({Part.FFN}), ("a", "b")),
            reference=Reference.PRUNED,
            coefficients=Coefficients(2, 3, 4),
            rounds=5,
            damping=0.5,
            block_size=6,
            refit_steps=0,
            samples=7,
            seq_len=8,
            calibration=Path("other"),
            out=Path("out"),
            max_shard_bytes=3_000_000,
            verify=False,
            force=True,
        ),
    ),
    "bench": (
        f"{MEASURE} --quick --no-speed --fail-if ppl>1",
        BenchSettings(**MEASURED, usual=QUICK.tokens, agreement=QUICK.agreement, speed=False, fail_if=("ppl>1",)),
    ),
    "sweep": (
        f"{MEASURE} --targets 1,2 --pattern 2:4 --combine grid --metric angular --method wanda --source t --samples 3 "
        "--seq-len 4 --discard-checkpoints --no-verify --force --max-params 5 --max-effective-params 6 "
        "--max-latency-ratio 0.7 --max-ppl-ratio 8",
        SweepSettings(
            targets=("1", "2"),
            patterns=(SemiStructured(2, 4),),
            combine=Combine.GRID,
            method=Method.WANDA,
            metric=Metric.ANGULAR,
            calibration=CalibrationSettings(source="t", samples=3, seq_len=4),
            bench=BenchSettings(**MEASURED),
            keep=False,
            limits=Limits(ParamLimit("5", 5.0), ParamLimit("6", 6.0), 0.7, 8.0),
            verify=False,
            force=True,
        ),
    ),
}


@pytest.mark.parametrize("command", TYPED)
def test_every_option_goes_where_its_name_says(command, asked):
    words, wanted = TYPED[command]
    assert asked(command, *words.split(" ")) == wanted


def test_quick_is_other_defaults(asked):
    quick = BenchSettings(
        usual=512, max_windows=8, batch=(8,), gen=32, prompt=64, agreement=8, repeats=3, max_seconds=20.0, ppl=("auto",)
    )
    assert asked("bench", "--quick") == quick


# One name for one thing; it is told or taken in another way where a command does something else with it.
SEVERAL_MEANINGS = {
    "--bos",  # of calibration windows, of perplexity windows
    "--force",  # what the run holds, what the repository holds
    "--heal",  # what is written, what is measured
    "--metric",  # of blocks, of experts
    "--out",  # a checkpoint, a page
    "--pattern",  # one, a list
    "--private",  # of push, of --push-to-hub
    "--prompt",  # so many tokens, a text
    "--source",  # explained by calibrate, to which the others point
    "--sparsity",  # one, a list
    "--target",  # of blocks, of experts
}


def test_an_option_has_one_text_in_all_commands():
    texts = defaultdict(set)
    for command in COMMANDS.values():
        for param in command.params:
            if param.param_type_name == "option":
                texts[param.opts[0]].add(param.help)
    assert {name for name, told in texts.items() if len(told) > 1} == SEVERAL_MEANINGS
    assert all(text and text[-1] in ".!?" for told in texts.values() for text in told)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_help_tells_what_then_how_then_where_then_output(command):
    options = [param for param in COMMANDS[command].params if param.param_type_name == "option"]
    panels = list(dict.fromkeys(param.rich_help_panel for param in options))
    assert panels[-2:] == ["Compute", "Output"]
    assert [param.rich_help_panel for param in options] == sorted(
        (param.rich_help_panel for param in options), key=panels.index
    )
    assert [param.opts[0] for param in options[-2:]] == ["--json", "--quiet"]
    assert "--run" in {param.opts[0] for param in options if param.rich_help_panel == "Output"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_options_are_declared_outside_it(command):
    module = sys.modules[f"llmprune.cli.commands.{command.replace('-', '_')}"]
    assert "typer" not in vars(module)
    function = getattr(module, command.replace("-", "_"))
    for name, parameter in inspect.signature(function).parameters.items():
        assert parameter.annotation.endswith(("Opt", "Arg")), name


def completed(*words):
    """What a shell offers after a command line that ends with a space."""
    line = " ".join(["llmprune", *words, ""])
    environment = {"_LLMPRUNE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) + 1)}
    return CliRunner().invoke(app, [], prog_name="llmprune", env=environment).stdout.split()


@pytest.mark.parametrize(
    ("words", "choices"),
    [
        (["calibrate", "--sampling"], Sampling),
        (["calibrate", "--cache"], Cache),
        (["verify-redundancy", "--metric"], Metric),
        (["sweep", "--metric"], Metric),
        (["sweep", "--combine"], Combine),
        (["global-prune", "--method"], Method),
        (["bench", "--dtype"], Dtype),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_a_shell_completes_choices(words, choices):
    assert completed(*words) == list(choices)


def test_a_shell_completes_commands():
    assert completed() == list(COMMANDS)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_shown_and_installed(shell, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("typer._completion_shared._get_shell_name", lambda: shell)
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: shell)
    shown = CliRunner().invoke(app, ["--show-completion"], prog_name="llmprune")
    assert shown.exit_code == 0
    assert "_LLMPRUNE_COMPLETE" in shown.stdout
    installed = CliRunner().invoke(app, ["--install-completion"], prog_name="llmprune")
    assert installed.exit_code == 0
    assert f"{shell} completion installed in {tmp_path}" in installed.stdout


RENAMED = {
    "--targets is now --parts.": ("global-prune", ["--targets=attention"], ["--parts=attention"]),
    "--seq-len is now --ppl-seq-len.": ("bench", ["--seq-len", "32"], ["--ppl-seq-len", "32"]),
}


@pytest.mark.parametrize("said", RENAMED)
def test_an_option_by_its_earlier_name_is_taken_and_the_new_name_is_said(said, asked):
    command, old, new = RENAMED[said]
    assert asked(command, *old) == asked(command, *new)
    assert CliRunner().invoke(app, [command, *old, "--run", "/proc/nosuch"]).stderr.startswith(f"{said}\n")

"""The page: all that the run holds, nothing that it does not, and nothing from anywhere else."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from typer.testing import CliRunner

from llmprune.artifacts.records.pruning import MaskApplication
from llmprune.artifacts.records.sweep import SkippedPoint
from llmprune.report.commands import bench_command, calibrate_command, search_command
from llmprune.report.contents import Checkpoint, RunContents
from llmprune.report.page import Drawn, render_page, report_sections
from tests.report.made import calibration, contents, importance, measurements, removed, scored
from tests.report.made_bench import MODEL, bench, model_result

VOID = {"meta", "link", "br", "input", "img"}


class Outline(HTMLParser):
    """Sees that every element is closed in order, and notes attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.attributes, self.words = [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(made: RunContents) -> str:
    sections = report_sections(made)
    drawn = {chart.name: Drawn("<svg></svg>", "<svg></svg>") for one in sections for chart in one.charts}
    return render_page(made, sections, drawn, made="2026-01-02 03:04 UTC", version="9.9")


def text_of(made: RunContents) -> str:
    return Outline(page_of(made)).text


EMPTY = {
    "calibration": None,
    "importance": None,
    "checkpoints": (),
    "measurements": (),
    "sweep": None,
    "generations": None,
}


def test_every_number_and_protocol_of_the_run_is_on_the_page():
    shown = text_of(contents())
    for words in (
        "12.34 (11.11 to 13.57)",  # the dense model's perplexity
        "23.45 (21.11 to 25.80)",
        "\N{MULTIPLICATION SIGN} 1.900 (1.881 to 1.919)",
        "file sea.txt (fingerprint cdcdcdcdcdcd); 2 windows of 512 tokens, no BOS, float32",
        "Blocks 5, 3 are removed, in this order",
        "from 2.0000 to 2.3750 nats/token",
        "40 block forwards, 20% of",
        "50.00% of the 240,000 weights of its pruned matrices are zero",
        "Counted in the files: 50.00% of all 240,000 stored weights",
        "Zeros in weights (50% zeros, sparsellm) save no time",
        "blocks 20% + sparsity 30%",
        "llmprune blocks 10%",
        "a ship & <b>more</b>.",
        "Abacus 9000",
        "abababababab",  # the model's fingerprint
        "lm-eval 0.4.13, the first 2 items of sea",
    ):
        assert words in shown, words
    assert "type:" not in shown


def test_every_section_has_a_place_and_a_link():
    outline = Outline(page_of(contents()))
    ids = [value for _, name, value in outline.attributes if name == "id"]
    links = [value for tag, name, value in outline.attributes if (tag, name) == ("a", "href")]
    assert len(set(ids)) == len(ids)
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert len(links) == 6


def test_the_page_loads_nothing():
    page = page_of(contents())
    outline = Outline(page)
    assert "default-src 'none'" in page
    assert not [value for _, name, value in outline.attributes if name in {"src", "srcset", "action", "data"}]
    hrefs = [value for _, name, value in outline.attributes if name in {"href", "xlink:href"}]
    assert all(value.startswith("#") or value == "data:," for value in hrefs)
    assert not re.search(r"https?://|@import|url\((?!#)|fetch\(|XMLHttp", page)


MISSING = {
    "calibration alone": (
        dict(EMPTY, calibration=calibration()),
        ["llmprune verify-redundancy", "llmprune bench", "llmprune sweep"],
    ),
    "no sweep": ({"sweep": None}, ["llmprune sweep --targets"]),
    "no samples": ({"generations": None}, ["llmprune report --prompt"]),
    "no zeros": ({"checkpoints": (removed(),)}, ["llmprune global-prune --sparsity"]),
    "no benchmark": ({"measurements": (), "sweep": None}, ["Nothing was measured in this run yet", "llmprune bench"]),
    "no search": ({"importance": None}, ["No blocks were ranked", "llmprune verify-redundancy --target"]),
    "no speed": (
        {
            "measurements": (
                replace(
                    measurements()[0],
                    result=bench(model_result("sea-6of8", ppl=2.0, speed=1.0, blocks=6, parameters=1), speed=None),
                ),
            )
        },
        ["Speed was not measured", "llmprune bench --no-ppl"],
    ),
}


@pytest.mark.parametrize("case", MISSING)
def test_what_is_missing_is_said_with_what_to_type(case):
    changes, words = MISSING[case]
    shown = text_of(contents(**changes))
    assert all(one in shown for one in words)


def test_a_checkpoint_that_was_not_measured_is_named():
    shown = text_of(contents(measurements=measurements()[:1]))
    assert "50% zeros, sparsellm (sea-50) was not measured." in shown
    assert "type: llmprune bench made-run/sea-50" in shown


def test_zeros_that_no_benchmark_counted_are_told_from_the_record():
    assert "No benchmark has counted the zeros" in text_of(contents(measurements=()))


@pytest.mark.parametrize("counted", [True, False])
def test_the_zeros_of_a_mask_are_told_and_drawn_once_they_are_counted(counted):
    made = contents()
    names = tuple(tensor.name for tensor in made.measurements[1].result.model.sparsity.tensors)
    mask = MaskApplication(
        mask="other.mask",
        sha256="0" * 64,
        fingerprint="0" * 64,
        pattern="2:4",
        tensors=names,
        numel=240_000,
        zeros_before=0,
        zeros=120_000,
    )
    record = made.checkpoints[1].record.model_copy(update={"sparsity": None, "masked": mask})
    masked = replace(made, checkpoints=(Checkpoint("sea-50", record),))
    shown = text_of(masked if counted else replace(masked, measurements=(), sweep=None))
    assert "2:4 zeros, by mask: 50.00% of the 240,000 weights that the mask of other.mask names are zero" in shown
    assert ("Share of zeros by block and matrix" in shown) == counted
    assert ("No benchmark has counted" in shown) != counted


def test_a_sweep_that_was_interrupted_is_said_to_be_one():
    half = contents().sweep.model_copy(update={"planned": (*contents().sweep.planned, "blocks 40%")})
    assert "Still to be done: blocks 40%." in text_of(contents(sweep=half))


def test_a_point_that_was_left_out_is_said_to_be():
    skipped = SkippedPoint(name="blocks 40%", reason="Nothing is left.")
    sweep = contents().sweep.model_copy(update={"planned": ("blocks 40%",), "skipped": (skipped,)})
    shown = text_of(contents(sweep=sweep))
    assert "Left out: blocks 40%. Nothing is left." in shown
    assert "Still to be done" not in shown


def test_one_shot_scores_are_a_table():
    shown = text_of(contents(importance=scored()))
    assert "Blocks by angular" in shown
    assert "0.2000" in shown


def test_names_and_texts_are_never_markup():
    evil = "<script>alert(1)</script>\"'&"
    written = contents().generations
    said = written.models[0].model_copy(update={"texts": (evil,)})
    made = contents(
        model=evil,
        run=evil,
        remarks=(evil,),
        generations=written.model_copy(update={"prompts": (evil,), "models": (said,)}),
    )
    page = page_of(made)
    assert "<script>alert" not in page
    assert text_of(made).count(evil) >= 5


def test_captions_speak_of_nothing_that_is_not_drawn():
    alone = text_of(contents(**{**EMPTY, "calibration": calibration()}))
    assert "costs one pass over the model" in alone
    assert not any(words in alone for words in ("SLEB decides by", "Hollow bars", "in colour"))
    everything = text_of(contents())
    assert all(words in everything for words in ("SLEB decides by", "Hollow bars", "in colour", "costs one pass"))


def test_remarks_on_the_artifacts_are_shown():
    assert "bench/0.json is left out" in text_of(contents(remarks=("bench/0.json is left out.",)))


COMMANDS = {
    "calibrate": calibrate_command(calibration()),
    "calibrate otherwise": calibrate_command(
        calibration().model_copy(update={"seed": None, "sampling": "rows", "cache": "all", "bos": True})
    ),
    "search": search_command(importance()),
    "search by scores": search_command(scored()),
    "bench": bench_command(measurements()[0].result),
    "bench of tasks": bench_command(measurements()[0].result.model_copy(update={"perplexity": (), "speed": None})),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_that_are_shown_can_be_typed(name):
    """Every option is one that the command line knows: it gets as far as looking for the model."""
    from llmprune.cli.app import app

    words = shlex.split(COMMANDS[name])
    assert words[0] == "llmprune"
    result = CliRunner().invoke(app, [*words[1:], "--run", "/nosuch/run"], env={"HF_HUB_OFFLINE": "1"})
    assert "No such option" not in result.stderr
    assert MODEL.name.split("/")[0] in result.stderr or "sea-6of8" in result.stderr, result.stderr


def test_commands_say_all_that_the_artifact_says():
    assert COMMANDS["calibrate"].endswith(
        "--source sea.txt --samples 16 --seq-len 512 --seed 3 --bos never --dtype float32"
    )
    assert "--target 2 --search eliminate --error-rate 0.001" in COMMANDS["search"]
    for words in (
        "--ppl sea.txt --ppl-seq-len 512 --max-windows 2",
        "--tasks sea --limit 2",
        "--batch 8 --gen 32 --prompt 64",
    ):
        assert words in COMMANDS["bench"]
    assert "--no-ppl" in COMMANDS["bench of tasks"]
    odd = calibration().model_copy(
        update={"corpus": calibration().corpus.model_copy(update={"name": "my sea; rm.txt"})}
    )
    assert shlex.split(calibrate_command(odd))[4] == "my sea; rm.txt"
    assert text_of(contents(calibration=odd)).count("'my sea; rm.txt'") == 1

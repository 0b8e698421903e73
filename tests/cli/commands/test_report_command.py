"""llmprune report: what it prints, and what it refuses in one sentence."""

from __future__ import annotations

import json

import pytest

from tests.cli.world import refused
from tests.edits import edit_json
from tests.tiny import save_tiny_llama


def test_it_says_where_the_page_is_and_what_is_missing(run, llmprune):
    result = llmprune("report", run)
    assert result.exit_code == 0, result.stderr
    assert (run / "report" / "index.html").is_file()
    assert (run / "report" / "losses.png").is_file()
    shown = " ".join(result.stdout.split())
    assert f"Written to {run / 'report' / 'index.html'} (" in shown
    assert "Nothing was measured in this run yet. To have it in the report, type: llmprune bench" in shown
    assert "The same 2 figures as PNG beside it." in shown


def test_json_says_the_same(run, tmp_path, llmprune):
    result = llmprune("report", "--run", run, "--out", tmp_path / "page", "--json", "--quiet")
    said = json.loads(result.stdout)
    assert said["page"] == str(tmp_path / "page" / "index.html")
    assert said["figures"] == [str(tmp_path / "page" / name) for name in ("losses.png", "depth.png")]
    assert {"what": "Nothing was measured in this run yet.", "command": "llmprune bench"} in said["missing"]
    assert result.stderr == ""
    assert not (run / "report").exists()


def test_the_argument_goes_before_the_option(run, tmp_path, llmprune):
    assert llmprune("report", run, "--run", tmp_path / "nowhere", "--out", tmp_path / "page").exit_code == 0


def test_prompts_are_continued_and_kept(run, llmprune):
    result = llmprune("report", run, "--prompt", "the sea", "--prompt", "a boat", "--quiet")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads((run / "samples.json").read_text())["prompts"] == ["the sea", "a boat"]
    assert "No model was asked" not in result.stdout
    assert "a boat" in (run / "report" / "index.html").read_text()
    kept = llmprune("report", run)
    assert "No model was asked" not in kept.stdout


def test_samples_that_llmprune_did_not_write_are_not_replaced(run, llmprune):
    (run / "samples.json").write_text('{"mine": 1}')
    refused(llmprune, run.parent, ["report", run, "--prompt", "the sea"])
    assert (run / "samples.json").read_text() == '{"mine": 1}'


def _nothing(world):
    return world.folder / "nothing"


def _empty(world):
    (world.folder / "empty").mkdir()
    return world.folder / "empty"


def _a_file(world):
    return world.text


def _other_schema(name, **changes):
    def damage(world):
        path = world.run / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_text("{}")
        edit_json(path, **changes)
        return world.run

    return damage


def _broken(name, text):
    def damage(world):
        path = world.run / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return world.run

    return damage


def _two_models(world):
    content = json.loads((world.run / "importance.json").read_text())
    world.edit_json(world.run / "importance.json", model={**content["model"], "name": "other", "fingerprint": "0" * 64})
    return world.run


RUNS = {
    "no such run": (_nothing, "holds nothing to report yet; type: llmprune quickstart"),
    "an empty run": (_empty, "holds nothing to report yet; type: llmprune quickstart"),
    "a file": (_a_file, "is a file; type --run OTHER"),
    "a benchmark of schema 1": (_other_schema("bench/1.json", kind="llmprune-bench", schema_version=1), "has schema 1"),
    "a search of schema 9": (_other_schema("importance.json", schema_version=9), "has schema 9"),
    "a sweep of schema 9": (_other_schema("sweep.json", kind="llmprune-sweep", schema_version=9), "has schema 9"),
    "samples of another kind": (_other_schema("samples.json", kind="poem"), "is of kind 'poem'"),
    "samples without texts": (
        _broken(
            "samples.json",
            '{"kind": "llmprune-samples", "schema_version": 1, "prompts": ["a"], "new_tokens": 1, "dtype": "float32", '
            '"repetition_penalty": 1, "models": [{"name": "m", "texts": [], "model": {"name": "m", "fingerprint": "0", '
            '"model_type": "llama", "num_blocks": 1, "num_parameters": 1}}]}',
        ),
        "there is not one text for each prompt",
    ),
    "a benchmark in broken JSON": (_broken("bench/1.json", "?"), "is not valid JSON"),
    "artifacts of two models": (_two_models, "holds artifacts of two models"),
}


@pytest.mark.parametrize("case", RUNS)
def test_a_run_that_cannot_be_reported_is_refused(case, world, llmprune):
    damage, words = RUNS[case]
    run = damage(world)
    assert words in refused(llmprune, world.folder, ["report", run])


OPTIONS = {
    "an empty prompt": (["--prompt", ""], "A prompt is empty"),
    "a prompt without end": (["--prompt", "sea " * 80], "leaves no room for 40 more"),
    "an unknown device": (["--prompt", "a", "--device", "abacus"], "abacus"),
    "a place that is taken": (["--out", "{intact}"], "which llmprune did not write; give another directory with --out"),
    "the run itself": (["--out", "{run}"], "which llmprune did not write"),
    "a file": (
        ["--out", "{text}"],
        "is a file, where a folder of llmprune's was expected; give another directory with --out",
    ),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_make_no_sense_are_refused(case, world, llmprune):
    words, complaint = OPTIONS[case]
    places = {"intact": world.intact, "run": world.run, "text": world.text}
    typed = [word.format(**places) for word in words]
    assert complaint in refused(llmprune, world.folder, ["report", world.run, *typed])


def test_a_prompt_in_a_run_without_a_model_is_refused(world, llmprune):
    words = ["report", world.folder / "new", "--prompt", "the sea"]
    assert "has no model yet" in refused(llmprune, world.folder, words)


def test_hostile_names_stay_text(tmp_path, text, llmprune):
    model = save_tiny_llama(tmp_path / "<img src=x onerror=alert(1)>")
    run = tmp_path / "run"
    words = ["calibrate", model, "--source", text, "--samples", 24, "--seq-len", 32, "--run", run]
    assert llmprune(*words).exit_code == 0
    assert llmprune("report", run).exit_code == 0
    page = (run / "report" / "index.html").read_text()
    assert "<img" not in page
    assert "&lt;img src=x" in page

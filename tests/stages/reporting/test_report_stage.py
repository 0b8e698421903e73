"""report: reads a real run, draws what it holds, leaves out what is outdated, and replaces nothing but reports."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from llmprune.artifacts.activations import MANIFEST
from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.records.generations import Generations
from llmprune.artifacts.records.importance import Importance
from llmprune.artifacts.run import RunDirectory
from llmprune.errors import ArtifactError, ModelError, OutputExistsError, TargetError
from llmprune.models.compute import choose_compute
from llmprune.models.loading import load_tokenizer, load_whole
from llmprune.stages.benchmark import BenchSettings, bench
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from llmprune.stages.common.workspace import open_workspace
from llmprune.stages.reporting import read_contents, report
from llmprune.stages.reporting.generations import NEW_TOKENS, write_generations
from tests.edits import edit_json
from tests.report.made import sweep
from tests.tiny import POSITIONS, Listener, save_tiny_llama, snapshot

CPU = choose_compute("cpu")
PROMPT = "the sea is"


@pytest.fixture
def pruned(workspace) -> RunDirectory:
    """A run with calibration, search and a checkpoint."""
    remove_blocks(workspace, RemovalSettings(target="2", verify=False))
    return workspace.run


@pytest.fixture
def measured(pruned, text) -> RunDirectory:
    settings = BenchSettings(ppl=(str(text),), ppl_seq_len=32, max_windows=3, speed=False)
    bench(pruned, model=None, baseline=None, settings=settings, compute=CPU, progress=Listener())
    return pruned


def write(run, **options):
    return report(run, progress=Listener(), **options)


def test_a_page_and_its_figures_tell_what_the_artifacts_say(measured):
    written = write(measured)
    page = written.page.read_text()
    importance = Importance.read(measured.importance)
    result = BenchResult.read(next(measured.bench.iterdir()))
    assert written.page == measured.report / "index.html"
    for figure in (
        f"from {importance.dense_loss:.4f} to {importance.rounds[-1].loss:.4f} nats/token",
        f"{result.model.perplexity[0].perplexity.value:.2f}",
        f"{result.baseline.perplexity[0].perplexity.value:.2f}",
        f"{result.metrics['ppl_ratio'].value:.3f}",
        importance.model.fingerprint[:12],
        measured.existing_checkpoints()[0].name,
    ):
        assert figure in page
    assert str(measured.path) not in page
    assert {path.name for path in written.figures} == {"quality.png", "losses.png", "depth.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG\r\n") for path in written.figures)
    assert {path.name for path in measured.report.iterdir()} == {"index.html", *(path.name for path in written.figures)}
    assert [one.command.split()[1] for one in written.missing] == ["bench", "global-prune", "sweep", "report"]


def test_a_report_changes_nothing_else_in_the_run(measured):
    before = snapshot(measured.path)
    write(measured)
    after = {name: content for name, content in snapshot(measured.path).items() if not name.startswith("report")}
    assert after == before


def test_a_later_report_replaces_the_earlier_one_whole(measured):
    write(measured)
    shutil.rmtree(measured.bench)
    written = write(measured)
    assert not (measured.report / "quality.png").exists()
    assert "Nothing was measured in this run yet" in written.page.read_text()


def test_a_calibration_alone_has_a_page(workspace):
    written = write(workspace.run)
    assert {path.name for path in written.figures} == {"depth.png"}
    assert any("verify-redundancy" in one.command for one in written.missing)


def test_what_the_models_write_is_what_they_write(pruned):
    generations = write_generations(pruned, [PROMPT, "a boat"], compute=CPU, progress=Listener())
    directories = [pruned.located(pruned.record().directory), *pruned.existing_checkpoints()]
    assert Generations.read(pruned.generations) == generations
    assert [one.name for one in generations.models] == [pruned.record().name, directories[1].name]
    assert generations.models[0].model.fingerprint != generations.models[1].model.fingerprint
    for directory, one in zip(directories, generations.models, strict=True):
        tokenizer = load_tokenizer(directory)
        model = load_whole(directory, device=CPU.device, dtype=getattr(torch, generations.dtype))
        given = tokenizer(PROMPT, return_tensors="pt")
        output = model.generate(**given, do_sample=False, max_new_tokens=NEW_TOKENS, repetition_penalty=1.2)
        assert tokenizer.decode(output[0], skip_special_tokens=True) == PROMPT + one.texts[0]
    assert "a boat" in write(pruned).page.read_text()


@pytest.mark.parametrize(
    ("prompts", "words"),
    [([PROMPT, " "], "A prompt is empty"), (["x" * (POSITIONS - NEW_TOKENS + 1)], "leaves no room for 40 more")],
)
def test_prompts_that_nothing_can_follow_are_refused(prompts, words, pruned):
    with pytest.raises(TargetError, match=words):
        write_generations(pruned, prompts, compute=CPU, progress=Listener())
    assert not pruned.generations.exists()


def test_a_prompt_of_tokens_without_embeddings_is_refused(tmp_path):
    small = save_tiny_llama(tmp_path / "small", vocab_size=60)  # of the 99 tokens of its tokenizer
    workspace = open_workspace(tmp_path / "run", str(small), compute=CPU)
    remove_blocks(workspace, RemovalSettings(blocks=(1,), verify=False))
    with pytest.raises(ModelError, match="and the model has embeddings for 60 tokens"):
        write_generations(workspace.run, [PROMPT], compute=CPU, progress=Listener())


def test_nobody_writes_in_a_run_without_a_model(tmp_path):
    with pytest.raises(ArtifactError, match="has no model yet"):
        write_generations(RunDirectory(tmp_path / "new"), [PROMPT], compute=CPU, progress=Listener())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("which", ["model", "baseline", "older"])
def test_a_benchmark_of_other_weights_is_left_out(measured, which):
    """Of weights that the checkpoint, or the dense model, had before; in an old file, of an older checkpoint."""
    [checkpoint] = measured.existing_checkpoints()
    [bench] = measured.bench.glob("*.json")
    assert len(read_contents(measured).measurements) == 1
    content = json.loads(bench.read_text())
    if which == "older":
        edit_json(bench, model={**content["model"], "weights": None})
        edit_json(checkpoint / "llmprune.json", created="2999-01-01T00:00:00+00:00")
    else:
        edit_json(bench, **{which: {**content[which], "weights": {"fingerprint": "0" * 64, "sha256": "0" * 64}}})
    contents = read_contents(measured)
    assert contents.measurements == ()
    assert "is left out: it measured other weights than" in contents.remarks[0]
    assert "is left out" in write(measured).page.read_text()


def test_a_calibration_made_anew_is_remarked_upon(pruned):
    edit_json(pruned.calibration / "manifest.json", windows_fingerprint="0" * 64)
    assert any("another calibration" in remark for remark in read_contents(pruned).remarks)


def test_generations_older_than_a_checkpoint_are_remarked_upon(pruned):
    write_generations(pruned, [PROMPT], compute=CPU, progress=Listener())
    assert read_contents(pruned).remarks == ()
    edit_json(pruned.generations, created="2000-01-01T00:00:00+00:00")
    assert any("samples.json is older than" in remark for remark in read_contents(pruned).remarks)


def test_a_run_that_only_measured_has_a_page(tmp_path, model, text):
    run = RunDirectory(tmp_path / "only")
    settings = BenchSettings(ppl=(str(text),), ppl_seq_len=32, max_windows=3, speed=False)
    bench(run, model=str(model), baseline=None, settings=settings, compute=CPU, progress=Listener())
    contents = read_contents(run)
    assert contents.model == model.name
    assert "Nothing was measured" not in write(run).page.read_text()


def test_a_benchmark_that_is_a_copy_of_another_is_left_out(measured):
    (path,) = measured.bench.iterdir()
    shutil.copyfile(path, measured.bench / "later.json")
    contents = read_contents(measured)
    assert [one.file for one in contents.measurements] == [path.name]
    assert f"bench/later.json is left out: it is a copy of bench/{path.name}." in contents.remarks


def test_a_sweep_whose_benchmarks_are_gone_says_so(tmp_path):
    run = RunDirectory(tmp_path / "only")
    run.path.mkdir()
    made = sweep()
    made.write(run.sweep)
    remarks = [remark for remark in read_contents(run).remarks if "the same sweep measures it again" in remark]
    assert len(remarks) == 1 + len(made.points)
    assert remarks[0].startswith(f"{made.dense.bench} is not the benchmark of 'dense' any more")


def test_of_a_sweeps_points_only_the_newest_stands_for_a_run_without_others(pruned):
    [own] = pruned.existing_checkpoints()
    point = pruned.sweep_folder / "point"
    shutil.copytree(own, point)
    pruned.remember_checkpoint(point, pruned.record())
    assert pruned.existing_checkpoints() == [own, point]
    assert pruned.own_checkpoints() == [own]
    assert [one.name for one in read_contents(pruned).checkpoints] == [own.name]
    shutil.rmtree(own)
    assert pruned.own_checkpoints() == [point]


def test_artifacts_of_two_models_are_not_put_beside_each_other(pruned):
    path = pruned.calibration / "manifest.json"
    known = json.loads(path.read_text())["model"]
    edit_json(path, model={**known, "name": "other", "fingerprint": "0" * 64})
    with pytest.raises(ArtifactError, match=r"holds artifacts of two models: .* is of other"):
        write(pruned)
    assert not pruned.report.exists()


def test_a_checkpoint_of_a_checkpoint_belongs_to_the_first_model(pruned, tmp_path, open_run):
    [first] = pruned.existing_checkpoints()
    other = RunDirectory(tmp_path / "second")
    workspace = open_workspace(other.path, str(first), compute=CPU)
    remove_blocks(workspace, RemovalSettings(blocks=(1,), verify=False))
    assert read_contents(other).checkpoints[0].record.source_record is not None
    write(other)


OTHERS = {
    "a folder of the user's": {"notes.txt": "mine"},
    "a page that is not ours": {"index.html": "<!doctype html><p>mine</p>"},
    "pictures without a page": {"holiday.png": "sun"},
    "a picture that the page did not draw": {
        "index.html": '<meta name="generator" content="llmprune 1">\n<meta name="figures" content="depth">',
        "holiday.png": "sun",
    },
    "a report and something else": {"index.html": '<meta name="generator" content="llmprune 1">', "notes.txt": "mine"},
}


@pytest.mark.parametrize("case", OTHERS)
def test_only_a_report_is_replaced(case, pruned, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name, content in OTHERS[case].items():
        (out / name).write_text(content)
    before = snapshot(out)
    with pytest.raises(OutputExistsError, match="which llmprune did not write; give another directory with `out`"):
        write(pruned, out=out)
    assert snapshot(out) == before


def test_a_run_whose_record_is_lost_has_a_page_that_says_so(pruned):
    pruned.record_path.unlink()
    assert any(remark.startswith("run.json is gone") for remark in read_contents(pruned).remarks)


def test_a_calibration_without_its_manifest_is_damaged(pruned):
    (pruned.calibration / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match=r"manifest\.json is missing; run the command that writes it again"):
        read_contents(pruned)


def test_a_report_is_not_replaced_through_a_link(pruned, tmp_path):
    page = write(pruned).page
    pruned.report.rename(tmp_path / "elsewhere")
    pruned.report.symlink_to(tmp_path / "elsewhere")
    before = snapshot(tmp_path / "elsewhere")
    with pytest.raises(OutputExistsError, match="is a link, and llmprune replaces and deletes nothing through links"):
        write(pruned)
    assert snapshot(tmp_path / "elsewhere") == before
    assert page.is_file()


def test_a_file_is_no_place_for_a_report(pruned, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputExistsError, match="is a file"):
        write(pruned, out=tmp_path / "out")


def test_an_empty_folder_or_none_is_a_place_for_a_report(pruned, tmp_path):
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "new" / "deep"):
        assert write(pruned, out=out).page.is_file()


def test_a_report_that_fails_leaves_the_older_one(pruned, monkeypatch):
    before = write(pruned).page.read_text()
    monkeypatch.setattr("llmprune.stages.reporting.stage.to_png", lambda draw: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(pruned)
    assert (pruned.report / "index.html").read_text() == before
    assert {path.name for path in pruned.path.iterdir() if "partial" in path.name} == set()


def test_two_reports_of_one_run_differ_in_nothing_but_the_time(measured):
    pages = [write(measured, out=measured.path / name).page.read_text() for name in ("a", "b")]
    drop = [[line for line in page.splitlines() if "UTC by llmprune" not in line] for page in pages]
    assert drop[0] == drop[1]

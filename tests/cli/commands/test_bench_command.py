"""What only bench has: several texts, sweeps, limits, and words about zeros."""

import gzip
import importlib.util
import io
import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from llmprune.artifacts.records.bench import BenchResult
from tests.cli.conftest import ROOT
from tests.cli.world import refused
from tests.tasks import ITEMS, write_task
from tests.text.conftest import fresh, hub  # noqa: F401 - fixtures: a Hub of data sets

TEXT = ["--ppl-seq-len", "32", "--max-windows", "2"]
SHARED = ROOT.parent / "shared" / "lm_eval_tasks"
ONLY_TASKS = ["--no-ppl", "--no-speed"]
needs_lm_eval = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")
SPEED = ["--no-ppl", "--gen", "2", "--prompt", "3", "--prefill", "8", "--repeats", "2", "--max-seconds", "0"]


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def pruned(run, llmprune):
    assert llmprune("remove-blocks", "--blocks", "2,3", "--run", run, "--no-verify").exit_code == 0
    return run


def parquet(**columns):
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def publish_texts(hub):  # noqa: F811
    """What the papers' three data sets and one of somebody's own look like on the Hub."""
    sea = "the sea is wide and a small boat goes out at dawn"
    documents = "".join(json.dumps({"text": f"{sea} {number}"}) + "\n" for number in range(1_200))
    hub.add("Salesforce/wikitext", {"wikitext-2-raw-v1/test-00000-of-00001.parquet": parquet(text=[sea] * 9)})
    hub.add("allenai/c4", {"en/c4-validation.00000-of-00008.json.gz": gzip.compress(documents.encode())})
    hub.add("ptb-text-only/ptb_text_only", {"ptb_text_only.py": b"raise SystemExit"})
    branch = "refs/convert/parquet"
    hub.add("ptb-text-only/ptb_text_only", {"penn_treebank/test/0000.parquet": parquet(sentence=[sea] * 9)}, branch)
    hub.add("o/n", {"default/held/0000.parquet": parquet(body=[sea] * 9)}, branch)


def test_any_number_of_texts_from_the_hub_and_from_files(hub, process, model, text, tmp_path):  # noqa: F811
    publish_texts(hub)
    specs = ["wikitext2", "ptb", "c4", str(text), "o/n:default:held:body"]
    words = ["bench", model, "--no-speed", "--json", "--ppl-seq-len", 32, "--run", tmp_path / "run"]
    started = process(
        *words,
        *(word for spec in specs for word in ("--ppl", spec)),
        HF_HUB_OFFLINE="0",
        HF_ENDPOINT=hub.endpoint,
        HF_HOME=str(hub.home),
    )
    out, err = started.communicate(timeout=90)
    assert started.returncode == 0, err
    result = json.loads(out)
    names = ["wikitext2", "ptb", "c4", text.name, "o/n:default:held:body"]
    assert [protocol["corpus"]["name"] for protocol in result["perplexity"]] == names
    windows = {protocol["corpus"]["name"]: protocol["windows"] for protocol in result["perplexity"]}
    assert windows["c4"] == 256  # of 1,100 documents joined by a space: 1,800 windows
    for name, measured in zip(names, result["model"]["perplexity"], strict=True):
        assert len(measured["window_losses"]) == windows[name]
        low, high = measured["perplexity"]["interval"]
        assert low <= measured["perplexity"]["value"] <= high
        assert result["metrics"][f"ppl.{name}"] == measured["perplexity"]


def test_two_texts_of_one_name_are_refused(world, llmprune):
    other = world.folder / "other"
    other.mkdir()
    (other / world.text.name).write_text(world.text.read_text())
    words = ["bench", world.intact, *TEXT, "--no-speed", "--ppl", world.text, "--ppl", other / world.text.name]
    assert "2 texts are called sea.txt" in refused(llmprune, world.folder, [*words, "--run", world.folder / "new"])


def test_the_table_has_intervals_and_paired_ratios(pruned, text, llmprune):
    words = [
        "--ppl-seq-len",
        32,
        "--max-windows",
        60,
        "--ppl",
        text,
        "--ppl",
        "python-docs",
        "--no-speed",
        "--run",
        pruned,
    ]
    result = llmprune("bench", *words)
    assert result.exit_code == 0, result.stderr
    for row in ("perplexity, sea.txt", "perplexity, python-docs", "s to load"):
        assert row in result.stdout
    assert result.stdout.count("60 windows of 32 tokens, no BOS, float32; ± 95% intervals over windows") == 2
    measured = BenchResult.read(next((pruned / "bench").iterdir()))
    ratio = measured.metrics["ppl_ratio.sea.txt"]
    assert f"{ratio.value:.3f} ±{(ratio.interval[1] - ratio.interval[0]) / 2 / ratio.value:.1%}" in result.stdout


def test_an_interval_beyond_measure_is_said_to_be_one(run, text, llmprune):
    result = llmprune("bench", "--ppl-seq-len", 8, "--max-windows", 2, "--ppl", text, "--no-speed", "--run", run)
    found = BenchResult.read(next((run / "bench").iterdir())).metrics["ppl"]
    assert ("±>100%" in result.stdout) == (found.interval[1] - found.interval[0] >= 2 * found.value)


def test_batch_sizes_are_swept(pruned, llmprune):
    result = llmprune("bench", *SPEED, "--batch", "1,3", "--run", pruned)
    assert result.exit_code == 0, result.stderr
    for row in ("prompt tokens/s", "generated tokens/s, batch 1", "generated tokens/s, batch 3", "first token, ms, ba"):
        assert row in result.stdout
    for words in ("generation 1, 3 x 2 tokens after 3", "medians of 2 repeats in turn", "attention sdpa", "Energy: "):
        assert words in result.stdout
    measured = BenchResult.read(next((pruned / "bench").iterdir()))
    assert [one.batch for one in measured.model.generation] == [1, 3]
    assert measured.machine.attention == ("sdpa",)
    assert measured.model.load_seconds > 0


def test_quick_gives_way_to_what_was_typed(run, llmprune):
    words = ["bench", "--quick", "--no-ppl", "--batch", 2, "--prefill", 9, "--max-seconds", 0, "--run", run, "--json"]
    speed = json.loads(llmprune(*words).stdout)["speed"]
    assert (speed["batch"], speed["prefill_tokens"], speed["new_tokens"], speed["repeats"]) == ([2], 9, 32, 3)


@pytest.mark.parametrize("as_json", [True, False])
def test_a_limit_that_is_passed_ends_with_3_once_all_is_written(as_json, pruned, text, llmprune):
    limits = ["--fail-if", "ppl_ratio>1.001", "--fail-if", "ppl>1e9"]
    words = ["bench", *TEXT, "--ppl", text, "--no-speed", *limits, "--run", pruned]
    result = llmprune(*words, *["--json"] * as_json)
    assert result.exit_code == 3
    assert "is beyond its limits: ppl_ratio>1.001 (measured: " in result.stderr
    written = BenchResult.read(next((pruned / "bench").iterdir()))
    assert [check.failed for check in written.gate] == [True, False]
    if as_json:
        assert BenchResult.model_validate(json.loads(result.stdout)) == written
    else:
        assert "--fail-if 'ppl_ratio>1.001': HOLDS" in result.stdout
        assert "--fail-if 'ppl>1e9': does not hold" in result.stdout


def test_limits_that_are_kept_end_with_0(pruned, text, llmprune):
    limits = ["--fail-if", "ppl_ratio>1e9", "--fail-if", "params_ratio>=1"]
    assert llmprune("bench", *TEXT, "--ppl", text, "--no-speed", *limits, "--run", pruned).exit_code == 0


def test_zeros_are_counted_in_the_files_and_said_to_buy_no_speed(world, llmprune):
    path = world.model / "model.safetensors"
    weights = load_file(path)
    for name, weight in weights.items():
        if "mlp" in name:
            weight[::2] = 0
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    save_file(weights, path, metadata={"format": "pt"})
    words = ["bench", world.model, "--baseline", world.intact, *TEXT, "--ppl", world.text, "--no-speed"]
    result = llmprune(*words, "--run", world.folder / "new")
    assert result.exit_code == 0, result.stderr
    assert "Its zeros save no time and no memory here" in result.stdout
    assert "rows and 0 columns of matrices are zero throughout" in result.stdout
    measured = BenchResult.read(next((world.folder / "new" / "bench").iterdir()))
    assert measured.model.sparsity.zeros == zeros
    assert measured.baseline.sparsity.zeros == 0
    assert measured.metrics["effective_params"].value == measured.model.num_parameters - zeros
    assert f"{measured.model.num_parameters - zeros:,}" in result.stdout


def test_a_pattern_that_the_record_claims_is_looked_for(run, text, llmprune):
    pruned = llmprune("global-prune", "--pattern", "2:4", "--method", "magnitude", "--no-verify", "--run", run)
    assert pruned.exit_code == 0, pruned.stderr
    result = llmprune("bench", *TEXT, "--ppl", text, "--no-speed", "--run", run)
    assert "The pattern 2:4 holds in all" in result.stdout
    assert "not zero" in result.stdout


def test_a_result_of_an_older_schema_is_refused(pruned, text, llmprune):
    from llmprune.errors import ArtifactError

    llmprune("bench", *TEXT, "--ppl", text, "--no-speed", "--run", pruned)
    path = next((pruned / "bench").iterdir())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 1}))
    with pytest.raises(ArtifactError, match="has schema 1"):
        BenchResult.read(path)


@pytest.fixture
def _own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@needs_lm_eval
@pytest.mark.usefixtures("_own_cache")
def test_tasks_are_asked_of_both_models_and_compared_item_by_item(pruned, tmp_path, llmprune):
    tasks = ["--tasks", "sea", "--lm-eval-include", write_task(tmp_path / "tasks")]
    result = llmprune("bench", *ONLY_TASKS, *tasks, "--fail-if", "acc_diff.sea<=1", "--run", pruned)
    assert result.exit_code == 3, result.stderr
    assert (
        "all items, no BOS, float32; no examples; SE: standard errors, of differences on the same items"
        in result.stdout
    )
    measured = BenchResult.read(next((pruned / "bench").iterdir()))
    assert (measured.tasks.tasks, measured.tasks.limit) == (("sea",), None)
    assert [(one.task, one.metric) for one in measured.differences] == [("sea", "acc"), ("sea", "acc_norm")]
    for one, other, difference in zip(measured.model.tasks, measured.baseline.tasks, measured.differences, strict=True):
        assert len(one.items) == len(other.items) == len(ITEMS)
        assert difference.difference == pytest.approx(one.accuracy - other.accuracy)
        assert f"{difference.difference:+.3f} (SE {difference.stderr:.3f})" in result.stdout
        assert measured.metrics[f"{one.metric}_diff.sea"].value == pytest.approx(difference.difference)


@needs_lm_eval
@pytest.mark.usefixtures("_own_cache")
def test_quiet_is_quiet_with_tasks_too(model, tmp_path, llmprune, caplog):
    tasks = ["--tasks", "sea", "--lm-eval-include", write_task(tmp_path / "tasks"), "--limit", 2]
    result = llmprune("bench", model, *ONLY_TASKS, *tasks, "--quiet", "--run", tmp_path / "run")
    assert (result.exit_code, result.stderr, caplog.text) == (0, "", "")
    assert "the first 2 items of each task" in result.stdout


@needs_lm_eval
def test_an_unknown_task_is_refused(world, llmprune):
    words = ["bench", world.intact, *ONLY_TASKS, "--tasks", "piqua", "--run", world.folder / "new"]
    assert "There is no task 'piqua' in lm-eval" in refused(llmprune, world.folder, words)


def test_without_lm_eval_the_message_says_what_to_install(world, llmprune, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    words = ["bench", world.intact, *ONLY_TASKS, "--tasks", "piqa", "--run", world.folder / "new"]
    assert "pip install 'llmprune[eval]'" in refused(llmprune, world.folder, words)


@needs_lm_eval
@pytest.mark.usefixtures("_own_cache")
@pytest.mark.skipif(not SHARED.is_dir(), reason="no task files in ../shared")
def test_the_shared_task_files_work(model, tmp_path, monkeypatch, llmprune):
    monkeypatch.chdir(ROOT)  # their data files are named from here
    tasks = ["--tasks", "piqa_local,arc_easy_local", "--lm-eval-include", SHARED, "--limit", 3]
    result = llmprune("bench", model, *ONLY_TASKS, *tasks, "--json", "--run", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    measured = BenchResult.model_validate(json.loads(result.stdout))
    assert {(one.task, len(one.items)) for one in measured.model.tasks} == {("piqa_local", 3), ("arc_easy_local", 3)}

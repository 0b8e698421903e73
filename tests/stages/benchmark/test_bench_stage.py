"""bench: the plain model's perplexity under a stated protocol, and sensible defaults."""

import gc
import json
import weakref
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmprune.artifacts.records.bench import BenchResult
from llmprune.artifacts.run import RunDirectory
from llmprune.choices import DeviceMap
from llmprune.errors import ArtifactError, CheckpointError, ModelError, TargetError
from llmprune.models.compute import Compute, choose_compute
from llmprune.models.loading import load_whole
from llmprune.stages.benchmark import QUICK, BenchSettings, bench, subjects
from llmprune.stages.benchmark.subjects import CheckpointSubject
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from tests.tasks import write_task, write_written_task
from tests.tiny import NUM_BLOCKS, POSITIONS, Listener, save_tiny_llama, snapshot

SPEED = BenchSettings(ppl=(), batch=(2,), gen=3, prompt=4, prefill=8, repeats=3, max_seconds=0)


@pytest.fixture
def only_text(text) -> BenchSettings:
    return BenchSettings(ppl=(str(text),), ppl_seq_len=64, max_windows=5, speed=False)


@pytest.fixture
def pruned(workspace):
    return remove_blocks(workspace, RemovalSettings(blocks=(1, 3))).directory


def measure(run, settings, *, model=None, baseline=None):
    path = run if isinstance(run, RunDirectory) else RunDirectory(run)
    options = {"settings": settings, "compute": choose_compute("cpu"), "progress": Listener()}
    return bench(path, model=model and str(model), baseline=baseline and str(baseline), **options)


def plain_perplexity(directory, text, seq_len, windows):
    ids = AutoTokenizer.from_pretrained(directory)(text.read_text(), verbose=False)["input_ids"]
    tokens = torch.tensor(ids[: seq_len * windows]).view(windows, seq_len)
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(directory).eval()(tokens).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).exp().item()


def test_a_run_that_cannot_be_written_is_found_out_before_anything_is_measured(run, model, only_text, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setattr(CheckpointSubject, "open", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(ArtifactError, match=r"Cannot write in .* type `run=OTHER`"):
        measure(run, only_text, model=model)
    assert not run.exists()


@pytest.mark.parametrize(("settings", "usual"), [(BenchSettings(), 2048), (QUICK, 512)])
def test_lengths_that_were_not_typed_are_those_that_a_short_model_has(settings, usual):
    assert settings.lengths(4096) == (usual, usual)
    assert settings.lengths(200) == (200, 200)


def test_perplexity_is_that_of_plain_transformers(workspace, pruned, only_text, text, model):
    result, _ = measure(workspace.run, only_text)
    for one, directory in ((result.model, pruned), (result.baseline, model)):
        found = one.perplexity[0].perplexity.value
        assert found == pytest.approx(plain_perplexity(directory, text, 64, 5), rel=1e-4)


def test_the_protocol_stands_beside_the_numbers(workspace, pruned, only_text, text):
    result, path = measure(workspace.run, only_text)
    (protocol,) = result.perplexity
    assert (protocol.seq_len, protocol.windows, protocol.bos) == (64, 5, False)
    assert protocol.corpus.name == text.name
    assert (result.dtype, result.device, result.speed) == ("float32", "cpu", None)
    assert path.parent == workspace.run.bench
    assert BenchResult.read(path) == result


def test_the_newest_checkpoint_is_measured_beside_its_source(workspace, pruned, only_text):
    newest = remove_blocks(workspace, RemovalSettings(blocks=(2,))).directory
    result, _ = measure(workspace.run, only_text)
    assert (result.model.name, result.baseline.name) == (newest.name, "tiny")
    assert (result.model.num_blocks, result.baseline.num_blocks) == (NUM_BLOCKS - 1, NUM_BLOCKS)


def test_a_run_without_pruned_checkpoints_measures_its_model_alone(workspace, only_text):
    result, _ = measure(workspace.run, only_text)
    assert (result.model.name, result.baseline) == ("tiny", None)


def test_a_model_that_no_run_knows_is_measured_alone(run, model, only_text):
    result, path = measure(run, only_text, model=model)
    assert (result.model.num_blocks, result.baseline) == (NUM_BLOCKS, None)
    assert path.is_file()


def test_a_baseline_may_be_named(run, pruned, model, only_text, tmp_path):
    result, _ = measure(tmp_path / "other", only_text, model=pruned, baseline=model)
    assert result.baseline.num_blocks == NUM_BLOCKS


def test_speed_is_measured_in_as_many_repeats_as_were_asked_for(workspace, pruned):
    result, _ = measure(workspace.run, SPEED)
    for one in (result.model, result.baseline):
        (generation,) = one.generation
        for series in (generation.tokens_per_second, generation.first_token_ms, one.prompt):
            assert len(series.values) == 3
            assert min(series.values) > 0
        assert one.peak_bytes >= one.weight_bytes
    speed = result.speed
    assert (speed.batch, speed.new_tokens, speed.prompt_tokens, speed.prefill_tokens) == ((2,), 3, 4, 8)


def test_two_results_never_share_a_file(workspace, only_text):
    paths = {measure(workspace.run, only_text)[1] for _ in range(2)}
    assert len(paths) == 2


def test_lengths_fit_a_short_model_by_themselves(workspace, text):
    settings = BenchSettings(ppl=(str(text),), max_windows=1, batch=(1,), gen=2, prompt=2, repeats=1, max_seconds=0)
    result, _ = measure(workspace.run, settings)
    assert (result.perplexity[0].seq_len, result.speed.prefill_tokens) == (POSITIONS, POSITIONS)


@pytest.mark.parametrize("wrong", [{"ppl_seq_len": 1000}, {"prefill": 1000}, {"gen": 250, "prompt": 100}])
def test_lengths_beyond_the_models_positions_are_refused(wrong, workspace, text, run):
    before = snapshot(run)
    with pytest.raises(TargetError, match=f"{POSITIONS} positions"):
        measure(workspace.run, replace(SPEED, ppl=(str(text),), **wrong))
    assert snapshot(run) == before


@pytest.mark.parametrize(
    ("wrong", "argument"),
    [
        ({"batch": (1, 0)}, "`batch=0`"),
        ({"gen": -1}, "`gen=-1`"),
        ({"repeats": 0}, "`repeats=0`"),
        ({"max_windows": 0}, "`max_windows=0`"),
        ({"ppl_seq_len": 1}, "`ppl_seq_len=1`"),
        ({"max_seconds": -1}, "`max_seconds=-1`"),
        ({"limit": 3}, "`tasks`"),
    ],
)
def test_numbers_that_no_model_allows_are_refused(wrong, argument):
    with pytest.raises(TargetError, match=argument):
        BenchSettings(**wrong)


def test_nothing_to_measure_is_refused():
    with pytest.raises(TargetError, match="nothing to measure"):
        BenchSettings(ppl=(), speed=False, agreement=0)


def test_greedy_agreement_of_a_model_alone_is_nothing(run, model):
    with pytest.raises(TargetError, match="nothing to measure"):
        measure(run, BenchSettings(ppl=(), speed=False), model=model)


def test_models_that_tokenise_differently_are_not_compared(workspace, only_text, tmp_path, run):
    other = save_tiny_llama(tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["e"], vocabulary["f"] = vocabulary["f"], vocabulary["e"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    before = snapshot(run)
    with pytest.raises(ModelError, match="different tokens"):
        measure(workspace.run, only_text, model=other)
    assert snapshot(run) == before


def test_a_model_whose_config_asks_for_more_blocks_than_there_are_is_not_measured(run, only_text, tmp_path):
    wrong = save_tiny_llama(tmp_path / "wrong")
    config = json.loads((wrong / "config.json").read_text()) | {"num_hidden_layers": 99}
    (wrong / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="promises 99 blocks"):
        measure(run, only_text, model=wrong)
    assert not run.exists()


def test_leaving_out_a_bos_that_belongs_there_is_remarked_upon(run, tmp_path, only_text):
    directory = save_tiny_llama(tmp_path / "adds")
    path = directory / "tokenizer.json"
    special = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": template}))
    listener = Listener()
    for bos, expected in (("auto", True), ("never", False)):
        settings = replace(only_text, bos=bos)
        compute = choose_compute("cpu")
        result, _ = bench(
            RunDirectory(run),
            model=str(directory),
            baseline=None,
            settings=settings,
            compute=compute,
            progress=listener,
        )
        assert result.perplexity[0].bos is expected
        assert listener.heard("far too high") is not expected


def test_no_path_of_this_machine_stands_in_a_result(workspace, pruned, only_text, text, run):
    _, path = measure(workspace.run, only_text)
    assert str(text.parent) not in path.read_text()
    assert str(run.parent) not in path.read_text()


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(Compute, "free_bytes", lambda _: 1000)


def test_models_larger_than_memory_have_the_same_perplexity_block_by_block(
    workspace, pruned, only_text, monkeypatch, request
):
    whole, _ = measure(workspace.run, only_text)
    request.getfixturevalue("little_memory")
    monkeypatch.setattr(subjects, "load_whole", None)  # nothing is loaded whole
    streamed, _ = measure(workspace.run, only_text)
    of_whole_models = {"load_seconds", "agreement", "agreed_tokens"}
    assert streamed.agreement is None
    assert streamed.metrics == {name: value for name, value in whole.metrics.items() if name not in of_whole_models}
    with pytest.raises(TargetError, match="measures no 'load_seconds'"):
        measure(workspace.run, replace(only_text, fail_if=("load_seconds>1",)))
    for one, other in ((streamed.model, whole.model), (streamed.baseline, whole.baseline)):
        assert one.perplexity == other.perplexity
        assert one.load_seconds is None


def test_a_model_larger_than_memory_is_asked_tasks_but_writes_no_answers(
    workspace, pruned, little_memory, only_text, tmp_path
):
    folder = write_task(tmp_path / "tasks")
    write_written_task(folder, [{"question": "the sea", "answer": " is"}])
    settings = replace(only_text, tasks=("sea",), lm_eval_include=folder)
    found, _ = measure(workspace.run, settings)
    assert {one.task for one in found.model.tasks} == {"sea"}
    with pytest.raises(TargetError, match=r"are free; type no tide in `tasks`: "):
        measure(workspace.run, replace(settings, tasks=("sea", "tide")))


def test_a_model_that_is_spread_over_devices_writes_the_same_and_is_measured_block_by_block(
    workspace, pruned, only_text, monkeypatch, tmp_path
):
    settings = replace(only_text, agreement=2)
    plain, _ = measure(workspace.run, settings)
    maps = []

    def load(directory, **options):
        model = load_whole(directory, **options)
        maps.append(options["memory_map"].keys())
        return model

    monkeypatch.setattr(subjects, "load_whole", load)
    compute = choose_compute("cpu", device_map=DeviceMap.AUTO)
    spread, _ = bench(workspace.run, model=None, baseline=None, settings=settings, compute=compute, progress=Listener())
    names = {"cpu", *range(torch.cuda.device_count())}
    assert maps == [names] * 2
    for one, other in ((spread.model, plain.model), (spread.baseline, plain.baseline)):
        assert (one.perplexity, one.greedy, one.agreement) == (other.perplexity, other.greedy, other.agreement)
        assert one.load_seconds > 0
    folder = write_task(tmp_path / "tasks")
    write_written_task(folder, [{"question": "the sea", "answer": " is"}])
    written = replace(settings, tasks=("tide",), lm_eval_include=folder)
    with pytest.raises(TargetError, match="does not write the answers of tide"):
        bench(workspace.run, model=None, baseline=None, settings=written, compute=compute, progress=Listener())


def test_speed_of_models_larger_than_memory_is_refused_before_any_is_loaded(
    workspace, pruned, little_memory, monkeypatch
):
    monkeypatch.setattr(CheckpointSubject, "open", lambda *_, **__: pytest.fail("a model was opened"))
    with pytest.raises(TargetError, match=r"needed for tiny-.* beside tiny in float32, and .* type `speed=False`: "):
        measure(workspace.run, SPEED)


def test_one_model_at_a_time_is_in_memory_but_for_speed(workspace, pruned, only_text, monkeypatch):
    loaded, alive = [], []

    def load(directory, **options):
        gc.collect()
        alive.append(sum(one() is not None for one in loaded))
        model = load_whole(directory, **options)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(subjects, "load_whole", load)
    measure(workspace.run, only_text)
    assert alive == [0, 0]
    measure(workspace.run, replace(only_text, **{name: getattr(SPEED, name) for name in vars(SPEED) if name != "ppl"}))
    assert alive[2:] == [0, 1]

"""Tasks through lm-eval: what it counts is what plain transformers says of every choice, and writes."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from llmprune.errors import TaskError
from llmprune.evaluation.streamed_logits import StreamedLogits
from llmprune.evaluation.tasks import Scores, count_requests, open_tasks, score_tasks
from llmprune.models.loading import open_decoder
from tests.tasks import ITEMS, loglikelihood, write_task, write_written_task
from tests.tiny import save_tiny_llama

HFLM = pytest.importorskip("lm_eval.models.huggingface", reason="lm-eval is not installed (extra 'eval')").HFLM


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


def test_scores_are_those_of_the_likelier_choice(directory, tmp_path):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)
    tasks = open_tasks(["sea"], include=write_task(tmp_path))
    done = []
    options = {"limit": None, "batch_size": 4, "bos": False}
    scores = score_tasks(model, tokenizer, tasks, **options, on_requests=done.append)
    assert tasks.metrics == (("sea", "acc"), ("sea", "acc_norm"))
    expected = {"acc": [], "acc_norm": []}
    for item in ITEMS:
        choices = [item["sol1"], item["sol2"]]
        likely = [loglikelihood(model, tokenizer, item["goal"], choice) for choice in choices]
        by_length = [value / len(choice) for value, choice in zip(likely, choices, strict=True)]
        expected["acc"].append(float(likely.index(max(likely)) == item["label"]))
        expected["acc_norm"].append(float(by_length.index(max(by_length)) == item["label"]))
    assert scores == {("sea", metric): Scores("none", tuple(values)) for metric, values in expected.items()}
    assert sum(done) == count_requests(tasks, None) == 2 * len(ITEMS)
    assert 0 < sum(expected["acc"]) < len(ITEMS)


def test_a_limit_takes_the_first_items_and_a_second_model_the_same(directory, tmp_path):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)
    tasks = open_tasks(["sea"], include=write_task(tmp_path))
    options = {"batch_size": 3, "bos": False}
    every = score_tasks(model, tokenizer, tasks, limit=None, **options)
    first = score_tasks(model, tokenizer, tasks, limit=4, **options)
    again = score_tasks(model, tokenizer, tasks, limit=4, **options)
    assert first == again == {pair: Scores(one.found_by, one.items[:4]) for pair, one in every.items()}
    assert count_requests(tasks, 4) == 8


@pytest.mark.parametrize("state_bytes", [0, 32_000, 10**9])
def test_a_model_whose_blocks_are_not_in_memory_gives_the_same_scores(directory, tmp_path, state_bytes, monkeypatch):
    tokenizer, tasks = AutoTokenizer.from_pretrained(directory), open_tasks(["sea"], include=write_task(tmp_path))
    options = {"limit": None, "batch_size": 4, "bos": False}
    expected = score_tasks(AutoModelForCausalLM.from_pretrained(directory).eval(), tokenizer, tasks, **options)
    decoder, done, opened = open_decoder(directory, device=torch.device("cpu")), [], []
    block = decoder.block
    monkeypatch.setattr(decoder, "block", lambda index: opened.append(index) or block(index))
    streamed = StreamedLogits(decoder, state_bytes=state_bytes)
    found = score_tasks(decoder.model, tokenizer, tasks, **options, streamed=streamed, on_requests=done.append)
    assert found == expected
    assert sum(done) == 2 * len(ITEMS)
    walks = {0: 3, 32_000: 2, 10**9: 1}[state_bytes]  # three batches of four choices
    assert opened == [*range(len(decoder.blocks))] * walks


def test_a_folder_that_is_none_and_task_files_that_are_broken(tmp_path):
    with pytest.raises(TaskError, match="is not a folder"):
        open_tasks(["sea"], include=tmp_path / "nowhere")
    folder = write_task(tmp_path / "tasks")
    (folder / "sea.jsonl").unlink()
    with pytest.raises(TaskError, match=r"The tasks sea cannot be loaded: .*`lm_eval_include=FOLDER`"):
        open_tasks(["sea"], include=folder)


def test_a_task_without_an_accuracy_is_refused(tmp_path):
    folder = write_task(tmp_path)
    path = folder / "sea.yaml"
    kept = path.read_text().replace("aggregation: mean, higher_is_better: true", "aggregation: median")
    path.write_text(kept)
    with pytest.raises(TaskError, match="no accuracy that is a mean"):
        open_tasks(["sea"], include=folder)


def greedy(model, tokenizer, context):
    """Four tokens from the definition, up to a full stop."""
    tokens = torch.tensor([tokenizer(context, add_special_tokens=False)["input_ids"]])
    length = tokens.shape[1]
    with torch.no_grad():
        for _ in range(4):
            tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], dim=1)
    return tokenizer.decode(tokens[0, length:]).partition(".")[0]


def test_written_answers_are_the_models_own_greedy_text_whatever_its_generation_config_says(directory, tmp_path):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)
    questions = [item["goal"] for item in ITEMS]
    answers = [greedy(model, tokenizer, question) for question in questions]
    wrong = [*answers[:3], *("no" for _ in answers[3:])]
    items = [{"question": one, "answer": other} for one, other in zip(questions, wrong, strict=True)]
    tasks = open_tasks(["tide"], include=write_written_task(tmp_path, items), num_fewshot=0)
    assert tasks.generative == ("tide",)
    assert dict(tasks.num_fewshot) == {"tide": 0}
    model.generation_config = GenerationConfig(num_beams=3, repetition_penalty=5.0, min_new_tokens=3, use_cache=False)
    done = []
    scores = score_tasks(model, tokenizer, tasks, limit=None, batch_size=1, bos=False, on_requests=done.append)
    assert scores == {("tide", "exact_match"): Scores("whole", (1.0, 1.0, 1.0, 0.0, 0.0, 0.0))}
    assert sum(done) == count_requests(tasks, None) == len(ITEMS)
    assert model.generation_config.num_beams == 3


def test_a_task_has_its_own_number_of_examples_and_both_models_see_the_same(directory, tmp_path, monkeypatch):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)
    items = [{"question": item["goal"], "answer": item["sol1"]} for item in ITEMS]
    folder = write_written_task(tmp_path, items)
    asked = []
    monkeypatch.setattr(
        HFLM, "generate_until", lambda _, requests, **__: [asked.append(r.args[0]) or "" for r in requests]
    )
    tasks = open_tasks(["tide"], include=folder)
    assert dict(tasks.num_fewshot) == {"tide": 2}
    for _ in range(2):
        score_tasks(model, tokenizer, tasks, limit=3, batch_size=1, bos=False)
    assert asked[:3] == asked[3:]
    for prompt, item in zip(asked[:3], items[:3], strict=True):
        assert prompt.count("\n\n") == 2
        assert prompt.endswith(item["question"])
    asked.clear()
    score_tasks(model, tokenizer, open_tasks(["tide"], include=folder, num_fewshot=1), limit=1, batch_size=1, bos=False)
    assert asked[0].count("\n\n") == 1

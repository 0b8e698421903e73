"""Zero-shot tasks through lm-eval: what it counts is what plain transformers says of every choice."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmprune.errors import TaskError
from llmprune.evaluation.zero_shot import count_requests, open_tasks, score_tasks
from tests.tasks import ITEMS, loglikelihood, write_task
from tests.tiny import save_tiny_llama

pytest.importorskip("lm_eval", reason="lm-eval is not installed (extra 'eval')")


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
    assert scores == {("sea", metric): tuple(values) for metric, values in expected.items()}
    assert sum(done) == count_requests(tasks, None) == 2 * len(ITEMS)
    assert 0 < sum(expected["acc"]) < len(ITEMS)


def test_a_limit_takes_the_first_items_and_a_second_model_the_same(directory, tmp_path):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)
    tasks = open_tasks(["sea"], include=write_task(tmp_path))
    options = {"batch_size": 3, "bos": False}
    every = score_tasks(model, tokenizer, tasks, limit=None, **options)
    first = score_tasks(model, tokenizer, tasks, limit=4, **options)
    again = score_tasks(model, tokenizer, tasks, limit=4, **options)
    assert first == again == {pair: items[:4] for pair, items in every.items()}
    assert count_requests(tasks, 4) == 8


def test_an_unknown_task_is_refused_with_those_of_a_like_name(tmp_path):
    with pytest.raises(TaskError, match=r"no task 'seaa' in lm-eval .* Did you mean sea"):
        open_tasks(["sea", "seaa"], include=write_task(tmp_path))


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

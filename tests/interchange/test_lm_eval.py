"""lm-eval, called by itself on the directory of a pruned checkpoint, scores what plain transformers says."""

import warnings

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tasks import ITEMS, loglikelihood, write_task

pytest.importorskip("lm_eval", reason="lm-eval is not installed (extra 'eval')")


def test_its_scores_are_those_of_the_likelier_choice(sparse, tmp_path, monkeypatch):
    import datasets
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own affair
        results = simple_evaluate(
            model="hf",
            model_args={"pretrained": str(sparse), "dtype": "float32"},
            tasks=["sea"],
            task_manager=TaskManager(include_path=str(write_task(tmp_path / "tasks"))),
            device="cpu",
            batch_size=4,
            bootstrap_iters=0,
        )["results"]["sea"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(sparse).eval(), AutoTokenizer.from_pretrained(sparse)
    right = 0
    for item in ITEMS:
        likely = [loglikelihood(model, tokenizer, item["goal"], item[choice]) for choice in ("sol1", "sol2")]
        right += likely.index(max(likely)) == item["label"]
    assert results["acc,none"] == right / len(ITEMS)

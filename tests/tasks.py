"""A zero-shot task of a few made-up items, as a task file of lm-eval's and the data that it reads."""

from __future__ import annotations

import json
from pathlib import Path

import torch

ITEMS = [
    {"goal": "A boat goes out at", "sol1": " dawn", "sol2": " the shore looks up", "label": 0},
    {"goal": "The sea is", "sol1": " work", "sol2": " wide", "label": 1},
    {"goal": "No one on the shore", "sol1": " looks up", "sol2": " small boat goes", "label": 0},
    {"goal": "A small", "sol1": " no one", "sol2": " boat", "label": 1},
    {"goal": "From work", "sol1": " no one looks up", "sol2": " at", "label": 0},
    {"goal": "Out at dawn", "sol1": " while no one", "sol2": " sea sea", "label": 0},
]


def write_task(folder: Path, *, name: str = "sea") -> Path:
    """Write task file and data into ``folder``; gives the folder, for --lm-eval-include."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(item) + "\n" for item in ITEMS), encoding="utf-8")
    lines = [
        f"task: {name}",
        "dataset_path: json",
        "dataset_kwargs:",
        "  data_files:",
        f"    validation: {data}",
        "output_type: multiple_choice",
        "validation_split: validation",
        'doc_to_text: "{{goal}}"',
        "doc_to_target: label",
        'doc_to_choice: "{{[sol1, sol2]}}"',
        "metric_list:",
        "  - {metric: acc, aggregation: mean, higher_is_better: true}",
        "  - {metric: acc_norm, aggregation: mean, higher_is_better: true}",
    ]
    (folder / f"{name}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_written_task(folder: Path, items: list[dict[str, str]], *, name: str = "tide", examples: int = 2) -> Path:
    """A task whose answers are written: up to a full stop, right where they are the target to the letter."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    lines = [
        f"task: {name}",
        "dataset_path: json",
        "dataset_kwargs:",
        "  data_files:",
        f"    train: {data}",
        f"    validation: {data}",
        "output_type: generate_until",
        "training_split: train",
        "validation_split: validation",
        'doc_to_text: "{{question}}"',
        'doc_to_target: "{{answer}}"',
        'target_delimiter: ""',
        "generation_kwargs:",
        '  until: ["."]',
        "  max_gen_toks: 4",
        f"num_fewshot: {examples}",
        "metric_list:",
        "  - {metric: exact_match, aggregation: mean, higher_is_better: true}",
        "filter_list:",
        "  - name: whole",
        "    filter: [{function: take_first}]",
        "  - name: nothing",
        "    filter: [{function: regex, regex_pattern: 'never'}, {function: take_first}]",
    ]
    (folder / f"{name}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def loglikelihood(model, tokenizer, context: str, continuation: str) -> float:
    """Of a continuation, in nats, token by token from the definition."""
    before = tokenizer(context, add_special_tokens=False)["input_ids"]
    after = tokenizer(continuation, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([before + after])).logits[0].log_softmax(dim=-1)
    return sum(float(logits[len(before) - 1 + i, token]) for i, token in enumerate(after))

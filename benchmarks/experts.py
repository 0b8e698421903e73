"""A small mixture of experts is trained here on real text; then its experts are pruned, or some of them removed.

The model is a Qwen3-MoE: some millions of parameters, eight experts of which two compute a token. Weights that have
learnt nothing say nothing about experts. MODEL is the directory that it is written to: two or three minutes on two
cores, only once; an interrupted training goes on.

    python benchmarks/experts.py MODEL --text wikitext2:wiki.train.raw --ppl wikitext2:wiki.test.raw --out results.json

Calibration is on the training text. Zeros: 50% and 70% with the experts dense and pruned, SparseGPT and SparseLLM.
Experts: a quarter of each block removed by REAP, by how many tokens they are sent, by the size of their weights, and at
random (three choices).
--table prints the rows of the results file as Markdown, and does nothing else. Other options are those of
weight_pruning.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from results import keep_results, read_results
from trained_opt import optimise, token_ids, trained_tokenizer, written
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
from weight_pruning import main as measure
from weight_pruning import perplexity

import llmprune
from llmprune.algorithms.blocks.target import target_count
from llmprune.text.corpora import load_corpus

SEEDS = (0, 1, 2)  # of random choices
DENSE_EXPERTS = "--exclude *.experts.*"
_METHODS = ("magnitude", "sparsegpt+refit", "sparsellm+refit")
ROWS = (*_METHODS, *(f"{method} {DENSE_EXPERTS}" for method in _METHODS))


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", required=True, help="training and calibration text")
    parser.add_argument("--ppl", required=True, help="evaluation text")
    parser.add_argument("--windows", type=int, default=400, help="use the first so many windows of it")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=8, help="windows a step")
    parser.add_argument("--seq-len", type=int, default=128, help="tokens a window")
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=256, help="calibration windows")
    parser.add_argument("--patterns", default="50%,70%")
    parser.add_argument("--target", default="25%", help="experts to remove from each block")
    parser.add_argument("--table", action="store_true", help="print the results file as Markdown, and do nothing else")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options, others = parser.parse_known_args()

    if options.table:
        print(table(read_results(options.out)))
        return
    known = read_results(options.out, {})
    if not (options.model / "config.json").exists():
        known["training"] = train(options)
    keep_results(options.out, known)
    run = options.model.with_name(f"{options.model.name}.run")
    length = str(options.seq_len)
    words = [str(options.model), "--source", options.text, "--samples", str(options.samples), "--seq-len", length]
    words += ["--dtype", "float32", "--patterns", options.patterns, "--rows", ",".join(ROWS), "--ppl", options.ppl]
    words += ["--windows", str(options.windows), "--ppl-seq-len", length, "--run", str(run)]
    measure([*words, "--out", str(options.out), *others])
    remove(options, run)
    print(table(read_results(options.out)))


def remove(options: argparse.Namespace, run: Path) -> None:
    """Measure the model without some experts of each block, and add the rows to the results file."""
    known = read_results(options.out)
    rows = known.setdefault("removed", {})
    for name in ("reap", "frequency", "magnitude", *(f"random {seed}" for seed in SEEDS)):
        if (row := f"{options.target} {name}") not in rows:
            rows[row] = _perplexity_without(options, run, name)
            keep_results(options.out, known)
        print(row, rows[row], flush=True)


def _perplexity_without(options: argparse.Namespace, run: Path, name: str) -> float:
    chosen: dict[str, Any] = {"target": options.target, "metric": name}
    gone = target_count(options.target, total=options.experts, noun="expert")
    if name == "magnitude":
        chosen = {"experts": {block: norms.argsort()[:gone].tolist() for block, norms in enumerate(_norms(options))}}
    if name.startswith("random"):
        generator = torch.Generator().manual_seed(int(name.split()[1]))
        orders = [torch.randperm(options.experts, generator=generator)[:gone].tolist() for _ in range(options.blocks)]
        chosen = {"experts": dict(enumerate(orders))}
    model = llmprune.remove_experts(str(options.model), **chosen, run=run, dtype="float32")
    measured = argparse.Namespace(ppl_seq_len=options.seq_len, windows=options.windows)
    return perplexity(model, options.model, options.ppl, measured)


def _norms(options: argparse.Namespace) -> list[torch.Tensor]:
    """For each block, the norm of all weights of each expert (experts,)."""
    model = Qwen3MoeForCausalLM.from_pretrained(options.model)
    stacks = [(layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj) for layer in model.model.layers]
    return [sum(one.detach().square().sum((1, 2)) for one in pair).sqrt() for pair in stacks]


def table(known: dict[str, Any]) -> str:
    """The results in Markdown."""
    rows = known["rows"]
    dense = next(iter(rows["dense"]["perplexity"].values()))
    lines = ["| | experts | perplexity | of dense |", "|---|---|---:|---:|", f"| dense | 8 | {dense:.2f} | 1 |"]
    for name, row in rows.items():
        if name != "dense":
            value = next(iter(row["perplexity"].values()))
            what = name.removeprefix("all ").removesuffix(f" {DENSE_EXPERTS}").replace("+refit", "")
            lines.append(
                f"| {what} | {'dense' if DENSE_EXPERTS in name else 'pruned'} | {value:.2f} | {value / dense:.3f} |"
            )
    removed = known.get("removed", {})
    by_chance = [value for name, value in removed.items() if "random" in name]
    shown = {name: value for name, value in removed.items() if "random" not in name}
    if by_chance:
        shown[f"random, mean of {len(by_chance)}"] = sum(by_chance) / len(by_chance)
    lines += [f"| {name} | removed | {value:.2f} | {value / dense:.3f} |" for name, value in shown.items()]
    return "\n".join(lines)


def train(options: argparse.Namespace) -> dict[str, float]:
    """Train tokenizer and model, write both, and say how it went."""
    text = load_corpus(options.text).text
    tokenizer = trained_tokenizer([text], options.vocab)
    tokens = token_ids(tokenizer, text)
    torch.manual_seed(options.seed)
    model = Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=len(tokenizer),
            hidden_size=options.hidden,
            moe_intermediate_size=options.hidden,
            num_hidden_layers=options.blocks,
            num_attention_heads=max(1, options.hidden // 32),
            num_key_value_heads=max(1, options.hidden // 64),
            head_dim=32,
            num_experts=options.experts,
            num_experts_per_tok=2,
            norm_topk_prob=True,
            output_router_logits=True,  # in training, a loss keeps the experts about equally busy
            router_aux_loss_coef=0.01,
            max_position_embeddings=4 * options.seq_len,
            tie_word_embeddings=False,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    trained = optimise(model.train(), tokens, options)
    model.config.output_router_logits = False
    return written(model, tokenizer, tokens, options, *trained)


if __name__ == "__main__":
    main()

"""A small OPT (ReLU, biases, learned positions) is trained here on real text, then pruned as weight_pruning.py does.

Weights that have learnt nothing say nothing about pruning; so the trained model stands beside a unigram model of the
same text, in the results as in the terminal. MODEL is the directory that it is written to: a few minutes, only once;
an interrupted training goes on.

    python benchmarks/trained_opt.py MODEL --text wikitext2:wiki.train.raw --text wikitext2:wiki.valid.raw \\
        --ppl wikitext2:wiki.test.raw --out results.json

Calibration is on the first text. Other options are those of weight_pruning.py (--patterns, --rows, --windows ...).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from results import keep_results, read_results
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import OPTConfig, OPTForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from weight_pruning import main as measure

from llmprune.models.loading import load_tokenizer
from llmprune.text.corpora import load_corpus
from llmprune.text.windows import consecutive_windows

PEAK, PEAK_OF_EMBEDDINGS = 3e-3, 1e-2  # learning rates
EVERY = 50  # steps between progress and saving
MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's names
SPECIAL = ["<pad>", "<s>", "</s>"]  # tokens 0, 1, 2
PATTERNS, ROWS = "70%,80%,90%", "sparsegpt,sparsellm,sparsegpt+refit,sparsellm+refit"


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", action="append", required=True, help="training text; can be repeated")
    parser.add_argument("--ppl", required=True, help="evaluation text")
    parser.add_argument("--windows", type=int, help="use the first so many windows of it")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=8, help="windows a step")
    parser.add_argument("--seq-len", type=int, default=128, help="tokens a window, and positions of the model")
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options, others = parser.parse_known_args()

    texts = [load_corpus(spec).text for spec in options.text]
    known = read_results(options.out, {})
    if not (options.model / "config.json").exists():
        known["training"] = train(texts, options)
    known["unigram"] = {"perplexity": unigram_perplexity(texts, options)}
    keep_results(options.out, known)
    print("unigram", json.dumps(known["unigram"]), flush=True)

    length = str(options.seq_len)
    words = [str(options.model), "--source", options.text[0], "--samples", "256", "--seq-len", length]
    words += ["--dtype", "float32", "--patterns", PATTERNS, "--rows", ROWS, "--ppl", options.ppl]
    words += ["--windows", str(options.windows)] if options.windows else []
    measure([*words, "--ppl-seq-len", length, "--out", str(options.out), *others])


def train(texts: list[str], options: argparse.Namespace) -> dict[str, float]:
    """Train tokenizer and model on `texts`, write both, and say how it went."""
    tokenizer = trained_tokenizer(texts, options.vocab)
    tokens = torch.cat([token_ids(tokenizer, text) for text in texts])
    torch.manual_seed(options.seed)
    model = OPTForCausalLM(
        OPTConfig(
            vocab_size=len(tokenizer),
            hidden_size=options.hidden,
            ffn_dim=4 * options.hidden,
            num_hidden_layers=options.blocks,
            num_attention_heads=max(1, options.hidden // 32),
            max_position_embeddings=options.seq_len,
            dropout=0.0,
            tie_word_embeddings=False,  # learns far faster in so few steps
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    return written(model, tokenizer, tokens, options, *optimise(model.train(), tokens, options))


def written(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tokens: Tensor,
    options: argparse.Namespace,
    loss: float,
    seconds: float,
) -> dict[str, float]:
    """Write a trained model and its tokenizer, and say how it went."""
    model.eval().save_pretrained(options.model)
    tokenizer.save_pretrained(options.model)
    seen = options.steps * options.batch * options.seq_len
    return {
        "parameters": model.num_parameters(),
        "text_tokens": len(tokens),
        "tokens_seen": seen,
        "last_loss": loss,
        "seconds": seconds,
    }


def trained_tokenizer(texts: list[str], vocab: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `vocab` tokens, which adds no BOS."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator((line for text in texts for line in text.split("\n\n")), trainer)
    pad, bos, eos = SPECIAL
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=pad, bos_token=bos, eos_token=eos)


def optimise(model: PreTrainedModel, tokens: Tensor, options: argparse.Namespace) -> tuple[float, float]:
    """AdamW over windows from random positions of `tokens`; mean loss of the last steps (nats/token), and seconds."""
    optimiser = _optimiser(model)
    state = options.model.with_name(options.model.name + ".training.safetensors")
    first, seconds = _restore(model, optimiser, state)
    losses = []
    for step in range(first + 1, options.steps + 1):
        began = time.perf_counter()
        done = step / options.steps
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * min(1, 20 * done, 2 * (1 - done) + 0.02)
        losses.append(_step(model, optimiser, _windows(tokens, step, options)))
        seconds += time.perf_counter() - began
        if step % EVERY == 0 or step == options.steps:
            left = seconds / step * (options.steps - step)
            loss = sum(losses[-EVERY:]) / len(losses[-EVERY:])
            print(f"step {step:5} of {options.steps}: loss {loss:.3f}, {left:.0f} s left", flush=True)
        if step % EVERY == 0 and step < options.steps:
            _save(model, optimiser, state, step, seconds)
    state.unlink(missing_ok=True)
    return loss, seconds


def _optimiser(model: PreTrainedModel) -> torch.optim.Optimizer:
    sides = {PEAK: [], PEAK_OF_EMBEDDINGS: []}
    for name, parameter in model.named_parameters():
        sides[PEAK_OF_EMBEDDINGS if "embed" in name or "lm_head" in name else PEAK].append(parameter)
    groups = [{"params": parameters, "peak": peak} for peak, parameters in sides.items()]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), weight_decay=0.1)


def _step(model: PreTrainedModel, optimiser: torch.optim.Optimizer, windows: Tensor) -> float:
    loss = model(input_ids=windows, labels=windows, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad()
    return float(loss.detach())


def _windows(tokens: Tensor, step: int, options: argparse.Namespace) -> Tensor:
    """(batch, seq_len); the seed and the step decide alone."""
    generator = torch.Generator().manual_seed(options.seed * options.steps + step)
    starts = torch.randint(len(tokens) - options.seq_len + 1, (options.batch, 1), generator=generator)
    return tokens[starts + torch.arange(options.seq_len)]


def _save(model: PreTrainedModel, optimiser: torch.optim.Optimizer, path: Path, step: int, seconds: float) -> None:
    """So that an interrupted training goes on from here."""
    tensors = {"weight." + name: parameter.detach() for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        tensors |= {f"{key}.{name}": optimiser.state[parameter][key] for key in MOMENTS}
    save_file(tensors, path.with_suffix(".new"), metadata={"step": str(step), "seconds": str(seconds)})
    path.with_suffix(".new").replace(path)


def _restore(model: PreTrainedModel, optimiser: torch.optim.Optimizer, path: Path) -> tuple[int, float]:
    """Steps that an interrupted training took, and its seconds."""
    if not path.exists():
        return 0, 0.0
    with safe_open(path, "pt") as file:
        step, seconds = file.metadata()["step"], file.metadata()["seconds"]
        for name, parameter in model.named_parameters():
            parameter.data.copy_(file.get_tensor("weight." + name))
            moments = {key: file.get_tensor(f"{key}.{name}") for key in MOMENTS}
            optimiser.state[parameter] = {"step": torch.tensor(float(step)), **moments}
    return int(step), float(seconds)


def unigram_perplexity(texts: list[str], options: argparse.Namespace) -> dict[str, float]:
    """Of the tokens that the model has to predict, by their counts in `texts`, one added to each."""
    tokenizer = load_tokenizer(options.model)
    counts = torch.ones(len(tokenizer), dtype=torch.float64)
    for text in texts:
        counts += torch.bincount(token_ids(tokenizer, text), minlength=len(tokenizer))
    corpus = load_corpus(options.ppl, purpose="evaluation")
    windows = consecutive_windows(corpus, tokenizer, seq_len=options.seq_len, max_windows=options.windows)
    losses = -(counts / counts.sum()).log()[windows.tokens[:, 1:]]
    return {options.ppl.rsplit("/", 1)[-1]: math.exp(float(losses.mean()))}


def token_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> Tensor:
    """(tokens,) of a text."""
    return tokenizer(text, return_tensors="pt", verbose=False).input_ids[0]


if __name__ == "__main__":
    main()

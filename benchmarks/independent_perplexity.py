"""Is bench's perplexity right? Ten lines of plain transformers say so, or not.

    python benchmarks/independent_perplexity.py MODEL wiki.test.raw               # all windows of 2048 tokens: slow
    python benchmarks/independent_perplexity.py MODEL wiki.test.raw --windows 4

MODEL is a checkpoint directory whose tokenizer adds no BOS, the text WikiText-2 raw as a file. Both numbers are
computed in float32; the exit code is 1 unless they agree to 4 decimals.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def plain_perplexity(model: str, text: Path, *, seq_len: int, windows: int | None) -> float:
    """Nothing of llmprune in here."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lines = text.read_text(encoding="utf-8").split("\n")[:-1]
    rows = "\n\n".join(line + "\n" if line.strip() else "" for line in lines)  # as the data set's rows are joined
    ids = AutoTokenizer.from_pretrained(model)(rows, return_tensors="pt", verbose=False).input_ids[0]
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    losses = []
    for window in ids[: len(ids) // seq_len * seq_len].view(-1, seq_len)[:windows]:
        with torch.inference_mode():
            losses.append(network(window[None], labels=window[None], use_cache=False).loss.double())
    return float(torch.stack(losses).mean().exp())


def bench_perplexity(model: str, text: Path, *, seq_len: int, windows: int | None) -> float:
    """What the command line says."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["bench", model, "--ppl", f"wikitext2:{text}", "--ppl-seq-len", seq_len, "--no-speed"]
        words += ["--json", "--quiet"]
        words += ["--dtype", "float32", "--run", folder] + (["--max-windows", windows] if windows else [])
        command = [sys.executable, "-m", "llmprune", *map(str, words)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)["metrics"]["ppl"]["value"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint directory")
    parser.add_argument("text", type=Path, help="WikiText-2 raw, as a file")
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--windows", type=int, help="only the first so many windows")
    given = parser.parse_args()
    protocol = {"seq_len": given.seq_len, "windows": given.windows}
    plain = plain_perplexity(given.model, given.text, **protocol)
    ours = bench_perplexity(given.model, given.text, **protocol)
    print(f"plain transformers {plain:.6f}, llmprune bench {ours:.6f}, difference {ours - plain:+.2e}")
    sys.exit(abs(plain - ours) > 5e-5)


if __name__ == "__main__":
    main()

"""A small OPT with learnt weights, stored as the Hub has the family, goes through every command beside its safetensors.

OPT is trained on real text (once: MODEL is where it is kept, see trained_opt.py). Then it is stored twice, in float16
under the names of OPT's first release (`decoder.` without `model.`): as two files of pickles with an index, and as
safetensors. Every command runs on both; all tensors that they write must be the same, and so must all perplexities.

    python benchmarks/pickled_opt.py MODEL --text wikitext2:wiki.train.first_part.raw --ppl wikitext2:wiki.test.raw \\
        --work WORK

WORK is a new folder, with everything that the commands wrote.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from trained_opt import train

from llmprune.text.corpora import load_corpus

FORMS = ("safetensors", "pickled")
COMMANDS = (
    "calibrate opt --source {text} --samples 32 --seq-len {length} --run run",
    "verify-redundancy --target 1 --run run",
    "remove-blocks --target 1 --run run --out fewer",
    "bench fewer --ppl {ppl} --ppl-seq-len {length} --max-windows {windows} --no-speed --run run --json",
    "global-prune --sparsity 70% --run run --out sparser",
    "bench sparser --ppl {ppl} --ppl-seq-len {length} --max-windows {windows} --no-speed --run run --json",
    "apply-mask opt sparser --run run --out masked",
    "push fewer someone/fewer --dry-run --run run",
)
WRITTEN = ("fewer", "sparser", "masked")


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", action="append", required=True, help="training text; the first calibrates")
    parser.add_argument("--ppl", required=True, help="evaluation text")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=200, help="of the evaluation text")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not (options.model / "config.json").exists():
        print(json.dumps(train([load_corpus(spec).text for spec in options.text], options)), flush=True)
    found = [
        run(options, options.work / name, store=store)
        for name, store in zip(FORMS, (as_safetensors, pickle), strict=True)
    ]
    print(f"{'':12}{FORMS[0]:>14}{FORMS[1]:>14}")
    for what, values in found[0]["perplexity"].items():
        print(f"{what:12}{values:14.4f}{found[1]['perplexity'][what]:14.4f}")
    same = all(torch.equal(one, found[1]["tensors"][name]) for name, one in found[0]["tensors"].items())
    same = same and found[0]["tensors"].keys() == found[1]["tensors"].keys()
    print(f"{len(found[0]['tensors'])} tensors written: {'all the same' if same else 'NOT the same'}")
    if not same or found[0]["perplexity"] != found[1]["perplexity"]:
        raise SystemExit(1)


def run(options: argparse.Namespace, folder: Path, *, store) -> dict:
    """Store the model in one form, type every command, and gather the tensors and perplexities."""
    model = folder / "opt"
    model.mkdir(parents=True)
    tensors = {
        name.removeprefix("model."): tensor.half()
        for name, tensor in sorted(load_file(options.model / "model.safetensors").items())
    }
    store(model, tensors)
    for path in options.model.glob("*.json"):
        (model / path.name).write_bytes(path.read_bytes())
    filled = {
        "text": shlex.quote(absolute(options.text[0])),
        "ppl": shlex.quote(absolute(options.ppl)),
        "length": options.seq_len,
        "windows": options.windows,
    }
    perplexity = {}
    for command in COMMANDS:
        words = shlex.split(command.format(**filled))
        done = subprocess.run(
            [sys.executable, "-m", "llmprune", *words], cwd=folder, env=os.environ, capture_output=True, text=True
        )
        print(f"{folder.name}: llmprune {' '.join(words[:2])}: exit code {done.returncode}", flush=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        if words[0] == "bench":
            result = json.loads(done.stdout)
            perplexity |= {
                one["name"]: one["perplexity"][0]["perplexity"]["value"]
                for one in (result["baseline"], result["model"])
            }
    written = {
        f"{out}/{name}": one for out in WRITTEN for name, one in load_file(folder / out / "model.safetensors").items()
    }
    return {"perplexity": perplexity, "tensors": written}


def absolute(spec: str) -> str:
    """A source whose file is named from the root, since the commands are typed elsewhere."""
    name, colon, path = spec.rpartition(":")
    return f"{name}{colon}{Path(path).absolute()}"


def as_safetensors(directory: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def pickle(directory: Path, tensors: dict[str, torch.Tensor]) -> None:
    names, weight_map = list(tensors), {}
    for number, own in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({name: tensors[name] for name in own}, directory / file)
        weight_map |= dict.fromkeys(own, file)
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


if __name__ == "__main__":
    main()

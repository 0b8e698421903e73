"""Does llama.cpp compute what transformers computes on a pruned checkpoint? Its own converter and runtime say so.

    pip install --constraint constraints.txt llama-cpp-python       # compiles llama.cpp: some minutes
    python benchmarks/llama_cpp.py PRUNED [PRUNED ...]

The source archive of the installed llama-cpp-python, fetched once by pip, holds the convert_hf_to_gguf.py of the same
llama.cpp: that one writes a float32 GGUF file, and llama-cpp-python runs it. (``--llama-cpp DIR`` takes another copy of
llama.cpp instead. The converter needs the packages sentencepiece and protobuf.) Beside it, plain transformers runs the
checkpoint in float32. Each tokenises with its own tokenizer. The exit code is 1 unless both cut every prompt into the
same tokens and find the same token likeliest after each.
"""

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

PROMPTS = (
    "The capital of France is",
    "Water boils at a temperature of",
    "Once upon a time there was a",
    "The opposite of hot is",
    "def add(a, b):\n    return",
    "Two plus two equals",
    "The sun rises in the",
    "She opened the door and saw",
    "import numpy as",
    "The largest planet in the solar system is",
    "Dear Sir or Madam,",
    "To be, or not to be, that is the",
    "A dog is a man's best",
    "The first president of the United States was",
    "In 1969, people first walked on the",
    "for i in range(10):\n    print(",
    "The chemical symbol for gold is",
    "Roses are red, violets are",
    "He took an umbrella because it was",
    "The small boat went out at dawn, and",
)
NEEDED = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/")


def fetch_llama_cpp(folder: Path) -> Path:
    """The converter that belongs to the installed llama-cpp-python, out of its source archive."""
    name = f"llama-cpp-python=={version('llama-cpp-python')}"
    words = ["download", "--quiet", "--no-deps", "--no-binary", "llama-cpp-python", "--dest", str(folder), name]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    (archive,) = folder.glob("llama_cpp_python-*.tar.gz")
    with tarfile.open(archive) as members:
        wanted = [member for member in members if member.name.partition("/vendor/llama.cpp/")[2].startswith(NEEDED)]
        members.extractall(folder, wanted, filter="data")
    return next(folder.glob("*/vendor/llama.cpp"))


def convert(llama_cpp: Path, checkpoint: Path, out: Path) -> None:
    """llama.cpp's own conversion, without a change."""
    words = [llama_cpp / "convert_hf_to_gguf.py", checkpoint, "--outtype", "f32", "--outfile", out]
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"convert_hf_to_gguf.py failed on {checkpoint}:\n{done.stderr[-3000:]}")


def transformers_logits(checkpoint: Path) -> list[tuple[list[int], np.ndarray]]:
    """Tokens of every prompt, and the logits (vocabulary,) of the token after it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    found = []
    for prompt in PROMPTS:
        tokens = tokenizer(prompt)["input_ids"]
        with torch.inference_mode():
            found.append((tokens, model(torch.tensor([tokens])).logits[0, -1].numpy()))
    return found


def llama_cpp_logits(gguf: Path) -> list[tuple[list[int], np.ndarray]]:
    """The same by llama.cpp."""
    from llama_cpp import Llama

    model = Llama(str(gguf), n_ctx=256, logits_all=True, verbose=False)
    found = []
    for prompt in PROMPTS:
        tokens = model.tokenize(prompt.encode(), add_bos=True, special=False)  # a BOS where the file asks for one
        model.reset()
        model.eval(tokens)
        found.append((tokens, np.array(model.scores[len(tokens) - 1])))
    return found


def compare(checkpoint: Path, llama_cpp: Path, folder: Path) -> bool:
    """Convert, run both, and print what each says; True if they agree."""
    from transformers import AutoTokenizer

    gguf = folder / f"{checkpoint.name}.gguf"
    convert(llama_cpp, checkpoint, gguf)
    depth = json.loads((checkpoint / "config.json").read_text())["num_hidden_layers"]
    print(f"\n{checkpoint.name}: {depth} blocks, GGUF of {gguf.stat().st_size / 1e6:.1f} MB")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    same = cut_alike = 0
    largest = 0.0
    for prompt, ours, theirs in zip(PROMPTS, transformers_logits(checkpoint), llama_cpp_logits(gguf), strict=True):
        top, other = int(ours[1].argmax()), int(theirs[1].argmax())
        difference = float(np.abs(ours[1] - theirs[1][: len(ours[1])]).max())
        same, cut_alike, largest = same + (top == other), cut_alike + (ours[0] == theirs[0]), max(largest, difference)
        mark = "same" if top == other else f"llama.cpp: {tokenizer.decode([other])!r}"
        print(f"  {prompt!r:50} {tokenizer.decode([top])!r:14} {mark}, logits differ by at most {difference:.1e}")
    gguf.unlink()
    count = len(PROMPTS)
    print(f"  {same} of {count} top tokens the same, {cut_alike} of {count} prompts cut alike, largest {largest:.1e}")
    return same == cut_alike == count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="+", help="checkpoint directories")
    parser.add_argument("--llama-cpp", type=Path, help="a folder of llama.cpp's sources, with its converter")
    given = parser.parse_args()
    packages = ("llama-cpp-python", "transformers", "torch")
    print(", ".join(f"{name} {version(name)}" for name in packages))
    with tempfile.TemporaryDirectory() as folder:
        llama_cpp = given.llama_cpp or fetch_llama_cpp(Path(folder))
        agreed = [compare(checkpoint, llama_cpp, Path(folder)) for checkpoint in given.checkpoints]
    sys.exit(not all(agreed))


if __name__ == "__main__":
    main()

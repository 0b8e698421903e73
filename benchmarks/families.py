"""Try every causal-LM type of the installed transformers, and make docs/models.md of what was found.

Each type has a tiny model with random weights (tests/zoo.py). It goes through the real commands: its losses block by
block are held against those of plain transformers, several cuts are written and verified, half of its weights are
zeroed, and of a mixture of experts one expert of each block is removed. A type works if all but the last does. Every
other one must be refused by name, in a sentence, before any work.
Types that are encoders by default must be refused so, and are then tried as decoders (``is_decoder``).

    python benchmarks/families.py --out benchmarks/families.json            # all types: about 20 minutes on one core
    python benchmarks/families.py --types llama,mamba                       # some, without a file
    python benchmarks/families.py --page benchmarks/families.json > docs/models.md
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.results import keep_results, read_results
from llmprune.artifacts.activations import open_calibration
from llmprune.cli.app import app
from llmprune.models.loading import load_whole
from tests.tiny import write_text
from tests.zoo import CAUSAL_LM_TYPES, ENCODERS, NOT_MADE, save_zoo_model, tiny_config

CUTS = ("2", "1,3", "2,3,4")
SAMPLES, SEQ_LEN = 4, 32
_SMALL = ["--samples", str(SAMPLES), "--seq-len", str(SEQ_LEN)]
_EXPERTS = """\
What `global-prune` and [`remove-experts`](experts.md) do to the experts of each type that has some. "By SparseGPT"
means matrix by matrix with `--method sparsellm` too, because the activation is none that SparseLLM knows. Experts stay
dense where a module computes all of them on all tokens, or has their matrices in one. The rest of such a block is
pruned. `inkling_text` keeps its experts because its router has rows for shared experts among theirs."""
_CLOSE = 1e-4  # nats/token, relative


@dataclass(frozen=True)
class Tried:
    """What was found of one type.

    Attributes:
        model_type: of the config.
        architecture: the class that transformers makes.
        loss: relative difference of the dense loss to plain transformers'; None where it was not measured.
        cuts: for each of ``CUTS`` "works", or why not.
        zeros: "works", "works, N matrices stay dense", or why not.
        experts: what is done to experts: "pruned, removed", or why not; nothing where there are none.
        reason: why the type cannot be used at all; None where it can.
        decoder: whether it is an encoder by default, and was tried as a decoder.
    """

    model_type: str
    architecture: str
    loss: float | None = None
    cuts: tuple[str, ...] = ()
    zeros: str = ""
    experts: str = ""
    reason: str | None = None
    decoder: bool = False

    @property
    def works(self) -> bool:
        """In every respect."""
        whole = self.reason is None and self.loss is not None and self.loss < _CLOSE
        return whole and set(self.cuts) == {"works"} and self.zeros.startswith("works")


def try_type(model_type: str, folder: Path) -> Tried:
    """Take a type through all commands."""
    if model_type in NOT_MADE:
        return Tried(model_type, "", reason=f"transformers makes no model of its config here: {NOT_MADE[model_type]}")
    found = _try_config(model_type, folder / "as-it-is")
    if model_type not in ENCODERS:
        return found
    assert found.reason is not None and "see the ones after" in found.reason, found
    return replace(_try_config(model_type, folder / "decoder", is_decoder=True), decoder=True)


def _try_config(model_type: str, folder: Path, **changes: object) -> Tried:
    name = type(AutoModelForCausalLM.from_config(tiny_config(model_type, **changes))).__name__
    directory = save_zoo_model(folder / "model", model_type, **changes)
    text = write_text(folder / "text.txt")
    run = ["--run", str(folder / "run")]
    code, said = _type("calibrate", directory, "--source", text, *_SMALL, *run)
    if code != 0:
        return Tried(model_type, name, reason=said)
    loss = _difference(directory, folder / "run" / "calibration")
    cuts = tuple(
        _outcome("remove-blocks", "--blocks", cut, "--out", folder / f"cut-{place}", *run)
        for place, cut in enumerate(CUTS)
    )
    return Tried(model_type, name, loss, cuts, _zeroed(folder, run), try_experts(folder, run))


def experts_alone(model_type: str, folder: Path, **changes: Any) -> str:
    """What is done to the experts of a type, whose config may be changed, without the rest of ``try_type``."""
    directory = save_zoo_model(folder / "model", model_type, **changes)
    run = ["--run", str(folder / "run")]
    code, said = _type("calibrate", directory, "--source", write_text(folder / "text.txt"), *_SMALL, *run)
    if code:
        return said
    _zeroed(folder, run)
    return try_experts(folder, run)


def _zeroed(folder: Path, run: list[str]) -> str:
    out = folder / "sparse"
    said = _outcome("global-prune", "--sparsity", "50%", "--rounds", "2", "--out", out, *run)
    if said != "works":
        return said
    remarks = json.loads((out / "llmprune.json").read_text())["sparsity"]["remarks"]
    remarks = [remark for remark in remarks if "sent fewer tokens" not in remark]  # of so small a calibration
    return "works" if not remarks else "works; " + "; ".join(remarks)


def try_experts(folder: Path, run: list[str]) -> str:
    """What was pruned of a type's experts, behind ``_zeroed``, and what comes of removing one of each block."""
    path = folder / "sparse" / "llmprune.json"
    if not path.exists():
        return ""
    sparsity = json.loads(path.read_text())["sparsity"]
    pruned = "pruned" if any(block["experts"] for block in sparsity["blocks"]) else "dense"
    if any("no known activation" in remark for remark in sparsity["remarks"]):
        pruned += " by SparseGPT"
    said = _outcome("remove-experts", "--target", "1", "--out", folder / "fewer", *run)
    if "has no experts" in said:
        return "dense, not removed" if any("expert" in remark for remark in sparsity["remarks"]) else ""
    return f"{pruned}, removed" if said == "works" else f"{pruned}, not removed: {said}"


def _outcome(*words: object) -> str:
    code, said = _type(*words)
    return "works" if code == 0 else said.partition(" What was written is in")[0]  # a folder of this machine


def _type(*words: object) -> tuple[int, str]:
    """Exit code and the error's sentence of a command."""
    result = CliRunner().invoke(app, [*map(str, words), "--quiet"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return 1, f"Unexpected {type(result.exception).__name__}: {result.exception}"
    said = " ".join(result.stderr.replace("│", " ").split())
    return result.exit_code, said[said.find("Error:") + len("Error:") :].strip() if "Error:" in said else said


def _difference(directory: Path, calibration: Path) -> float:
    """How far the recorded dense loss lies from that of plain transformers on the same windows, relatively."""
    from safetensors.torch import load_file

    tokens = load_file(calibration / "tokens.safetensors")["tokens"].long()
    recorded = open_calibration(calibration).manifest.dense_loss
    model = load_whole(directory, device=torch.device("cpu"), dtype=torch.float32)
    with torch.inference_mode():
        logits = torch.cat([model(input_ids=window[None]).logits.float() for window in tokens])
    plain = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    return abs(float(plain) - recorded) / float(plain)


def page(tried: list[Tried], versions: str) -> str:
    """docs/models.md."""
    works = [one for one in tried if one.works]
    partly = [one for one in tried if not one.works and one.reason is None]
    refused = [one for one in tried if one.reason is not None]
    return f"""# Which models work

Blocks are found by structure and called with the arguments that the model itself passes them, so no family has to be
known by name. This page was made by `python benchmarks/families.py` from a tiny model of each of the {len(tried)}
causal-LM types that {versions} knows. A type **works** if its losses, block by block, are those of plain
transformers (within {_CLOSE:g} of them), the cuts {_listed(CUTS)} of its blocks are written and verified, and half of
its weights are zeroed. A remark names what stays dense. The tests compare every logit of these types with
`from_pretrained`, to the last bit (`tests/models/test_same_model_of_every_type.py`), and those of the language models
inside multimodal checkpoints (`tests/models/test_wrapped_families.py`).

**Of {len(tried)} types {len(works)} work in every respect, {len(partly)} but for some cuts, {len(refused)} not.**

{_table("remark", works, _remark)}

## Mixtures of experts

{_EXPERTS}

{_experts_table(tried)}

## What works in part

The cuts that no config of the type can state are refused before any work, also with `--no-verify`. A result that
generates other text with its KV cache than without, where the source does not, fails its verification.

{_table("what is refused", partly, _why)}

## What is refused

In a sentence, before anything is written.

{_table("reason", refused, _why)}
"""


def _experts_table(tried: list[Tried]) -> str:
    """Types by what is done to their experts."""
    kinds: dict[str, list[str]] = {}
    for one in tried:
        if one.experts:
            kinds.setdefault(one.experts.partition(":")[0], []).append(f"`{one.model_type}`")
    rows = "\n".join(f"| {kind} | {', '.join(types)} |" for kind, types in sorted(kinds.items(), reverse=True))
    return f"| experts | types |\n|---|---|\n{rows}"


def _table(title: str, types: list[Tried], text: Callable[[Tried], str]) -> str:
    rows = "\n".join(f"| `{one.model_type}` | {one.architecture} | {_cell(text(one))} |" for one in types)
    return f"| type | class | {title} |\n|---|---|---|\n{rows}"


def _listed(cuts: tuple[str, ...]) -> str:
    return " and ".join(", ".join(f"`{cut}`" for cut in cuts).rsplit(", ", 1))


def _remark(one: Tried) -> str:
    note = ["with `is_decoder: true` in its config, else refused as an encoder"] if one.decoder else []
    return "; ".join([*note, one.zeros.removeprefix("works").removeprefix("; ")]).removesuffix("; ")


def _why(one: Tried) -> str:
    if one.reason is not None:
        return one.reason
    if one.loss is None or one.loss >= _CLOSE:
        return f"its loss differs from transformers' by {one.loss:.2g}"
    bad = [f"without {cut}: {said}" for cut, said in zip(CUTS, one.cuts, strict=True) if said != "works"]
    if not one.zeros.startswith("works"):
        bad.append(f"zeros: {one.zeros}")
    return " ".join(bad)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> None:
    """Type ``python benchmarks/families.py --help``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", help="some types, with commas between them")
    parser.add_argument("--out", type=Path, help="where the results go; types that it has already are not tried again")
    parser.add_argument("--page", type=Path, help="print docs/models.md from such a file, and try nothing")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers_logging.set_verbosity_error()
    constants.HF_HUB_OFFLINE = True
    if args.page is not None:
        known = read_results(args.page)
        tried = [Tried(**{**one, "cuts": tuple(one["cuts"])}) for one in known["types"]]
        print(page(tried, known["versions"]), end="")
        return
    known = read_results(args.out, {"types": []})
    done = {one["model_type"] for one in known["types"]}
    for model_type in args.types.split(",") if args.types else CAUSAL_LM_TYPES:
        if model_type in done:
            continue
        folder = Path(tempfile.mkdtemp())
        try:
            found = try_type(model_type, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(
            f"{model_type}: {'works' if found.works else _why(found)} {_remark(found) if found.works else ''}",
            flush=True,
        )
        if args.out is not None:
            known["types"] = sorted([*known["types"], asdict(found)], key=lambda one: one["model_type"])
            known["versions"] = f"transformers {version('transformers')}"
            keep_results(args.out, known)


if __name__ == "__main__":
    main()

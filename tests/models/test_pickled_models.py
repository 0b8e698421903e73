"""A checkpoint of pickles becomes one of safetensors files, and is the model that ``from_pretrained`` makes of them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from llmprune.artifacts.checkpoints.checkpoint import open_checkpoint
from llmprune.artifacts.checkpoints.finiteness import NonFiniteWeightsError
from llmprune.errors import CheckpointError, LlmpruneError, ModelError
from llmprune.models.loading import open_decoder
from llmprune.models.pickles import convert_pickles
from tests.models.test_same_model import by_block
from tests.pickled import pickle_weights
from tests.tiny import snapshot
from tests.tiny_models import CONFIGS, DEPTH, POSITIONS, random_tokens
from tests.zoo import tiny_config

CPU = torch.device("cpu")
TOKENS = random_tokens(2, 24)
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Spelling:
    """How old files of a family name what they hold.

    Attributes:
        family: a tiny config's name, or a type.
        without: the prefix that their names lack.
        head: whether the tied head is in them.
        beside: tensors that today's models have no place for.
    """

    family: str
    without: str = ""
    head: bool = True
    beside: Callable[[], dict[str, Tensor]] = dict


def _masks(name: str) -> Callable[[], dict[str, Tensor]]:
    """Causal masks, and the value behind them, of every block."""
    mask = torch.ones(POSITIONS, POSITIONS, dtype=torch.uint8).tril()[None, None]
    return lambda: {
        name.format(block=block) + suffix: tensor
        for block in range(DEPTH)
        for suffix, tensor in (("bias", mask), ("masked_bias", torch.tensor(-1e4)))
    }


SPELLINGS = {
    "OPT": Spelling("opt"),
    "OPT without a head": Spelling("opt", head=False),
    "OPT under decoder.": Spelling("opt", without="model.", head=False),
    "OPT under decoder. with a head": Spelling("opt", without="model."),
    "OPT with projections": Spelling("opt-projected"),
    "OPT with projections under decoder.": Spelling("opt-projected", without="model.", head=False),
    "GPT-2": Spelling("gpt2", without="transformer.", head=False, beside=_masks("h.{block}.attn.")),
    "Cerebras-GPT": Spelling("gpt2", beside=_masks("transformer.h.{block}.attn.")),
    "CodeGen": Spelling(
        "codegen",
        beside=lambda: {
            f"transformer.h.{block}.attn.causal_mask": torch.ones(1, 1, 8, 8, dtype=torch.bool)
            for block in range(DEPTH)
        },
    ),
    "XGLM": Spelling("xglm", beside=lambda: {"model.embed_positions.weights": torch.randn(POSITIONS + 2, 32)}),
    "GPT-Neo": Spelling("gpt-neo", beside=_masks("transformer.h.{block}.attn.attention.")),
    "GPT-NeoX": Spelling(
        "gpt-neox",
        beside=lambda: {f"gpt_neox.layers.{b}.attention.rotary_emb.inv_freq": torch.ones(4) for b in range(6)},
    ),
    "BLOOM": Spelling("bloom", without="transformer.", head=False),
}


def made(family: str, dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(0)
    config = CONFIGS[family]() if family in CONFIGS else tiny_config(family)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    return model


def save_spelled(
    spelling: Spelling, directory: Path, *, dtype: torch.dtype = torch.float16, num_shards: int = 1
) -> Path:
    model = made(spelling.family, dtype)
    model.save_pretrained(directory)
    tensors = {
        name.removeprefix(spelling.without): tensor
        for name, tensor in model.state_dict().items()
        if spelling.head or name != HEAD
    }
    return pickle_weights(directory, {**tensors, **spelling.beside()}, num_shards=num_shards)


def stored(directory: Path) -> dict[str, Tensor]:
    checkpoint = open_checkpoint(directory)
    return checkpoint.load(checkpoint.tensors)


IN_SHARDS = ("OPT under decoder. with a head", "Cerebras-GPT")


@pytest.mark.parametrize(
    ("case", "num_shards"), [*((case, 1) for case in SPELLINGS), *((case, 3) for case in IN_SHARDS)]
)
def test_it_is_the_model_that_transformers_reads_from_the_pickles(tmp_path, case, num_shards):
    source = save_spelled(SPELLINGS[case], tmp_path / "old", num_shards=num_shards)
    convert_pickles(source, tmp_path / "new")
    with torch.inference_mode():
        theirs = AutoModelForCausalLM.from_pretrained(source, use_safetensors=False, dtype=torch.float16)
        expected = theirs(TOKENS, use_cache=False).logits
    assert expected.isfinite().all()
    decoder = open_decoder(tmp_path / "new", device=CPU)
    assert decoder.dtype == torch.float16
    assert torch.equal(by_block(decoder), expected)


def test_a_head_that_is_the_embedding_is_stored_once_and_the_rest_as_it_is(tmp_path):
    source = save_spelled(SPELLINGS["Cerebras-GPT"], tmp_path / "old")
    held = torch.load(source / "pytorch_model.bin", weights_only=True)
    convert_pickles(source, tmp_path / "new")
    found = stored(tmp_path / "new")
    assert found.keys() == held.keys() - {HEAD}
    assert all(found[name].dtype == held[name].dtype and torch.equal(found[name], held[name]) for name in found)


def test_an_equal_tensor_that_the_config_does_not_tie_is_kept(tmp_path):
    source = save_spelled(SPELLINGS["OPT"], tmp_path / "old")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    convert_pickles(source, tmp_path / "new")
    assert HEAD in stored(tmp_path / "new")


def test_what_lies_beside_the_weights_comes_along(tmp_path):
    source = save_spelled(SPELLINGS["OPT"], tmp_path / "old")
    for name in ("README.md", "LICENSE", "tokenizer.json", "parts/helper.py"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(name)
    (source / "optimizer.pt").touch()
    convert_pickles(source, tmp_path / "new")
    found = {path.relative_to(tmp_path / "new").as_posix() for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert found == {
        "config.json", "generation_config.json", "model.safetensors", "README.md", "LICENSE", "tokenizer.json",
        "parts/helper.py",
    }  # fmt: skip
    assert (tmp_path / "new" / "config.json").read_bytes() == (source / "config.json").read_bytes()


def _config(**fields: object) -> Callable[[Path], None]:
    def change(source: Path) -> None:
        told = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps({**told, **fields}))

    return change


def _weights(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def damage(source: Path) -> None:
        held = torch.load(source / "pytorch_model.bin", weights_only=True)
        change(held)
        torch.save(held, source / "pytorch_model.bin")

    return damage


PROJECTION = "model.decoder.layers.3.self_attn.q_proj.weight"
BROKEN: dict[str, tuple[Callable[[Path], None], type[LlmpruneError], str]] = {
    "another depth": (_config(num_hidden_layers=8), CheckpointError, "promises 8 blocks, but the weights hold 6"),
    "another width": (_config(ffn_dim=64), CheckpointError, "has shape .* in the weights, but config.json asks for"),
    "another task": (_config(architectures=["OPTForQuestionAnswering"]), ModelError, "is not a causal language model"),
    "no such activation": (
        _config(activation_function="nosuch"),
        ModelError,
        "No language model can be made from this config",
    ),
    "a tensor less": (_weights(lambda held: held.pop(PROJECTION)), CheckpointError, f"The weights lack {PROJECTION}"),
    "integers": (_weights(lambda held: held.update({PROJECTION: held[PROJECTION].char()})), CheckpointError, "as I8"),
    "NaN": (_weights(lambda held: held[PROJECTION][3].fill_(torch.nan)), NonFiniteWeightsError, PROJECTION),
}


@pytest.mark.parametrize("case", BROKEN)
def test_weights_that_are_not_the_configs_are_refused_and_nothing_is_written(tmp_path, case):
    damage, error, words = BROKEN[case]
    source = save_spelled(SPELLINGS["OPT"], tmp_path / "old")
    damage(source)
    before = snapshot(tmp_path)
    with pytest.raises(error, match=words):
        convert_pickles(source, tmp_path / "made" / "new")
    assert snapshot(tmp_path) == before

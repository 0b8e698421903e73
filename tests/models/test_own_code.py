"""Models with Python code of their own beside their weights: refused unless it may run, and as any other if it may."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, ViTConfig

from llmprune.errors import ModelError
from llmprune.models.architecture import empty_model
from llmprune.models.compute import Compute
from llmprune.models.loading import load_whole, open_decoder
from llmprune.models.source import check_model
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from llmprune.stages.common.workspace import open_workspace
from tests.reference_search import skipped_logits
from tests.tiny_models import DEPTH, random_tokens, save_tiny

CPU = torch.device("cpu")
CONFIGURATION = """
from transformers import LlamaConfig

class OwnConfig(LlamaConfig):
    model_type = "own-llama"
"""
MODELING = """
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture(params=["own-llama", "llama"])
def own(tmp_path: Path, request) -> Path:
    """A Llama by another name, whose config and class (or, as a llama, the class alone) are in files of its own."""
    directory = save_tiny("llama", tmp_path / "own")
    (directory / "configuration_own.py").write_text(CONFIGURATION, encoding="utf-8")
    (directory / "modeling_own.py").write_text(MODELING, encoding="utf-8")
    raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    auto_map = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    changed = {"model_type": request.param, "architectures": ["OwnForCausalLM"], "auto_map": auto_map}
    (directory / "config.json").write_text(json.dumps({**raw, **changed}), encoding="utf-8")
    return directory


TOLD = "needs Python code that came with it; read it, and type `trust_remote_code=True`"


def test_its_own_code_runs_where_that_is_allowed(own):
    tokens = random_tokens(1, 8)
    decoder = open_decoder(own, device=CPU, trust_remote_code=True)
    assert type(decoder.model).__name__ == "OwnForCausalLM"
    whole = load_whole(own, device=CPU, dtype=torch.float32, trust_remote_code=True)
    with ExitStack() as stack, torch.no_grad():
        for block in range(len(decoder.blocks)):
            stack.enter_context(decoder.block(block))
        assert torch.equal(decoder.model(tokens).logits, whole(tokens).logits)


def test_it_does_not_run_where_it_is_not(own):
    if json.loads((own / "config.json").read_text(encoding="utf-8"))["model_type"] == "llama":
        assert type(open_decoder(own, device=CPU).model).__name__ == "LlamaForCausalLM"  # transformers' own
        return
    for open_it in (check_model, lambda path: open_decoder(path, device=CPU)):
        with pytest.raises(ModelError, match=TOLD):
            open_it(own)


def test_a_class_of_its_own_for_a_config_of_transformers_is_told_too():
    config = ViTConfig(auto_map={"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"})
    with pytest.raises(ModelError, match=TOLD):
        empty_model(config, dtype=torch.float32)


def test_its_blocks_go_and_its_code_comes_along(own, tmp_path):
    workspace = open_workspace(tmp_path / "run", str(own), compute=Compute(CPU), trust_remote_code=True)
    directory = remove_blocks(workspace, RemovalSettings(blocks=(1, 4))).directory
    left, whole = (
        AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True).eval() for path in (directory, own)
    )
    assert type(left).__name__ == "OwnForCausalLM"
    assert len(left.model.layers) == DEPTH - 2
    tokens = random_tokens(1, 8)
    with torch.no_grad():
        assert torch.equal(left(tokens).logits, skipped_logits(whole, tokens, (1, 4)))

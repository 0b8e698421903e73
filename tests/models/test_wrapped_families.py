"""A language model inside another model: its blocks go, everything beside it stays, and images are read as before."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from torch import Tensor

from llmprune.models.anatomy import find_blocks
from llmprune.models.loading import open_shell
from llmprune.stages.block_removal import RemovalSettings, remove_blocks
from llmprune.stages.calibration import CalibrationSettings
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.weight_pruning import PruningSettings, global_prune
from tests.reference_search import skipped_logits, skipping
from tests.tiny_models import DEPTH, random_tokens
from tests.wrapped_models import IMAGE, WRAPPED, save_wrapped

REMOVED = (1, 4)
TOKENS = random_tokens(2, 24)
Made = Callable[[str], Path]


@pytest.fixture(scope="session")
def wrapped(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return cache(lambda family: save_wrapped(family, tmp_path_factory.mktemp("wrapped") / family))


@pytest.fixture(scope="session")
def cut(wrapped: Made, workspace: Callable[[Path], Workspace]) -> Made:
    """The checkpoint without some blocks, written and verified by the stage itself."""
    return cache(lambda family: remove_blocks(workspace(wrapped(family)), RemovalSettings(blocks=REMOVED)).directory)


def named_class(directory: Path) -> type:
    raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return getattr(transformers, raw["architectures"][0])


def as_named(directory: Path) -> transformers.PreTrainedModel:
    """The model, loaded by the class that the config names; what its text needs to be read causally is its own."""
    options = {"attn_implementation": "eager"} if "paligemma" in str(directory) else {}
    return named_class(directory).from_pretrained(directory, **options).eval()


def blocks_tensors(directory: Path) -> list[set[str]]:
    return [set(names) for names in open_shell(directory, device=torch.device("cpu")).names.by_block]


@pytest.mark.parametrize("family", WRAPPED)
class TestEveryWrappedFamily:
    def test_text_is_read_as_by_the_model_that_skips_the_blocks(self, wrapped, cut, family):
        whole, left = as_named(wrapped(family)), as_named(cut(family))
        with torch.no_grad():
            found = left(input_ids=TOKENS, use_cache=False).logits
        assert torch.equal(found, skipped_logits(whole, TOKENS, REMOVED))
        assert (found - skipped_logits(whole, TOKENS, ())).abs().max() > 0.05

    def test_everything_but_the_blocks_is_the_same_bit_for_bit(self, wrapped, cut, family):
        old, new = (load_file(path(family) / "model.safetensors") for path in (wrapped, cut))
        before, after = blocks_tensors(wrapped(family)), blocks_tensors(cut(family))
        kept = [index for index in range(DEPTH) if index not in REMOVED]
        assert len(after) == len(kept)
        outside = set(old) - set().union(*before)
        assert outside == set(new) - set().union(*after)
        assert any("vision" in name or "visual" in name for name in outside)
        for name in outside:
            assert torch.equal(new[name], old[name]), name
        for place, index in enumerate(kept):
            for name in after[place]:
                source = name.replace(f".{place}.", f".{index}.", 1)
                assert source in before[index]
                assert torch.equal(new[name], old[source]), name

    def test_no_other_part_of_the_config_changes(self, wrapped, cut, family):
        old, new = (json.loads((path(family) / "config.json").read_text(encoding="utf-8")) for path in (wrapped, cut))
        assert {name for name in old if old[name] != new[name]} == {"text_config"}
        assert set(old) == set(new)
        assert new["text_config"]["num_hidden_layers"] == DEPTH - len(REMOVED)

    def test_zeros_are_put_into_the_language_model_alone(self, wrapped, workspace, tmp_path, family):
        text = tmp_path / "text.txt"
        text.write_text(" ".join(f"w{3 + 7 * word % 100}" for word in range(500)), encoding="utf-8")
        calibration = CalibrationSettings(source=str(text), samples=4, seq_len=16)
        settings = PruningSettings(refit_steps=0, out=tmp_path / "sparse")
        global_prune(workspace(wrapped(family)), settings, calibration=calibration)
        old, new = (load_file(path / "model.safetensors") for path in (wrapped(family), tmp_path / "sparse"))
        inside = set().union(*blocks_tensors(wrapped(family)))
        pruned = {name for name in old if not torch.equal(old[name], new[name])}
        assert pruned <= inside
        assert len(pruned) >= 7 * DEPTH
        assert all(bool((new[name] == 0).float().mean() >= 0.5) for name in pruned)


def images(family: str) -> dict[str, Tensor]:
    """An image, and text behind it."""
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    pieces = {"llava": 4, "smolvlm": 4, "internvl": 1}[family]
    tokens = torch.cat([torch.full((1, pieces), IMAGE), TOKENS[:1, :8]], dim=1)
    return {"input_ids": tokens, "pixel_values": pixels[None] if family == "smolvlm" else pixels}


@pytest.mark.parametrize("family", ["llava", "internvl", "smolvlm"])
def test_an_image_is_read_as_by_the_model_that_skips_the_blocks(wrapped, cut, family):
    whole, left = as_named(wrapped(family)), as_named(cut(family))
    with torch.no_grad():
        with skipping(find_blocks(whole, whole.config)[1], REMOVED):
            expected = whole(**images(family), use_cache=False).logits
        assert torch.equal(left(**images(family), use_cache=False).logits, expected)
        blind = {**images(family), "pixel_values": torch.zeros_like(images(family)["pixel_values"])}
        assert not torch.equal(left(**blind, use_cache=False).logits, expected)


def test_the_card_says_how_to_load_it(cut):
    card = ModelCard.load(cut("llava") / "README.md")
    assert "AutoModelForImageTextToText.from_pretrained(" in card.text
    assert card.data.pipeline_tag == "image-text-to-text"

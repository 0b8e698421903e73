"""Finding a model's blocks, and a checkpoint's tensors of each block."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM

from llmprune.errors import CheckpointError, ModelError
from llmprune.models.anatomy import block_count, find_blocks, name_blocks
from tests.tiny_models import CONFIGS, DEPTH, FAMILIES, tiny_model
from tests.zoo import tiny_config


def layers(indices, *, prefix="model.layers", part="w"):
    return [f"{prefix}.{index}.{part}" for index in indices]


def named(names, *, depth, path="model.layers", spelled=None):
    """Names sorted by block, where those spelled as the module path (or ``spelled``) are its parameters."""
    spelled = spelled or path
    places = {name: path + name.removeprefix(spelled) if name.startswith(spelled) else name for name in names}
    held = {name: place for name, place in places.items() if not _is_behind(place, path, depth)}
    return name_blocks(names, held, path=path, num_blocks=depth)


def _is_behind(place, path, depth):
    return place.startswith(f"{path}.") and int(place.removeprefix(f"{path}.").split(".")[0]) >= depth


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_found_and_hold_every_tensor_that_is_neither_embedding_nor_head(family):
    model = tiny_model(family)
    path, blocks = find_blocks(model, model.config)
    assert model.get_submodule(path) is blocks
    assert len({type(block) for block in blocks}) == 1
    assert len(blocks) == DEPTH
    assert "vision" not in path


def test_the_list_of_the_most_parameters_is_the_decoder():
    class TwoTowers(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = nn.ModuleList(nn.Linear(2, 2) for _ in range(DEPTH))
            self.decoder = nn.ModuleList(nn.ModuleList(nn.Linear(4, 4) for _ in range(DEPTH)) for _ in range(DEPTH))

    path, blocks = find_blocks(TwoTowers(), CONFIGS["llama"]())
    assert path == "decoder"
    assert isinstance(blocks[0], nn.ModuleList), "the experts of a block are not its model's blocks"


def test_a_tower_inside_the_decoder_that_is_as_deep_is_not_taken_for_it():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny_config("git"))
    assert find_blocks(model, model.config)[0] == "git.encoder.layer"


def test_a_model_without_a_list_of_that_length_is_refused():
    with pytest.raises(ModelError, match="no list of 6 blocks"):
        find_blocks(nn.ModuleList(nn.Linear(2, 2) for _ in range(DEPTH - 1)), CONFIGS["llama"]())


@pytest.mark.parametrize("depth", [0, -1, None, "six"])
def test_a_depth_that_is_no_positive_integer_is_refused(depth):
    config = CONFIGS["llama"]()
    config.__dict__["num_hidden_layers"] = depth
    with pytest.raises(ModelError, match="num_hidden_layers = "):
        block_count(config)


@given(st.sets(st.integers(0, 12)), st.integers(1, 10))
def test_only_blocks_without_gaps_are_accepted(indices, depth):
    names = ["embed", *layers(sorted(indices))]
    if indices >= set(range(depth)):
        found = named(names, depth=depth)
        assert found.by_block == tuple((name,) for name in layers(range(depth)))
        assert found.behind == tuple((name,) for name in layers(sorted(indices - set(range(depth)))))
        assert found.outside == ("embed",)
    else:
        with pytest.raises(CheckpointError, match="do not belong together"):
            named(names, depth=depth)


@given(st.permutations([*layers(range(12)), *layers(range(12), part="v"), "head", "model.norm"]))
def test_the_order_of_names_does_not_matter(names):
    found = named(names, depth=12)
    assert [sorted(block) for block in found.by_block] == [
        [f"model.layers.{index}.v", f"model.layers.{index}.w"] for index in range(12)
    ]
    assert set(found.outside) == {"head", "model.norm"}


@pytest.mark.parametrize("prefix", ["h", "transformer.h", "module.transformer.h"])
def test_longer_and_shorter_paths_than_the_models_own_are_understood(prefix):
    found = named(layers(range(3), prefix=prefix), depth=3, path="transformer.h", spelled=prefix)
    assert found.prefix == f"{prefix}."
    assert found.renumbered(f"{prefix}.2.w", 0) == f"{prefix}.0.w"


def test_another_tower_of_the_same_depth_stays_outside():
    tower = layers(range(3), prefix="vision_tower.encoder.layers")
    names = [*tower, *layers(range(3), prefix="language_model.model.layers")]
    found = named(names, depth=3, path="model.language_model.layers", spelled="language_model.model.layers")
    assert found.prefix == "language_model.model.layers."
    assert found.outside == tuple(tower)


def test_a_list_of_the_same_name_inside_a_block_belongs_to_the_block():
    names = layers(range(2)) + [f"model.layers.{block}.mlp.layers.{inner}.w" for block in (0, 1) for inner in (0, 1)]
    found = named(names, depth=2)
    assert found.prefix == "model.layers."
    assert [len(block) for block in found.by_block] == [3, 3]
    assert found.renumbered("model.layers.1.mlp.layers.0.w", 0) == "model.layers.0.mlp.layers.0.w"


def test_tensors_that_are_not_used_follow_the_block_that_their_names_tell():
    masks = layers(range(3), part="masked_bias")
    used = layers(range(3))
    found = name_blocks([*used, *masks], {name: name for name in used}, path="model.layers", num_blocks=3)
    assert found.by_block == tuple(zip(used, masks, strict=True))


def test_names_that_nothing_ties_to_a_blocks_number_are_refused():
    places = {"queries.0": "model.layers.1.q", "model.layers.0.w": "model.layers.0.w"}
    with pytest.raises(ModelError, match="cannot be renumbered"):
        name_blocks(places, places, path="model.layers", num_blocks=2)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (layers([0, 1, 3]), "hold 3 of them under 'model.layers.' (2 missing)"),
        (["head"], "hold none of them under 'model.layers.'"),
        (layers(range(3)), "(3 missing)"),
    ],
)
def test_the_message_says_what_the_weights_hold(names, told):
    with pytest.raises(CheckpointError) as caught:
        named(names, depth=4)
    assert told in str(caught.value)
    assert "promises 4 blocks" in str(caught.value)

import pytest

from llmprune.artifacts.records.healing import BlockHealing, Healing, HealingSettings, LayerHealing
from llmprune.artifacts.records.provenance import ModelIdentity

SETTINGS = HealingSettings(
    teacher=ModelIdentity(name="m", fingerprint="f", model_type="llama", num_blocks=5, num_parameters=1),
    scope="cut",
    origins=(0, 1, 4),
    ridges=(0.1,),
    dtype="float32",
    windows=4,
    held_back=1,
    seq_len=8,
    corpus="c4",
    windows_fingerprint="w",
)


def layer(kind, before, after, bias=None):
    numbers = {"ridge": 0.1, "error_before": 0.5, "error": 0.25, "masked": False}
    return LayerHealing(tensor=f"{kind}.weight", bias=bias, kind=kind, loss_before=before, loss=after, **numbers)


def block(*layers):
    return BlockHealing(block=1, before=4, layers=layers, seconds=2.4)


@pytest.mark.parametrize(("after", "kept"), [(2.5, True), (3.0, False), (3.5, False), (None, False)])
def test_a_layer_is_kept_where_the_loss_falls(after, kept):
    one = layer("o", 3.0, after)
    assert one.kept is kept
    assert block(one).loss == (after if kept else 3.0)


def test_losses_and_names_are_of_what_was_kept():
    first = block(layer("o", 3.0, 2.75, bias="o.bias"), layer("down", 2.75, 2.875))
    last = block(layer("down", 2.75, 2.5))
    healing = Healing(settings=SETTINGS, blocks=(first, block(), last), remarks=(), seconds=1.0)
    assert [one.kind for one in healing.layers] == ["o", "down", "down"]
    assert healing.healed_tensors == ("o.weight", "o.bias", "down.weight")
    assert healing.losses == (3.0, 2.5)
    assert Healing(settings=SETTINGS, blocks=(block(),), remarks=(), seconds=1.0).losses is None
    assert SETTINGS.text == "c4"


def test_what_is_said_of_a_block():
    assert str(block()) == "block   1: no layer that can be solved (2 s)"
    assert str(block(layer("o", 3.0, 2.75), layer("down", 2.75, None))) == (
        "block   1: o (ridge 0.1), held-back loss 3.0000 -> 2.7500 (2 s)"
    )
    assert str(block(layer("o", 3.0, 3.5))) == "block   1: nothing that helps, held-back loss 3.0000 -> 3.0000 (2 s)"

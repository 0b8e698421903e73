"""What a block returns, and what stands where an earlier block's values would."""

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from llmprune.errors import ModelError
from llmprune.models.block_output import HandedOn, HandedOnUsedError, Returned

OLD, NEW = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)


def test_hidden_states_alone_are_replaced_by_hidden_states_alone():
    assert Returned(OLD).hidden is OLD
    assert Returned(OLD).around(NEW) is NEW


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_tuple_or_list_keeps_its_kind_its_length_and_its_nones(kind):
    returned = Returned(kind([OLD, None, torch.ones(3), (None, None)]))
    made = returned.around(NEW)
    assert returned.hidden is OLD
    assert type(made) is kind
    assert len(made) == 4
    assert made[0] is NEW
    assert made[1] is None
    assert isinstance(made[2], HandedOn)
    assert made[3] == (None, None)


def test_a_model_output_keeps_its_fields():
    made = Returned(BaseModelOutput(last_hidden_state=OLD, attentions=(torch.ones(1),))).around(NEW)
    assert isinstance(made, BaseModelOutput)
    assert made.last_hidden_state is NEW
    assert isinstance(made.attentions[0], HandedOn)


@pytest.mark.parametrize("value", [None, (), (None, OLD), {"hidden": OLD}, 3])
def test_a_block_that_returns_no_hidden_states_first_is_refused(value):
    with pytest.raises(ModelError, match="where its hidden states were expected"):
        Returned(value)


@pytest.mark.parametrize(
    "use",
    [
        lambda value: value.long(),
        lambda value: value["full_attention"],
        lambda value: value.get("full_attention"),
        lambda value: "full_attention" in value,
        lambda value: torch.ones(2) + value,
        lambda value: torch.cat([torch.ones(2), value]),
        lambda value: list(value),
        lambda value: not value,
    ],
)
def test_no_look_at_a_value_that_an_earlier_block_would_have_handed_on_goes_unseen(use):
    with pytest.raises(HandedOnUsedError):
        use(HandedOn())


def test_what_a_block_itself_wrote_it_may_read():
    store = HandedOn()
    store["full_attention"] = OLD
    assert store["full_attention"] is OLD
    assert store.get("full_attention") is OLD
    assert "full_attention" in store


def test_only_an_empty_mapping_is_taken_for_a_store_of_earlier_blocks():
    full = {"a": 1}
    assert isinstance(HandedOn.instead_of_store({}), HandedOn)
    assert HandedOn.instead_of_store(full) is full
    assert HandedOn.instead_of_store(None) is None
    store = HandedOn()
    assert HandedOn.instead_of_store(store) is store

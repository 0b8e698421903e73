"""Checks that several stages share."""

import pytest
import torch

from llmprune.errors import ModelError
from llmprune.stages.common.checks import require_vocabulary


def test_every_token_of_the_vocabulary_is_allowed():
    require_vocabulary(1_000, torch.tensor([[0, 999], [5, 5]]))


@pytest.mark.parametrize(("ids", "token"), [([[1, 2], [3, 1_000]], 1_000), ([[-1, 2]], -1), ([[-1, 2_000]], 2_000)])
def test_a_token_without_an_embedding_is_named(ids, token):
    with pytest.raises(
        ModelError, match=rf"has token {token}, and the model has embeddings for 1,000 tokens, 0 to 999;"
    ):
        require_vocabulary(1_000, torch.tensor(ids))

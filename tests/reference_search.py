"""The slow and obvious definition of everything that the block search computes."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from llmprune.algorithms.blocks.evaluator import BlockEvaluator, WindowLosses
from llmprune.models.anatomy import find_blocks


@contextmanager
def skipping(blocks: nn.ModuleList, skipped: Iterable[int]) -> Iterator[None]:
    """Blocks run as ever, but what the ones in ``skipped`` return is replaced by what they were given."""

    def give_back(module, args, kwargs, output):
        given = args[0] if args else kwargs["hidden_states"]
        return type(output)([given, *output[1:]]) if isinstance(output, tuple | list) else given

    with ExitStack() as hooks:
        for index in skipped:
            hooks.enter_context(blocks[index].register_forward_hook(give_back, with_kwargs=True))
        yield


@torch.no_grad()
def skipped_logits(model: nn.Module, tokens: Tensor, skipped: Iterable[int]) -> Tensor:
    """Logits of a full forward pass of the plain model without the blocks ``skipped``."""
    with skipping(find_blocks(model, model.config)[1], skipped):
        return model(input_ids=tokens, use_cache=False).logits


def skipped_loss(model: nn.Module, tokens: Tensor, skipped: Iterable[int]) -> float:
    """Mean cross entropy, in nats a predicted token, one window at a time."""
    sums = [
        nn.functional.cross_entropy(
            skipped_logits(model, row[None], skipped)[0, :-1].double(), row[1:], reduction="sum"
        )
        for row in tokens
    ]
    return float(sum(sums)) / (tokens.shape[0] * (tokens.shape[1] - 1))


def naive_search(
    model: nn.Module, tokens: Tensor, *, count: int, protected: Iterable[int] = ()
) -> list[dict[int, float]]:
    """For each round, the loss without each candidate; what is smallest is gone in the next round."""
    depth = len(find_blocks(model, model.config)[1])
    gone: list[int] = []
    rounds = []
    for _ in range(count):
        candidates = [block for block in range(depth) if block not in gone and block not in protected]
        losses = {block: skipped_loss(model, tokens, [*gone, block]) for block in candidates}
        rounds.append(losses)
        gone.append(min(losses, key=lambda block: losses[block]))
    return rounds


def baseline_losses(evaluator: BlockEvaluator, windows: range, *, remaining: Iterable[int]) -> WindowLosses:
    """Losses of the model that has only the blocks ``remaining``: one state."""
    states = evaluator.entering(windows)[None].clone()
    for block in remaining:
        evaluator.apply_block(block, states, windows)
    return evaluator.losses(states, windows)

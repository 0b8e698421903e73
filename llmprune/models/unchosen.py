"""A block whose router cannot choose some of its experts: what removing them must come to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from llmprune.models.capture import relayed
from llmprune.models.experts import expert_modules


class _MaskedLogits(TorchFunctionMode):
    """Makes minus infinity of some columns of every product that has one column for each expert."""

    def __init__(self, experts: int, removed: Sequence[int]) -> None:
        super().__init__()
        self._experts = experts
        self._removed = list(removed)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call ``func``, and mask what it gives where it is a product."""
        result = func(*args, **(kwargs or {}))
        product = getattr(func, "__name__", "") in {"linear", "matmul", "__matmul__", "mm", "addmm"}
        if product and isinstance(result, Tensor) and result.shape[-1] == self._experts:
            result[..., self._removed] = -torch.inf
        return result


@contextmanager
def unchosen(block: nn.Module, removed: Sequence[int]) -> Iterator[None]:
    """Let the routers of a block never choose the experts ``removed``, for as long as the context lasts.

    Their logits are minus infinity, and so are the biases that are added before the choice.

    Args:
        block: with its weights.
        removed: indices of experts; none: nothing is changed.
    """
    with ExitStack() as changes:
        for path, module in (expert_modules(block) if removed else {}).items():
            count = len(module.get_parameter("down_proj"))
            around = block.get_submodule(path.rpartition(".")[0])
            routers = [child for child in around.children() if child is not module and _is_router(child, count)]
            changes.enter_context(relayed(routers, [_masked(router, count, removed) for router in routers]))
            changes.enter_context(_biased(around, module, count, removed))
        yield


def _is_router(child: nn.Module, experts: int) -> bool:
    """Whether a module beside the experts has a matrix with a row for each of them."""
    return any(parameter.ndim == 2 and len(parameter) == experts for parameter in child.parameters())


def _masked(router: nn.Module, experts: int, removed: Sequence[int]) -> Callable[..., Any]:
    forward = router.forward

    def masked(*args: Any, **kwargs: Any) -> Any:
        with _MaskedLogits(experts, removed):
            return forward(*args, **kwargs)

    return masked


@contextmanager
def _biased(around: nn.Module, experts: nn.Module, count: int, removed: Sequence[int]) -> Iterator[None]:
    """Let every bias beside the experts that has an entry for each of them be minus infinity for those removed."""
    inside = {id(module) for module in experts.modules()}
    biases = [
        (module, name, bias)
        for module in around.modules()
        if id(module) not in inside
        for name, bias in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        if "bias" in name and bias.shape[-1:] == (count,)
    ]
    try:
        for module, name, bias in biases:
            masked = bias.detach().clone()
            masked[..., list(removed)] = -torch.inf
            setattr(module, name, nn.Parameter(masked, requires_grad=False) if name in module._parameters else masked)
        yield
    finally:
        for module, name, bias in biases:
            setattr(module, name, bias)

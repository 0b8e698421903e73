"""A model in memory as a ``Decoder``, and the models made from it, without a change to the caller's."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmprune.errors import ModelError
from llmprune.models.anatomy import find_blocks
from llmprune.models.capture import BlockRunner
from llmprune.models.config import check_config
from llmprune.models.loading import load_tokenizer
from llmprune.models.requirements import require_own_weights, require_separable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TYPE_ONE = "a model of transformers' with a language-model head (AutoModelForCausalLM) was expected."


@dataclass
class ModelDecoder:
    """A ``Decoder`` of a model whose weights are all in memory; tensors go by the model's own names.

    Attributes:
        model: in evaluation mode.
        blocks: its transformer blocks, in order.
        path: where they are in the model, e.g. ``model.layers``.
        runner: runs embedding, single blocks and head.
        device: where everything is computed.
        dtype: of hidden states.
    """

    model: PreTrainedModel
    blocks: nn.ModuleList
    path: str
    runner: BlockRunner
    device: torch.device
    dtype: torch.dtype

    @property
    def keeps_changes(self) -> bool:
        """They are the model's from then on."""
        return True

    @contextmanager
    def block(self, index: int) -> Iterator[None]:
        """Its weights are always there."""
        yield

    def keep(self, *, device: int, host: int) -> None:
        """They are."""

    def expect(self, blocks: Iterable[int]) -> None:
        """In any order."""

    @property
    def pass_seconds(self) -> float:
        """Nothing is read."""
        return 0.0

    def block_bytes(self, index: int) -> int:
        """None beside what the model takes."""
        return 0

    def stored(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Parameters by name."""
        return {name: self.model.get_parameter(name).detach() for name in names}

    def forget(self, names: Iterable[str]) -> None:
        """They are the model's."""

    def tensor_of(self, parameter: str) -> str | None:
        """Itself."""
        return parameter

    def tensors_of(self, parameter: str) -> tuple[tuple[str, ...], ...]:
        """Itself."""
        return ((parameter,),)


def model_decoder(model: PreTrainedModel) -> ModelDecoder:
    """See a model in memory as a decoder.

    What is done to the decoder's model is not done to the caller's: it is ``sharing_copy`` of it.

    Raises:
        ModelError: no causal LM, quantized, or not wholly in the memory of one device.
    """
    device = _checked(model)
    own = sharing_copy(model).eval()
    path, blocks = find_blocks(own, own.config)
    runner = BlockRunner(own, blocks)
    require_own_weights(own, path)
    dtype = runner.embed(torch.zeros(1, 2, dtype=torch.int64, device=device)).dtype
    decoder = ModelDecoder(own, blocks, path, runner, device, dtype)
    require_separable(decoder)
    return decoder


def sharing_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The same modules again, whose parameters use the same memory; parameters that are one stay one.

    Replacing a parameter of the copy, its mode or its config leaves ``model`` as it is. Changing a parameter in place
    changes both.
    """
    shared = {id(old): nn.Parameter(old.detach(), requires_grad=old.requires_grad) for old in model.parameters()}
    return copy.deepcopy(model, shared)


def with_weights_of(
    model: PreTrainedModel,
    empty: PreTrainedModel,
    renames: Mapping[str, str],
    *,
    entries: Mapping[str, tuple[int, Sequence[int]]] | None = None,
) -> PreTrainedModel:
    """Fill a model that has no weights with those of ``model``, which both use from then on.

    Args:
        model: in memory.
        empty: its parameters on the meta device, its buffers real.
        renames: names in ``model`` of the parameters and buffers to take -> names in ``empty``.
        entries: names in ``model`` of those of which only some entries of a dimension are taken, and copied.

    Returns:
        ``empty``, in the mode of ``model`` and on its device.

    Raises:
        ModelError: a parameter of ``empty`` is not among them.
    """
    given = sharing_copy(model).state_dict(keep_vars=True)
    for name, (axis, kept) in (entries or {}).items():
        some = given[name].detach().index_select(axis, torch.tensor(kept, device=given[name].device))
        whole = isinstance(given[name], nn.Parameter)
        given[name] = nn.Parameter(some, requires_grad=given[name].requires_grad) if whole else some
    for old, new in renames.items():
        path, _, leaf = new.rpartition(".")
        setattr(empty.get_submodule(path), leaf, given[old])
    missing = min((name for name, parameter in empty.named_parameters() if parameter.is_meta), default=None)
    if missing is not None:
        raise ModelError(f"The new {type(empty).__name__} needs {missing}, which the model does not have.")
    for module in empty.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(model.device))
    empty.generation_config = copy.deepcopy(model.generation_config)
    empty.train(model.training)
    return empty


def tokenizer_of(model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer of a model in memory, from where the model was loaded.

    Raises:
        ModelError: the model does not say where that was, or no tokenizer is there.
    """
    if not model.name_or_path:
        raise ModelError(
            f"This {type(model).__name__} does not say where it was loaded from, so its tokenizer is not known; give "
            "the tokenizer itself."
        )
    return load_tokenizer(Path(model.name_or_path))


def _checked(model: PreTrainedModel) -> torch.device:
    """See that a model can be worked on; returns where it is."""
    if not isinstance(model, PreTrainedModel):
        raise ModelError(f"A {type(model).__name__} was given; {_TYPE_ONE}")
    called = model.name_or_path or type(model).__name__
    check_config(model.config, called=called)
    if not model.can_generate():
        raise ModelError(f"{called} is a {type(model).__name__}; {_TYPE_ONE}")
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) > 1 or torch.device("meta") in devices:
        found = ", ".join(sorted(map(str, devices)))
        raise ModelError(
            f"The weights of {called} are on {found}; put the model on one device (device_map=None), or give its path, "
            "and it is read from there block by block."
        )
    return devices.pop()

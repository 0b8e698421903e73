"""Whether a model can do without some of its blocks: the model that is left is built, and held against the whole one.

A block may compute something that depends on its index or on the number of blocks, in ways that no config can say.
So the cut model is built from its config alone. Its parameters must be the kept blocks' own, and every block must give
the same output at its new place as at its old one. The weights are random: nothing is read, and one block is in memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llmprune.errors import ModelError
from llmprune.models.anatomy import find_blocks
from llmprune.models.architecture import empty_model
from llmprune.models.block_output import HandedOnUsedError
from llmprune.models.capture import BlockCall, BlockRunner
from llmprune.models.random_weights import RandomWeights
from llmprune.models.surgery import cut_config
from llmprune.models.weights import compute_buffers, drop_parameters
from llmprune.quiet import first_sentence, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_TOKENS = 8
_WINDOW = 4  # of sliding attention, so that the few tokens tell it from full attention
_WINDOWS = re.compile(r".*window(_size)?|attention_chunk_size|local_attention")
_ROUNDING = 8  # units in the last place that a constant which is computed another way may change


class _NoWayError(Exception):
    """Why blocks cannot be removed, in words that go on after the model's name."""


@dataclass(frozen=True)
class _Shell:
    """A model without weights, and its blocks."""

    model: PreTrainedModel
    path: str
    blocks: nn.ModuleList
    runner: BlockRunner

    def outside(self) -> dict[str, nn.Parameter]:
        """Parameters that belong to no block, by name; tied ones under every name."""
        own = {id(parameter) for parameter in self.blocks.parameters()}
        named = self.model.named_parameters(remove_duplicate=False)
        return {name: parameter for name, parameter in named if id(parameter) not in own}


class RemovalCheck:
    """Tells whether blocks of a model can be removed.

    Args:
        raw: config.json as it is on disk.
        config: the same, loaded.
        filled: names, in the model, of the parameters and buffers whose values are stored.
        make: makes the empty model of a config.
        device: where to compute.
    """

    def __init__(
        self,
        raw: Mapping[str, Any],
        config: PreTrainedConfig,
        filled: Container[str],
        *,
        make: Callable[[PreTrainedConfig], PreTrainedModel],
        device: torch.device,
    ) -> None:
        self._raw, self._config, self._filled = raw, config, filled
        self._make, self._device = make, device
        self._weights = RandomWeights(device)
        self._whole = self._shell(self._loaded(raw))
        self._weights.fill(self._whole.model, besides=self._whole.blocks.parameters())
        vocabulary = int(config.get_text_config(decoder=True).vocab_size)
        generator = torch.Generator().manual_seed(0)
        self._tokens = torch.randint(vocabulary, (1, _TOKENS), generator=generator).to(device)

    def require_some(self, candidates: Iterable[int]) -> None:
        """See that at least one of the blocks could go, alone.

        Raises:
            ModelError: none could.
        """
        depth = len(self._whole.blocks)
        first: ModelError | None = None
        for block in candidates:
            try:
                self.require([kept for kept in range(depth) if kept != block])
            except ModelError as error:
                first = first or error
            else:
                return
        if first is not None:
            raise ModelError(f"None of the blocks can be removed. {first}")

    def allows(self, kept: Sequence[int]) -> bool:
        """Whether ``require`` raises nothing."""
        try:
            self.require(kept)
        except ModelError:
            return False
        return True

    @torch.inference_mode()
    def require(self, kept: Sequence[int]) -> None:
        """See that the model which has only the blocks ``kept`` computes what they compute.

        Raises:
            ModelError: it does not, or no config can say what is left.
        """
        try:
            cut = self._shell(self._loaded(cut_config(self._raw, self._config, kept)))
            self._require_same_parameters(cut, kept)
            theirs = self._whole.outside()
            for name in cut.outside():
                _put(cut.model, name, theirs[name])
            self._require_same_computation(cut, kept)
            self._require_cache(cut)
        except (_NoWayError, ModelError) as error:
            removed = [block for block in range(len(self._whole.blocks)) if block not in kept]
            raise ModelError(
                f"Block{'s' * (len(removed) > 1)} {', '.join(map(str, removed))} cannot be removed from this model of "
                f"type {self._config.model_type}: {str(error).removesuffix('.')}."
            ) from error

    def _loaded(self, raw: Mapping[str, Any]) -> PreTrainedConfig:
        """A config with windows so short that a few tokens tell one kind of attention from the other."""
        try:
            with TemporaryDirectory() as folder, quiet():
                Path(folder, "config.json").write_text(json.dumps(raw), encoding="utf-8")
                config = type(self._config).from_pretrained(folder)
        except Exception as error:  # a config class may refuse a combination of fields in any way
            raise _NoWayError(f"what is left has no valid config ({first_sentence(error)})") from error
        text = config.get_text_config(decoder=True)
        for name, value in text.to_dict().items():
            if _WINDOWS.fullmatch(name) and type(value) is int and value > _WINDOW:
                setattr(text, name, _WINDOW)
        return config

    def _shell(self, config: PreTrainedConfig) -> _Shell:
        model = self._make(config)
        path, blocks = find_blocks(model, config)
        compute_buffers(model, device=self._device)
        return _Shell(model, path, blocks, BlockRunner(model, blocks))

    def _require_same_parameters(self, cut: _Shell, kept: Sequence[int]) -> None:
        ours, theirs = _shapes(cut.outside()), _shapes(self._whole.outside())
        if difference := _difference(ours, theirs):
            raise _NoWayError(f"outside the blocks {difference}")
        for new, old in enumerate(kept):
            ours, theirs = (_shapes(block.state_dict()) for block in (cut.blocks[new], self._whole.blocks[old]))
            if difference := _difference(ours, theirs):
                raise _NoWayError(f"block {old} would become block {new}, and there {difference}")

    def _require_same_computation(self, cut: _Shell, kept: Sequence[int]) -> None:
        whole = self._whole
        for shell in (whole, cut):
            self._weights.fill(shell.blocks[0])
            shell.runner.learn_returned(self._tokens)
            drop_parameters(shell.blocks[0])
        embedded = whole.runner.embed(self._tokens)
        if self._differ(embedded, cut.runner.embed(self._tokens)):
            raise _NoWayError("its embeddings would come out otherwise")
        hidden = self._weights.of(torch.Size((embedded.numel(), 1)), embedded.dtype).view(embedded.shape)
        before, after = (shell.runner.calls(self._tokens) for shell in (whole, cut))
        for new, old in enumerate(kept):
            if difference := self._block_difference(cut, new, old, hidden, (before[old], after[new])):
                raise _NoWayError(
                    f"block {old}, as block {new} of {len(kept)}, would give other outputs (by {difference:.2g}). It "
                    "computes something that depends on its index or on the number of blocks, and no config can say "
                    "otherwise"
                )
        if self._differ(whole.runner.logits(hidden), cut.runner.logits(hidden)):
            raise _NoWayError("its head would give other logits")

    def _block_difference(
        self, cut: _Shell, new: int, old: int, hidden: Tensor, calls: tuple[BlockCall, BlockCall]
    ) -> float:
        """How far apart a block's outputs at both places are; 0 where that is rounding."""
        source, place = self._whole.blocks[old], cut.blocks[new]
        self._weights.fill(source)
        for name, parameter in source.named_parameters(remove_duplicate=False):
            _put(place, name, parameter)
        for name, buffer in source.named_buffers():
            if f"{self._whole.path}.{old}.{name}" in self._filled:
                if buffer.is_floating_point():  # its value would come from the files: here it is whatever memory held
                    buffer.copy_(self._weights.of(buffer.shape, buffer.dtype))
                place.get_buffer(name).copy_(buffer)
        try:
            one = self._whole.runner.forward_block(old, hidden, calls[0])
            other = cut.runner.forward_block(new, hidden, calls[1])
        finally:
            drop_parameters(source)
            drop_parameters(place)
        return self._differ(one, other)

    def _require_cache(self, cut: _Shell) -> None:
        """See that generation with a KV cache still begins, if it does in the whole model."""
        if (why := self._why_no_cache(cut)) and not self._why_no_cache(self._whole):
            raise _NoWayError(f"what is left could not generate with the KV cache (transformers: {why})")

    def _why_no_cache(self, shell: _Shell) -> str:
        try:
            shell.runner.pass_by(self._tokens, use_cache=True)
        except HandedOnUsedError:  # it works with what its blocks put into the cache: the blocks were reached
            return ""
        except Exception as error:  # whatever the model's code makes of a cache that fits none of its blocks
            return first_sentence(error)
        return ""

    def _differ(self, one: Tensor, other: Tensor) -> float:
        """The largest difference; 0 where it is rounding."""
        if one.shape != other.shape:
            return float("inf")
        difference = float((one - other).abs().max())
        rounding = _ROUNDING * torch.finfo(one.dtype).eps * float(one.abs().max())
        return 0.0 if difference <= rounding else difference


def check_of(model: PreTrainedModel) -> RemovalCheck:
    """The check of a model in memory."""
    return RemovalCheck(
        json.loads(model.config.to_json_string()),
        model.config,
        model.state_dict().keys(),
        make=partial(empty_model, dtype=model.dtype, kind=type(model)),
        device=model.device,
    )


def _shapes(parameters: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in parameters.items()}


def _difference(ours: Mapping[str, tuple[int, ...]], theirs: Mapping[str, tuple[int, ...]]) -> str:
    """What is different in the parameters of a cut model, in words; nothing if nothing is."""
    for name in sorted({*ours, *theirs}):
        if name not in ours:
            return f"no config makes a model that has {name}"
        if name not in theirs:
            return f"every config makes a model that needs {name}, which is not stored"
        if ours[name] != theirs[name]:
            return f"every config makes a model whose {name} has shape {ours[name]}, and {theirs[name]} is stored"
    return ""


def _put(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    path, _, own = name.rpartition(".")
    setattr(module.get_submodule(path), own, parameter)

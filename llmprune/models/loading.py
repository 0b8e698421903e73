"""Opening a model on disk for block-by-block work: config and shell first, weights when they are needed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint, open_checkpoint
from llmprune.errors import ModelError
from llmprune.models.anatomy import BlockNames, block_count, find_blocks, name_blocks
from llmprune.models.capture import BlockRunner
from llmprune.models.weights import drop_parameters, load_tensors, require_weights
from llmprune.quiet import first_sentence, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Decoder:
    """A causal LM whose blocks' weights come and go.

    Attributes:
        model: the model; everything outside the blocks has its weights.
        blocks: its transformer blocks, in order.
        names: the checkpoint's tensor names, sorted by block.
        checkpoint: where the weights are.
        runner: runs embedding, single blocks and head.
        device: where everything is computed.
        dtype: what everything is computed in.
    """

    model: PreTrainedModel
    blocks: nn.ModuleList
    names: BlockNames
    checkpoint: Checkpoint
    runner: BlockRunner
    device: torch.device
    dtype: torch.dtype
    _resident: set[int] = field(default_factory=set)

    @contextmanager
    def block(self, index: int) -> Iterator[None]:
        """Block ``index`` has its weights for as long as the context lasts (longer when it is resident)."""
        if index in self._resident:
            yield
            return
        self._load(self.names.by_block[index])
        require_weights(self.model, self.blocks[index])
        try:
            yield
        finally:
            drop_parameters(self.blocks[index])

    def keep_resident(self) -> None:
        """Load every block's weights and keep them."""
        self._load([name for names in self.names.by_block for name in names])
        for block in self.blocks:
            require_weights(self.model, block)
        self._resident = set(range(len(self.blocks)))

    def block_bytes(self, index: int) -> int:
        """Bytes of block ``index`` in the computing dtype."""
        entries = (self.checkpoint.tensors[name] for name in self.names.by_block[index])
        return sum(entry.numel for entry in entries) * self.dtype.itemsize

    def _load(self, names: Iterable[str]) -> None:
        load_tensors(self.model, self.checkpoint, names, device=self.device, dtype=self.dtype)


def open_decoder(
    directory: Path,
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
    left_out: Container[str] = (),
) -> Decoder:
    """Open a checkpoint directory with everything but the blocks' weights loaded.

    Args:
        directory: config.json and safetensors files.
        device: where to compute.
        dtype: what to compute in; None: the dtype that the checkpoint is stored in.
        trust_remote_code: let the checkpoint's own Python files run.
        left_out: names of shards that need not be there; they hold blocks other than the first, which is tried.

    Raises:
        ModelError: not a causal LM, or config and weights disagree.
        CheckpointError: files missing, truncated or malformed.
    """
    decoder = open_shell(directory, device=device, dtype=dtype, trust_remote_code=trust_remote_code, left_out=left_out)
    _load_outside_blocks(decoder)
    with decoder.block(0):
        decoder.runner.learn_return_type(torch.zeros(1, 2, dtype=torch.int64, device=device))
        _require_causal(decoder)
    return decoder


def open_shell(
    directory: Path,
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
    left_out: Container[str] = (),
) -> Decoder:
    """The same with no weights at all: enough to look at shapes and names.

    Raises:
        ModelError: not a causal LM, or config and weights disagree.
        CheckpointError: files missing, truncated or malformed.
    """
    config = load_config(directory, trust_remote_code=trust_remote_code)
    checkpoint = open_checkpoint(directory, left_out=left_out)
    dtype = dtype or stored_dtype(checkpoint)
    model = empty_model(config, dtype=dtype, trust_remote_code=trust_remote_code)
    path, blocks = find_blocks(model, config)
    names = name_blocks(checkpoint.names, path=path, num_blocks=len(blocks))
    return Decoder(model, blocks, names, checkpoint, BlockRunner(model, blocks), device, dtype)


def load_config(directory: Path, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The config of a checkpoint directory.

    Raises:
        ModelError: there is none, it cannot be read, or it is not a causal LM's.
    """
    if not (directory / "config.json").is_file():
        raise ModelError(f"{directory} has no config.json; a Hugging Face checkpoint directory was expected.")
    try:
        with quiet():
            config = AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except Exception as error:  # a field of any value may upset a config class in any way
        raise ModelError(f"{directory}/config.json cannot be used: {first_sentence(error)}") from error
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{directory} is an encoder-decoder ({config.model_type}); a decoder-only LM was expected.")
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            f"{directory} is quantized ({config.model_type}); prune the unquantized one, then quantize the result."
        )
    block_count(config)
    return config  # type: ignore[no-any-return]


def load_tokenizer(directory: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint directory.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{directory} has no usable tokenizer: {first_sentence(error)}") from error
    return tokenizer


def load_whole(
    directory: Path, *, device: torch.device, dtype: torch.dtype, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The whole model in memory, by plain ``from_pretrained``, as any user of the checkpoint would.

    Raises:
        ModelError: transformers cannot load it, or would fill in weights that are not there.
    """
    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                directory,
                dtype=dtype,
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # config and weights of any kind may upset a model class in any way
        raise ModelError(f"transformers cannot load {directory}: {first_sentence(error)}") from error
    model, info = loaded  # a pair, when the loading info is asked for
    if info["missing_keys"]:
        raise ModelError(
            f"The weights in {directory} lack {min(info['missing_keys'])}; transformers would make it up at random."
        )
    return model.to(device).eval()  # type: ignore[no-any-return]


def empty_model(config: PreTrainedConfig, *, dtype: torch.dtype, trust_remote_code: bool = False) -> PreTrainedModel:
    """A causal LM with every parameter on the meta device and every buffer real.

    Raises:
        ModelError: the config is not one of a causal LM.
    """
    try:
        # Buffers (rotary tables) are no part of a checkpoint: they must be computed, so they stay real.
        with init_empty_weights(include_buffers=False), quiet():
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    except Exception as error:  # not a causal LM's config, or one with values that no model can have
        raise ModelError(
            f"No causal language model can be made from this config of type '{config.model_type}': "
            f"{first_sentence(error)}"
        ) from error
    model.tie_weights()
    return model.eval()  # type: ignore[no-any-return]


def stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The floating dtype that most of a checkpoint's bytes are stored in."""
    sizes: dict[torch.dtype, int] = {}
    floating = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    for entry in checkpoint.tensors.values():
        if entry.dtype in floating:
            sizes[floating[entry.dtype]] = sizes.get(floating[entry.dtype], 0) + entry.nbytes
    if not sizes:
        raise ModelError(f"{checkpoint.directory} holds no floating-point weights; an unquantized model was expected.")
    return max(sizes, key=lambda dtype: sizes[dtype])


def _load_outside_blocks(decoder: Decoder) -> None:
    """Load embeddings, final norm and head, and see that none is left without weights."""
    load_tensors(decoder.model, decoder.checkpoint, decoder.names.outside, device=decoder.device, dtype=decoder.dtype)
    decoder.model.tie_weights()
    inside = {id(parameter) for block in decoder.blocks for parameter in block.parameters()}
    require_weights(decoder.model, decoder.model, besides=inside)
    for module in decoder.model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(decoder.device))


def _require_causal(decoder: Decoder) -> None:
    """See that a token's hidden state does not depend on the next token (block 0 must have its weights).

    Many encoders can be loaded as causal LMs, and nothing in a config tells for all of them.
    """
    one, other = (
        decoder.runner.run(0, decoder.runner.embed(tokens), decoder.runner.calls(tokens)[0])[0, 0]
        for tokens in torch.tensor([[[0, 0]], [[0, 1]]], device=decoder.device)
    )
    rounding = 16 * torch.finfo(one.dtype).eps * one.abs().max()
    if (one - other).abs().max() > rounding:
        raise ModelError(
            f"{type(decoder.model).__name__} lets tokens see the ones after them (an encoder, perhaps); "
            "a causal language model was expected."
        )

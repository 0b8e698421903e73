"""Opening a model on disk for block-by-block work: config and shell first, weights when they are needed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint, open_checkpoint
from llmprune.artifacts.checkpoints.finiteness import refuse_non_finite
from llmprune.artifacts.files.sizes import format_size
from llmprune.errors import ModelError, NumericalError
from llmprune.models.anatomy import find_blocks, name_blocks, require_tensors_for_blocks
from llmprune.models.architecture import attention_of, auto_class, empty_model
from llmprune.models.capture import BlockRunner
from llmprune.models.checkpoint_decoder import CheckpointDecoder
from llmprune.models.config import known_config, load_config, own_code_refused
from llmprune.models.requirements import require_own_weights, require_separable
from llmprune.models.residency import Residency
from llmprune.models.weights import (
    Places,
    place_tensors,
    plan_loading,
)
from llmprune.quiet import failures_as, first_sentence, panics_unseen, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_TABLE_BYTES = 4 << 30
LOADING_ROOM = 1.2
"""Memory that loading a whole model takes, in sizes of its weights."""


def open_decoder(
    directory: Path,
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
    left_out: Container[str] = (),
) -> CheckpointDecoder:
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
    decoder.load_outside()
    with decoder.block(0):
        require_separable(decoder)
    decoder.expect(range(len(decoder.blocks)))
    return decoder


def open_shell(
    directory: Path,
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
    left_out: Container[str] = (),
) -> CheckpointDecoder:
    """The same with no weights at all: enough to look at shapes and names.

    Raises:
        ModelError: not a causal LM, or config and weights disagree.
        CheckpointError: files missing, truncated or malformed.
    """
    config = load_config(directory, trust_remote_code=trust_remote_code)
    checkpoint = open_checkpoint(directory, left_out=left_out)
    dtype = dtype or stored_dtype(checkpoint)
    return shell_of(config, checkpoint, device=device, dtype=dtype, trust_remote_code=trust_remote_code)


def shell_of(
    config: PreTrainedConfig,
    checkpoint: Checkpoint,
    *,
    device: torch.device,
    dtype: torch.dtype,
    trust_remote_code: bool = False,
) -> CheckpointDecoder:
    """A config and a checkpoint put together, without reading a weight.

    Raises:
        ModelError: the config is not a causal LM's, or its blocks cannot be told apart.
        CheckpointError: tensors are missing, quantized, or have shapes that the config does not ask for.
    """
    require_tensors_for_blocks(config, checkpoint.names)
    model = empty_model(config, dtype=dtype, trust_remote_code=trust_remote_code)
    _require_small_tables(model, checkpoint)
    path, blocks = find_blocks(model, config)
    require_own_weights(model, path)
    places = place_tensors(model, checkpoint.names)
    names = name_blocks(checkpoint.names, places.by_tensor, path=path, num_blocks=len(blocks))
    plan = plan_loading(model, checkpoint, places, path=path)
    sizes = [_computed_bytes(checkpoint, places, of_block, dtype) for of_block in names.by_block]
    runner = BlockRunner(model, blocks)
    residency = Residency(sizes, device)
    return CheckpointDecoder(model, path, blocks, names, checkpoint, plan, runner, device, dtype, residency)


def _computed_bytes(checkpoint: Checkpoint, places: Places, names: Iterable[str], dtype: torch.dtype) -> int:
    """Bytes of some tensors in the computing dtype; of those elsewhere nothing is known."""
    entries = (checkpoint.tensors[name] for name in names if name in checkpoint.tensors and name in places.by_tensor)
    return sum(entry.numel for entry in entries) * dtype.itemsize


def _require_small_tables(model: PreTrainedModel, checkpoint: Checkpoint) -> None:
    """See that what a model computes by itself, such as tables of positions, is not out of all proportion."""
    asked = sum(buffer.nbytes for buffer in model.buffers())
    if asked > checkpoint.nbytes + _TABLE_BYTES:
        raise ModelError(
            f"config.json asks for tables of {format_size(asked)} beside {format_size(checkpoint.nbytes)} of weights; "
            "get an intact copy."
        )


def load_tokenizer(directory: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint directory.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    with failures_as(partial(_no_tokenizer, directory)), quiet(), panics_unseen():
        config = known_config(directory, trust_remote_code=trust_remote_code)  # None: it is read
        tokenizer = AutoTokenizer.from_pretrained(directory, config=config, trust_remote_code=trust_remote_code)
        tokenizer("A word.")  # some fail only when they are used: no unknown token, a template of unknown names
        words = len(tokenizer) - len(set(tokenizer.all_special_ids))
    if words < 2:  # transformers makes one of nothing where it knows the class: a mark of the beginning, at most
        raise _no_tokenizer(directory, "it knows special tokens alone: the files of its vocabulary are missing")
    return tokenizer


def _no_tokenizer(directory: Path, reason: BaseException | str) -> ModelError:
    """With the whole reason: of an error about the files of a tokenizer, the last line may be the one that helps."""
    if isinstance(reason, BaseException):
        if refused := own_code_refused(f"The tokenizer of {directory}", reason):
            return refused
        reason = f"{type(reason).__name__}: {' '.join(str(reason).split()):.600}".rstrip(".: ")
    return ModelError(
        f"{directory} has no usable tokenizer ({reason}); put the model's own tokenizer beside its weights."
    )


def load_whole(
    directory: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    trust_remote_code: bool = False,
    memory_map: Mapping[int | str, int] | None = None,
) -> PreTrainedModel:
    """The whole model in memory, by plain ``from_pretrained``, as any user of the checkpoint would.

    Args:
        directory: of the checkpoint.
        device: where to.
        dtype: what its weights become.
        trust_remote_code: let the checkpoint's own Python files run.
        memory_map: spread it over these devices by accelerate instead, and take so much memory of each at most.

    Raises:
        ModelError: transformers cannot load it, or would fill in weights that are not there.
    """
    try:
        config = load_config(directory, trust_remote_code=trust_remote_code)
        with quiet():
            loaded: Any = auto_class(config).from_pretrained(
                directory,
                **attention_of(config),
                dtype=dtype,
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
                **({} if memory_map is None else {"device_map": "auto", "max_memory": dict(memory_map)}),
            )
    except Exception as error:  # config and weights of any kind may upset a model class in any way
        raise ModelError(f"transformers cannot load {directory}: {first_sentence(error)}") from error
    model, info = loaded  # a pair, when the loading info is asked for
    if info["missing_keys"]:
        raise ModelError(
            f"The weights in {directory} lack {min(info['missing_keys'])}; transformers would make it up at random."
        )
    return (model if memory_map is not None else model.to(device)).eval()  # type: ignore[no-any-return]


def require_finite(model: PreTrainedModel) -> None:
    """See that no weight of a model in memory is NaN or infinite.

    Raises:
        NonFiniteWeightsError: one is.
        NumericalError: one is in float16, in which it may be stored as a larger number than there is.
    """
    floats = ((name, value) for name, value in model.named_parameters() if value.is_floating_point() and value.numel())
    found = [name for name, value in floats if not all(map(torch.isfinite, torch.aminmax(value.detach())))]
    if found and model.dtype == torch.float16:
        raise NumericalError(
            f"NaN or infinity in {len(found)} weights in float16, {found[0]:.100} among them; its largest number is "
            f"{torch.finfo(torch.float16).max:.0f}: try `dtype=float32`, or get an intact copy of the model."
        )
    refuse_non_finite(found)


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

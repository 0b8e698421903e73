"""A GGUF file as an ordinary Hugging Face checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils

from llmprune.artifacts.checkpoints.block_numbers import MAX_BLOCKS
from llmprune.artifacts.files.atomic import atomic_directory
from llmprune.errors import ModelError
from llmprune.extras import require_extra
from llmprune.models.architecture import empty_model
from llmprune.quiet import failures_as, first_sentence, no_bars_in, panics_unseen, quiet

if TYPE_CHECKING:
    from gguf import GGUFReader

_TIED = 2  # times the weights of a file that a model can have at most: some are used twice


def convert_gguf(path: Path, directory: Path, *, finish: Callable[[Path], None] = lambda _: None) -> None:
    """Write a GGUF file as a safetensors checkpoint in float32.

    Float32 holds the dequantized weights exactly. The whole model is in memory while
    it is converted: transformers has no streaming reader of GGUF files.

    Args:
        path: the file.
        directory: the new one, all of it or nothing.
        finish: called with the folder in which all was written, before it becomes ``directory``.

    Raises:
        ModelError: transformers cannot read the file.
        MissingExtraError: gguf is not installed.
    """
    require_extra("gguf", extra="gguf", purpose="Models in a GGUF file")
    options: dict[str, Any] = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    with quiet(), no_bars_in(modeling_gguf_pytorch_utils), atomic_directory(directory) as built:
        with failures_as(partial(_unreadable, path)), panics_unseen():
            _require_weights(path)
            tokenizer = AutoTokenizer.from_pretrained(**options)
            loaded: Any = AutoModelForCausalLM.from_pretrained(**options, dtype=torch.float32, output_loading_info=True)
            model, info = loaded  # a pair, when the loading info is asked for
            if info["missing_keys"]:
                raise ModelError(f"{path} lacks {min(info['missing_keys'])}; get an intact file.")
        # What remains of the file's quantization would keep the dequantized weights from being saved.
        del model.config.quantization_config
        model.hf_quantizer = None
        model.save_pretrained(built)
        tokenizer.save_pretrained(built)
        finish(built)


def _require_weights(path: Path) -> None:
    """See, before a model is made of it, that a file has about as many weights, blocks and tokens as it promises.

    Raises:
        ModelError: it has not.
    """
    reader = _opened(path)
    held = len(reader.tensors)
    for name, field in reader.fields.items():
        if name.endswith(".block_count") and not 1 <= int(field.contents()) <= min(held, MAX_BLOCKS):
            raise ModelError(
                f"{path} promises {int(field.contents())} blocks and holds {held} tensors; get an intact file."
            )
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    promised = empty_model(config, dtype=torch.float32).num_parameters()
    weights = sum(int(tensor.n_elements) for tensor in reader.tensors)
    if promised > _TIED * weights:
        raise ModelError(f"{path} promises {promised:,} weights and holds {weights:,}; get an intact file.")


def _opened(path: Path) -> GGUFReader:
    """A reader that ends with the file: gguf's own goes on behind it for as long as a list is said to be."""
    from gguf import GGUFReader  # noqa: PLC0415 - of an extra

    class Bounded(GGUFReader):
        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            if int(offset) + np.dtype(dtype).itemsize * int(count) > len(self.data):
                raise ModelError(f"{path} promises more than its {len(self.data):,} bytes; get an intact file.")
            return super()._get(offset, dtype, count, override_order)

    return Bounded(path)


def _unreadable(path: Path, error: BaseException) -> ModelError:
    """A file of any content may upset its reader in any way."""
    return ModelError(f"{path} cannot be read as a GGUF model: {first_sentence(error)}")

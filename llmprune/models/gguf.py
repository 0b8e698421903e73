"""A GGUF file as an ordinary Hugging Face checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils

from llmprune.artifacts.files.atomic import atomic_directory
from llmprune.errors import ModelError
from llmprune.extras import require_extra
from llmprune.quiet import first_sentence, no_bars_in, quiet


def convert_gguf(path: Path, directory: Path) -> None:
    """Write a GGUF file as a safetensors checkpoint in float32.

    Float32 holds the dequantized weights exactly. The whole model is in memory while
    it is converted: transformers has no streaming reader of GGUF files.

    Raises:
        ModelError: transformers cannot read the file.
        MissingExtraError: gguf is not installed.
    """
    require_extra("gguf", extra="gguf", purpose="Models in a GGUF file")
    options: dict[str, Any] = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    with quiet(), no_bars_in(modeling_gguf_pytorch_utils), atomic_directory(directory) as partial:
        try:
            tokenizer = AutoTokenizer.from_pretrained(**options)
            model = AutoModelForCausalLM.from_pretrained(**options, dtype=torch.float32)
        except Exception as error:  # a file of any content may upset its reader in any way
            raise ModelError(f"{path} cannot be read as a GGUF model: {first_sentence(error)}") from error
        # What remains of the file's quantization would keep the dequantized weights from being saved.
        del model.config.quantization_config
        model.hf_quantizer = None  # type: ignore[assignment]
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)

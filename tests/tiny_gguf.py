"""The smallest GGUF file that is one."""

from pathlib import Path

import pytest


def save_tiny_gguf(path: Path) -> Path:
    """Write some keys and a tensor; skips the test where gguf is not installed."""
    writer = pytest.importorskip("gguf", reason="gguf is not installed (extra 'gguf')").GGUFWriter
    import numpy as np

    file = writer(path, "llama")
    file.add_block_count(1)
    file.add_context_length(64)
    file.add_embedding_length(32)
    file.add_head_count(2)
    file.add_tokenizer_model("gpt2")
    file.add_token_list(["a", "b", "ab"])
    file.add_token_merges(["a b"])
    file.add_tensor("token_embd.weight", np.ones((3, 32), np.float32))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path

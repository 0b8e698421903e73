"""GGUF files that promise what they do not hold."""

import pytest

from llmprune.errors import ModelError
from llmprune.models.gguf import convert_gguf
from tests.tiny_gguf import save_tiny_gguf


def test_a_list_ends_with_the_file(tmp_path):
    """gguf's reader goes on behind the end: a list of so many entries took all memory."""
    path = save_tiny_gguf(tmp_path / "damaged.gguf")
    whole, name = path.read_bytes(), b"tokenizer.ggml.tokens\x09\0\0\0\x08\0\0\0"
    assert name in whole
    path.write_bytes(whole.replace(name + (3).to_bytes(8, "little"), name + (2**40).to_bytes(8, "little")))
    with pytest.raises(ModelError, match="promises more than its"):
        convert_gguf(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()

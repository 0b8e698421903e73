"""What may be published, file by file and string by string."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprune.errors import ArtifactError
from llmprune.publishing.contents import LocalFile, require_publishable


def publishable(name: str, content: object) -> bool:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    try:
        require_publishable(LocalFile(name, data))
    except ArtifactError:
        return False
    return True


@pytest.mark.parametrize(
    "text",
    ["/home/ada/model", "--out /tmp/x/y", "C:\\Users\\ada", "~/models", "\\\\host\\share", "file:///x", "x='/a/b'"],
)
def test_paths_of_a_machine_are_seen_wherever_they_stand(text):
    assert not publishable("config.json", {"a": [{"b": text}]})
    assert publishable("tokenizer.json", {"vocab": [text]})
    assert publishable("tokenizer_config.json", {"chat_template": text})
    assert publishable("config.json", {text: 1})  # a name of a field, as a vocabulary has them


@pytest.mark.parametrize(
    "text",
    [
        "acme/base", "https://example.org/a/b", "wikitext2:wiki.test.raw", "2:4", "</s>", "tokens/s and ms/token",
        "/sys/class/powercap cannot be read", "a /b", "Hub allenai/c4 en train @abc", "1/2/3", "and/or/not",
    ],
)  # fmt: skip
def test_what_only_looks_a_little_like_one_is_not_one(text):
    assert publishable("config.json", {"a": text})


@pytest.mark.parametrize(
    "secret",
    ["hf_" + "aB3" * 12, "ghp_" + "a1" * 18, "AKIA" + "A1" * 8, "sk-" + "a" * 40, "-----BEGIN RSA PRIVATE KEY-----"],
)
def test_tokens_and_keys_are_seen_in_any_text(secret):
    for name in ("README.md", "config.json", "modeling_x.py", "tokenizer.json", "bench/1.json"):
        with pytest.raises(ArtifactError) as caught:
            require_publishable(LocalFile(name, json.dumps(f"token = {secret}").encode()))
        assert secret not in str(caught.value)
    assert publishable("README.md", b"Set HF_TOKEN, or type hf auth login; hf_hub_download does the rest.")


@given(st.binary(max_size=3000))
def test_hashes_are_those_of_the_hub(data):
    file = LocalFile("x", data)
    assert file.size == len(data)
    assert file.hashes == (
        hashlib.sha256(data).hexdigest(),
        hashlib.sha1(b"blob " + str(len(data)).encode() + b"\0" + data).hexdigest(),
    )


def test_a_file_is_hashed_as_its_content(tmp_path):
    data = bytes(range(256)) * 9000
    (tmp_path / "x").write_bytes(data)
    assert LocalFile("x", tmp_path / "x").hashes == LocalFile("x", data).hashes

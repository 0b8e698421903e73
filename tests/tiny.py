"""A real, if tiny, checkpoint on disk: a Llama of 6 blocks with random weights and a tokenizer of its own."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

NUM_BLOCKS = 6
POSITIONS = 256
SAMPLES, SEQ_LEN = 24, 32  # of calibrations
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
_TEXT = "the sea is wide and a small boat goes out at dawn while no one on the shore looks up from work"


def save_tiny_llama(directory: Path, *, seed: int = 0, num_blocks: int = NUM_BLOCKS, **config: object) -> Path:
    """Write a Llama of hidden size 32 with tokenizer, chat template and generation config."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": num_blocks,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": POSITIONS,
        "initializer_range": 0.2,  # large enough for blocks, and their absence, to matter
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    model = LlamaForCausalLM(LlamaConfig(**{**settings, **config})).eval()
    model.generation_config.max_new_tokens = 7
    model.save_pretrained(directory)
    save_tiny_tokenizer(directory)
    return directory


def save_tiny_tokenizer(directory: Path) -> None:
    """Write a character-level tokenizer: three special tokens and printable ASCII."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "\n": 3} | {chr(code): code - 28 for code in range(32, 127)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", model_max_length=POSITIONS
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(directory)


def write_text(path: Path, *, num_words: int = 2000, seed: int = 0) -> Path:
    """A text of some ten thousand characters."""
    chooser = random.Random(seed)
    path.write_text(" ".join(chooser.choices(_TEXT.split(), k=num_words)), encoding="utf-8")
    return path


def write_chats(path: Path, *, number: int = 60) -> Path:
    """Conversations as people keep them: a line of JSON each, with an id beside the messages."""
    chooser = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for talk in range(number):
            said = [" ".join(chooser.choices(_TEXT.split(), k=8)) for _ in range(2)]
            messages = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), said, strict=True)]
            file.write(json.dumps({"id": f"{talk}", "messages": messages}) + "\n")
    return path


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Everything under a folder, hidden files too, to show that nothing was written or changed."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


class Listener:
    """Notes what a stage says, and calls ``on_step`` at every step of every task."""

    def __init__(self, on_step: Callable[[str, float], None] = lambda *_: None) -> None:
        self.said: list[str] = []
        self.on_step = on_step

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Callable[[float], None]]:
        done = 0.0

        def advance(steps: float) -> None:
            nonlocal done
            done += steps
            self.on_step(description, done / total)

        yield advance

    def heard(self, words: str) -> bool:
        return any(words in line for line in self.said)

"""The models and the plain computations that on_gpu.py holds llmprune against."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch.sparse import to_sparse_semi_structured
from transformers import LlamaConfig, LlamaForCausalLM

from llmprune.evaluation.latency import peak_memory
from llmprune.models.timing import now, time_in_turn
from tests.tiny import save_tiny_tokenizer


def trained(folder: Path, text: str, device: torch.device) -> Path:
    """A Llama of some 30M parameters, trained here for a minute on the characters of a text."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 10, "vocab_size": 128}
    config = LlamaConfig(**sizes, num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=256)
    model = LlamaForCausalLM(config).to(device)
    tokens = torch.tensor([ord(one) - 28 if 32 <= ord(one) < 127 else 3 for one in text], device=device)
    optimizer, until = torch.optim.AdamW(model.parameters(), lr=1e-3), time.monotonic() + 60
    while time.monotonic() < until:
        starts = torch.randint(len(tokens) - 257, (32, 1), device=device)
        batch = tokens[starts + torch.arange(256, device=device)]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.cpu().save_pretrained(folder)
    save_tiny_tokenizer(folder)
    return folder


def random_llama(folder: Path, sizes: dict[str, int], device: torch.device) -> Path:
    """A checkpoint with random weights in bfloat16, made once."""
    if not folder.exists():
        with device:
            model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False)).to(torch.bfloat16)
        model.cpu().save_pretrained(folder, max_shard_size="5GB")
        save_tiny_tokenizer(folder)
    return folder


def naive_loop(model: Path, device: torch.device, *, candidates: int, windows: int, seq_len: int) -> dict[str, Any]:
    """Each of a few candidates skipped in a full forward pass of a model in memory, as a plain loop does it."""
    loaded = LlamaForCausalLM.from_pretrained(model, dtype=torch.bfloat16).to(device).eval()
    tokens = torch.randint(100, (windows, seq_len), device=device)
    layers = loaded.model.layers
    with torch.inference_mode(), peak_memory(device) as peak:
        loaded(tokens[:1], use_cache=False)
        began = now(device)
        for skipped in range(1, 1 + candidates):
            loaded.model.layers = torch.nn.ModuleList([one for at, one in enumerate(layers) if at != skipped])
            for window in tokens.split(1):
                loaded(window, use_cache=False)
        seconds = (now(device) - began) / candidates * (len(layers) - 2)
        loaded.model.layers = layers
        return {"seconds": seconds, "peak": peak() + loaded.get_memory_footprint()}


def semi_structured(size: int, device: torch.device) -> dict[str, Any]:
    """How many times as fast products in float16 with a packed 2:4 weight are: 64 texts' next token, and a prompt."""
    if device.type != "cuda":
        return {"remark": "needs an NVIDIA GPU"}
    weight = torch.randn(size, size, dtype=torch.float16, device=device)
    weight.view(-1, 4)[:, :2] = 0
    packed = to_sparse_semi_structured(weight)
    found: dict[str, Any] = {}
    for tokens in (64, 2048):
        given = torch.randn(size, tokens, dtype=torch.float16, device=device)

        def product(by: torch.Tensor, given: torch.Tensor = given) -> None:
            for _ in range(50):
                by @ given

        dense, sparse = time_in_turn([lambda: product(weight), lambda: product(packed)], device, least=5, most=9)
        found[f"{tokens} tokens"] = sorted(dense)[len(dense) // 2] / sorted(sparse)[len(sparse) // 2]
    return found

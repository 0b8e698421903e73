"""What a push of a tiny checkpoint sends, and what a command said."""

from __future__ import annotations

SENT = {
    "README.md", "chat_template.jinja", "config.json", "generation_config.json", "llmprune.json", "model.safetensors",
    "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


def said(result) -> str:
    return " ".join((result.stdout + result.stderr).split())

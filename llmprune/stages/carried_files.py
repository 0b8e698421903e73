"""What a pruned checkpoint takes over from its source beside config and weights."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path

# Anything else (other weights, training state, caches) stays behind.
_CARRIED = (
    "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*",
    "merges.txt", "*.model", "*.tiktoken", "chat_template*", "preprocessor_config.json",
    "processor_config.json", "*.py", "LICENSE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip


def carry_files(source: Path, target: Path) -> None:
    """Copy tokenizer, generation config, chat template, remote code and licence."""
    for path in sorted(source.iterdir()):
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in _CARRIED):
            shutil.copyfile(path, target / path.name)

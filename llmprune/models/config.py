"""config.json: read as it is, and refused at once where no decoder can come of it."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import transformers
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from llmprune.artifacts.checkpoints.block_numbers import MAX_BLOCKS
from llmprune.artifacts.files.atomic import write_text_atomic
from llmprune.artifacts.files.digests import FileDigest
from llmprune.artifacts.files.reading import parse_json, read_small
from llmprune.artifacts.files.remembered import Remembered
from llmprune.artifacts.files.sizes import format_size
from llmprune.errors import ModelError
from llmprune.escaping import is_unicode
from llmprune.models.anatomy import block_count
from llmprune.quiet import first_sentence, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONFIG_NAME = "config.json"
_MOST_CONFIGS = 64  # that are remembered: more than the models of a command
_DEPTH = re.compile(r"(?:^|_)(?:layers?|blocks|depth)$")
# What transformers reads whole of a model's folder, beside the weights.
_READ_WHOLE = {".json", ".jinja", ".txt", ".model", ".tiktoken", ".py"}
_MAX_READ_WHOLE = 1 << 30  # bytes; the largest tokenizers have some tens of millions
# With these, plain transformers loads something else than the config and the safetensors files of a directory.
_ADAPTER = "adapter_config.json"
_OTHER_WEIGHTS = "transformers_weights"


_FIELDS: Remembered[dict[str, Any]] = Remembered(most=_MOST_CONFIGS)
_CONFIGS: Remembered[PreTrainedConfig] = Remembered(most=_MOST_CONFIGS)


def read_config(directory: Path) -> dict[str, Any]:
    """The fields of a directory's config.json, the caller's own. Infinity and NaN are numbers, as Python writes them.

    Raises:
        ModelError: there is none, or it is no JSON object.
    """
    path = directory / CONFIG_NAME
    if not path.exists():
        raise ModelError(f"{directory} has no config.json; a Hugging Face checkpoint directory was expected.")
    return deepcopy(_FIELDS.get(path, lambda: _read_fields(path)))


def _read_fields(path: Path) -> dict[str, Any]:
    try:
        raw = parse_json(read_small(path))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(raw, dict):
        raise ModelError(f"{path} holds a JSON {type(raw).__name__}; an object was expected.")
    return raw


def write_config(directory: Path, fields: Mapping[str, Any]) -> FileDigest:
    """Write config.json, with Infinity and NaN as they were read; returns what was written.

    Raises:
        LlmpruneError: the disk is full.
    """
    return write_text_atomic(directory / CONFIG_NAME, json.dumps(fields, indent=2, ensure_ascii=False) + "\n")


def load_config(directory: Path, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The config of a checkpoint directory.

    Raises:
        ModelError: there is none, it cannot be read, or it is not a decoder-only LM's.
    """
    _refuse_special_files(directory)
    raw = read_config(directory)
    _require_plain_weights(directory, raw)
    _require_bounded_depth(directory, raw)
    _require_installed_kernels(directory, raw)

    def made() -> PreTrainedConfig:
        with quiet():
            return AutoConfig.from_pretrained(  # type: ignore[no-any-return]
                directory, trust_remote_code=trust_remote_code
            )

    try:
        config = deepcopy(_CONFIGS.get(directory / CONFIG_NAME, made, by=trust_remote_code))
    except Exception as error:  # a field of any value may upset a config class in any way
        refused = own_code_refused(f"The config of {directory}", error)
        raise refused or ModelError(f"{directory}/config.json cannot be used: {first_sentence(error)}") from error
    check_config(config, called=str(directory))
    return config


def known_config(directory: Path, *, trust_remote_code: bool) -> PreTrainedConfig | None:
    """What ``load_config`` made of a directory that is still as it was; None: nothing."""
    return deepcopy(_CONFIGS.peek(directory / CONFIG_NAME, by=trust_remote_code))


def made_of(raw: Mapping[str, Any], kind: type[PreTrainedConfig]) -> PreTrainedConfig:
    """A config of a kind from fields as config.json holds them, read as ``from_pretrained`` reads it.

    ``from_dict`` takes an infinity as it is written there for a dictionary.
    """
    with TemporaryDirectory() as folder, quiet():
        write_config(Path(folder), raw)
        config: PreTrainedConfig = kind.from_pretrained(folder)
    return config


def own_code_refused(what: str, error: BaseException) -> ModelError | None:
    """What to say where transformers refuses to run Python code that came with a model; None: that is not it."""
    if "trust_remote_code" not in str(error):
        return None
    return ModelError(
        f"{what} needs Python code that came with it; read it, and type `trust_remote_code=True` to let it run."
    )


def check_config(config: PreTrainedConfig, *, called: str) -> None:
    """See that a config is one of an unquantized decoder with a number of blocks.

    Raises:
        ModelError: it is not; ``called`` is what the message calls the model.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{called} is an encoder-decoder ({config.model_type}); a decoder-only LM was expected.")
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            f"{called} is quantized ({config.model_type}); prune the unquantized one, then quantize the result."
        )
    block_count(config)


def require_language_model(directory: Path) -> None:
    """Refuse what names a class of another task. transformers would make a causal LM of BERT, too.

    A name that transformers does not know (an old spelling, remote code) or that names no task (a base model)
    says nothing: the weights tell.

    Raises:
        ModelError: it names a class that writes no text.
    """
    base = {name for names in MODEL_MAPPING_NAMES.values() for name in ([names] if isinstance(names, str) else names)}
    names = read_config(directory).get("architectures")
    for name in names if isinstance(names, list) else ():
        if not isinstance(name, str):
            continue  # whoever reads the config will say it
        known: Any = getattr(transformers, name, None)
        if name not in base and hasattr(known, "can_generate") and not known.can_generate():
            raise ModelError(
                f"{directory} is a {name}, which is not a causal language model; "
                "type a checkpoint directory, a .gguf file or a Hub id (owner/name) of one."
            )


def _refuse_special_files(directory: Path) -> None:
    """See that whoever opens a file of a model need neither wait for a pipe nor read without end, and can name it."""
    for path in sorted(directory.iterdir()):
        if not is_unicode(path.name):
            raise ModelError(f"{path} has a name that is not valid UTF-8; rename it, or move it away.")
        with suppress(OSError):  # a link to nothing: whoever needs the file will say it
            status = path.stat()
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                raise ModelError(f"{path} is a pipe, a socket or a device; a model has files alone: move it away.")
            if path.suffix in _READ_WHOLE and status.st_size > _MAX_READ_WHOLE:
                raise ModelError(f"{path} has {format_size(status.st_size)}, too much for its kind; get an intact one.")


def _require_bounded_depth(directory: Path, raw: object) -> None:
    """Refuse numbers of blocks that no model has, of which a config class may make lists as long."""
    match raw:
        case dict():
            for name, value in raw.items():
                if _DEPTH.search(name) and isinstance(value, int | float) and value > MAX_BLOCKS:
                    raise ModelError(
                        f"{directory}/config.json has {name} = {value!r:.40}; at most {MAX_BLOCKS} was expected."
                    )
                _require_bounded_depth(directory, value)
        case list():
            for value in raw:
                _require_bounded_depth(directory, value)


def _require_plain_weights(directory: Path, raw: Mapping[str, Any]) -> None:
    if (directory / _ADAPTER).exists():
        raise ModelError(
            f"{directory} holds an adapter ({_ADAPTER}) beside the model, which transformers would add to it; merge "
            "it into the weights first (peft: merge_and_unload), or move it away."
        )
    if raw.get(_OTHER_WEIGHTS) is not None:
        raise ModelError(
            f"{directory}/config.json names its weights ({_OTHER_WEIGHTS}: {raw[_OTHER_WEIGHTS]!r:.100}); load the "
            "model with transformers once and save it with save_pretrained, so that the usual names hold them."
        )


def _require_installed_kernels(directory: Path, raw: Mapping[str, Any]) -> None:
    """Refuse a config that names kernels on the Hub: they are code, which transformers would fetch and run."""
    for name, value in _implementations(raw):
        if "/" in value:
            raise ModelError(
                f"{directory}/config.json asks for kernels from the Hub ({name}: {value!r:.100}), which is code of "
                "somebody's; one of transformers' own was expected: delete that line."
            )


def _implementations(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text in fields such as ``attn_implementation``, at any depth, and the field's name."""
    match value:
        case str() if name:
            yield name, value
        case dict():
            for key, inner in value.items():
                yield from _implementations(inner, key if str(key).endswith("_implementation") else name)
        case list():
            for inner in value:
                yield from _implementations(inner, name)

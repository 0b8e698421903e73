"""What removing blocks does to a config, to tensor names, and to a model in memory. Weights are never touched."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights

from llmprune.models.anatomy import BlockNames, block_count, depth_name, find_blocks, name_blocks
from llmprune.models.block_fields import BlockFields
from llmprune.models.config import made_of
from llmprune.models.index_rules import said_anew
from llmprune.models.resident import with_weights_of
from llmprune.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from llmprune.models.checkpoint_decoder import CheckpointDecoder

# Counts of leading blocks that differ from the rest: how many of those are kept.
_LEADING_COUNTS = ("max_window_layers", "first_k_dense_replace", "num_dense_layers")
# Counts of trailing blocks that differ from the rest.
_TRAILING_COUNTS = ("num_kv_shared_layers",)
# Rules about indices, which say nothing where the lists that they stand for are written out.
_RULES = re.compile(r".*(_pattern|_interval|_freq|_every_n_layers|_step)")


def renamed_tensors(names: BlockNames, kept: Sequence[int]) -> dict[str, str]:
    """Old to new names of all tensors that stay, blocks first to last, everything else unchanged.

    Blocks behind the last one follow the last one that is left.
    """
    renames = {name: name for name in names.outside}
    for new, tensors in enumerate([*(names.by_block[old] for old in kept), *names.behind]):
        renames |= {name: names.renumbered(name, new) for name in tensors}
    return renames


def cut_config(
    raw: Mapping[str, Any], config: PreTrainedConfig, kept: Sequence[int], *, behind: int = 0
) -> dict[str, Any]:
    """The config of the model that only has the blocks ``kept``.

    Every per-block field follows the blocks: the count, lists with one entry a block
    (``layer_types``, ...), lists of block indices (``mlp_only_layers``, ...), counts of
    leading or trailing blocks (``max_window_layers``, ``num_kv_shared_layers``, ...) and
    fields of single blocks (``per_layer_config``).
    Per-block lists that the model derives from a rule about indices (every sixth block is
    global, say) are written out, since the rule no longer holds after a removal. Where it
    would say something else than the list, and the list is what counts, it goes.

    Args:
        raw: config.json as it is on disk.
        config: the same, loaded.
        kept: indices of the blocks that stay, in order.
        behind: blocks behind the last one that the weights hold and the model does not use.
    """
    text = config.get_text_config(decoder=True)
    path = _section(config, text)
    if not path or _is_flat(raw, path, text):
        return _cut_fields(raw, text, kept, behind)
    return _cut_section(raw, path, text, kept, behind)


def with_text_fields(raw: Mapping[str, Any], config: PreTrainedConfig, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A config with other values of some fields of its text part, and of whatever repeats these beside it.

    Args:
        raw: config.json as it is on disk.
        config: the same, loaded.
        fields: by name.
    """
    text = config.get_text_config(decoder=True)
    path = _section(config, text)
    if not path or _is_flat(raw, path, text):
        return {**raw, **fields}
    before = text.to_dict()
    repeated = {name: fields[name] for name in fields if name in raw and raw[name] == before.get(name)}
    return {**raw, **repeated, path[0]: _deep(raw.get(path[0]) or {}, path[1:], fields)}


def text_fields(raw: Mapping[str, Any], config: PreTrainedConfig) -> Mapping[str, Any]:
    """The fields of a config's text part as they are on disk."""
    text = config.get_text_config(decoder=True)
    path = _section(config, text)
    if not path or _is_flat(raw, path, text):
        return raw
    for name in path:
        raw = raw.get(name) or {}
    return raw


def _deep(own: Mapping[str, Any], path: Sequence[str], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {**own, path[0]: _deep(own.get(path[0]) or {}, path[1:], fields)} if path else {**own, **fields}


def _section(config: PreTrainedConfig, text: PreTrainedConfig) -> tuple[str, ...]:
    """Where, in a config, the text config stands; nowhere if it is the whole."""
    if text is config:
        return ()
    parts = {key: getattr(config, key, None) for key in config.sub_configs}
    inner = {key: part for key, part in parts.items() if part is text or (part is not None and _holds(part, text))}
    key, part = next(iter(inner.items()))
    return (key, *_section(part, text))


def _holds(config: PreTrainedConfig, text: PreTrainedConfig) -> bool:
    parts = [getattr(config, key, None) for key in config.sub_configs]
    return any(part is text or (part is not None and _holds(part, text)) for part in parts)


def _is_flat(raw: Mapping[str, Any], path: Sequence[str], text: PreTrainedConfig) -> bool:
    """Whether a config is spelled as before the text had a section of its own (the first Qwen2-VL)."""
    return path[0] not in raw and any(name in raw for name in _count_names(raw, text))


def _cut_section(
    raw: Mapping[str, Any], path: Sequence[str], text: PreTrainedConfig, kept: Sequence[int], behind: int
) -> dict[str, Any]:
    """Cut the section at ``path``, and beside it whatever repeats a field of it."""
    own = raw.get(path[0]) or {}
    if len(path) > 1:
        return {**raw, path[0]: _cut_section(own, path[1:], text, kept, behind)}
    cut = _cut_fields(own, text, kept, behind)
    before = {**text.to_dict(), **own}
    repeated = {name: cut[name] for name in raw if name in cut and raw[name] == before[name]}
    return {**raw, **repeated, path[0]: cut}


def _cut_fields(raw: Mapping[str, Any], text: PreTrainedConfig, kept: Sequence[int], behind: int) -> dict[str, Any]:
    """The fields of a text config without the blocks that go."""
    effective = {**text.to_dict(), **raw}
    depth = block_count(text)
    fields = BlockFields(text, behind=behind)
    changed: dict[str, Any] = {name: len(kept) for name in _count_names(raw, text)}
    changed |= _sparse_step_written_out(effective, kept)
    changed |= said_anew(effective, depth=depth, kept=kept)
    for name, value in {**effective, **changed}.items():
        if name in changed and name != "mlp_only_layers":
            continue
        if name in _LEADING_COUNTS and isinstance(value, int):
            changed[name] = sum(block < value for block in kept)
        elif name in _TRAILING_COUNTS and isinstance(value, int):
            changed[name] = sum(block >= depth - value for block in kept)
        elif (cut := fields.cut(name, getattr(text, name, None) if value is None else value, kept)) is not None:
            changed[name] = cut
    return _without_idle_rules(raw, changed, type(text))


def _without_idle_rules(
    raw: Mapping[str, Any], changed: Mapping[str, Any], kind: type[PreTrainedConfig]
) -> dict[str, Any]:
    """A changed config without the rules that no longer count, and say something else than its lists."""
    cut = {**raw, **changed}
    lists = {name for name in changed if isinstance(changed[name], list)}
    for name in [name for name in raw if _RULES.fullmatch(name) and type(raw[name]) is int and name not in changed]:
        rest = {key: value for key, value in cut.items() if key != name}
        if _loaded(kind, rest, besides=name) != _loaded(kind, cut, besides=name):
            continue
        unlisted = {key: value for key, value in cut.items() if key not in lists}
        one, other = (_loaded(kind, {**unlisted, name: raw[name] + more}, besides=name) for more in (0, 1))
        if any(one[key] != changed[key] for key in lists & one.keys() if one[key] != other.get(key)):
            cut = rest
    return cut


def _loaded(kind: type[PreTrainedConfig], raw: Mapping[str, Any], *, besides: str) -> dict[str, Any]:
    """All fields of the config that ``raw`` makes, but those named after ``besides``; none where it makes none."""
    try:
        with quiet():
            fields = kind.from_dict(deepcopy(dict(raw))).to_dict()
    except Exception:  # a config class may refuse a combination of fields in any way
        return {}
    return {key: value for key, value in fields.items() if besides not in key}


def _count_names(raw: Mapping[str, Any], text: PreTrainedConfig) -> list[str]:
    """The names under which this config keeps its number of blocks (xLSTM has a second one)."""
    own = depth_name(text)
    aliases = [alias for alias, name in text.attribute_map.items() if name == own]
    return [name for name in (*aliases, own, "num_blocks") if name in raw] or [own]


def _sparse_step_written_out(effective: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """Every n-th block is a mixture of experts (Qwen-MoE): after a cut, say which blocks are not."""
    step = effective.get("decoder_sparse_step")
    if not isinstance(step, int) or step <= 1:
        return {}
    listed = set(effective.get("mlp_only_layers") or ())
    dense = [block for block in range(max(kept) + 1) if block in listed or (block + 1) % step]
    return {"decoder_sparse_step": 1, "mlp_only_layers": dense}


def tied_copies(decoder: CheckpointDecoder) -> list[str]:
    """Tensors of a checkpoint that only repeat another one which the model ties them to.

    Some checkpoints store a tied head beside the embedding. A copy that is not equal to
    what it is tied to is no repetition, and is not named here.
    """
    stored = decoder.plan.places.stored_as
    tied = decoder.model.all_tied_weights_keys.items()
    copies = []
    for copy, own in [(stored[copy], stored[own]) for copy, own in tied if copy in stored and own in stored]:
        pair = decoder.checkpoint.load([copy, own])
        if torch.equal(pair[copy], pair[own]):
            copies.append(copy)
    return copies


def cut_model(model: PreTrainedModel, kept: Sequence[int]) -> PreTrainedModel:
    """The model that only has the blocks ``kept``, made anew from the cut config, as from a written checkpoint.

    Its parameters use the memory of those of ``model``, which is left as it is. ``removability`` tells whether it
    computes what the kept blocks do.

    Raises:
        ModelError: it has parameters that ``model`` does not have.
    """
    config = model.config
    empty = emptied(model, cut_config(json.loads(config.to_json_string()), config, kept))
    path, blocks = find_blocks(model, config)
    own = list(model.state_dict())
    names = name_blocks(own, dict(zip(own, own, strict=True)), path=path, num_blocks=len(blocks))
    return with_weights_of(model, empty, renamed_tensors(names, kept))


def emptied(model: PreTrainedModel, raw: Mapping[str, Any]) -> PreTrainedModel:
    """A model of the same class from another config, its parameters on the meta device, its buffers real."""
    config = model.config
    cut = made_of(raw, type(config))
    cut.name_or_path = config.name_or_path
    with init_empty_weights(include_buffers=False), quiet():
        empty: PreTrainedModel = type(model)._from_config(
            cut,
            dtype=model.dtype,
            attn_implementation=config._attn_implementation,
            experts_implementation=config._experts_implementation,
        )
    return empty

"""What removing blocks does to a config, to tensor names, and to a model in memory. Weights are never touched."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights

from llmprune.models.anatomy import BlockNames, block_count, depth_name, find_blocks, name_blocks
from llmprune.models.index_rules import said_anew
from llmprune.models.resident import with_weights_of
from llmprune.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from llmprune.models.loading import CheckpointDecoder

# Counts of leading blocks that differ from the rest: how many of those are kept.
_LEADING_COUNTS = ("max_window_layers", "first_k_dense_replace", "num_dense_layers")
# Counts of trailing blocks that differ from the rest.
_TRAILING_COUNTS = ("num_kv_shared_layers",)
# Lists with a 0 or 1 for each block, whose names read as if they named blocks.
_FLAGS = ("no_rope_layers",)
# Lists that are no per-block lists, whatever their length.
_NOT_PER_BLOCK = ("architectures", "token_id", "token_ids")


def renamed_tensors(names: BlockNames, kept: Sequence[int]) -> dict[str, str]:
    """Old to new names of all tensors that stay, blocks first to last, everything else unchanged."""
    renames = {name: name for name in names.outside}
    for new, old in enumerate(kept):
        renames |= {name: names.renumbered(name, new) for name in names.by_block[old]}
    return renames


def cut_config(raw: Mapping[str, Any], config: PreTrainedConfig, kept: Sequence[int]) -> dict[str, Any]:
    """The config of the model that only has the blocks ``kept``.

    Every per-block field follows the blocks: the count, lists with one entry a block
    (``layer_types``, ...), lists of block indices (``mlp_only_layers``, ...), counts of
    leading or trailing blocks (``max_window_layers``, ``num_kv_shared_layers``, ...) and
    fields of single blocks (``per_layer_config``).
    Per-block lists that the model derives from a rule about indices (every sixth block is
    global, say) are written out, since the rule no longer holds after a removal.

    Args:
        raw: config.json as it is on disk.
        config: the same, loaded.
        kept: indices of the blocks that stay, in order.
    """
    text = config.get_text_config(decoder=True)
    if text is config:
        return {**raw, **_cut_fields(raw, text, kept)}
    section = next(key for key in config.sub_configs if getattr(config, key, None) is text)
    own = raw.get(section) or {}
    return {**raw, section: {**own, **_cut_fields(own, text, kept)}}


def _cut_fields(raw: Mapping[str, Any], text: PreTrainedConfig, kept: Sequence[int]) -> dict[str, Any]:
    """The fields of a text config that change, with their new values."""
    effective = {**text.to_dict(), **raw}
    depth = block_count(text)
    changed: dict[str, Any] = {name: len(kept) for name in _count_names(raw, text)}
    changed |= _sparse_step_written_out(effective, kept)
    changed |= said_anew(effective, depth=depth, kept=kept)
    for name, value in {**effective, **changed}.items():
        if name in changed and name != "mlp_only_layers":
            continue
        if value is None:
            value = getattr(text, name, None)
        if isinstance(value, list | tuple):
            if (cut := _cut_list(name, list(value), depth, kept)) is not None:
                changed[name] = cut
        elif name == "per_layer_config" and isinstance(value, Mapping):
            single = {int(block): fields for block, fields in value.items()}  # JSON makes the indices strings
            changed[name] = {str(new): single[old] for new, old in enumerate(kept) if old in single}
        elif name in _LEADING_COUNTS and isinstance(value, int):
            changed[name] = sum(block < value for block in kept)
        elif name in _TRAILING_COUNTS and isinstance(value, int):
            changed[name] = sum(block >= depth - value for block in kept)
    return changed


def _count_names(raw: Mapping[str, Any], text: PreTrainedConfig) -> list[str]:
    """The names under which this config keeps its number of blocks (xLSTM has a second one)."""
    own = depth_name(text)
    aliases = [alias for alias, name in text.attribute_map.items() if name == own]
    return [name for name in (*aliases, own, "num_blocks") if name in raw] or [own]


def _cut_list(name: str, value: list[Any], depth: int, kept: Sequence[int]) -> list[Any] | None:
    """A per-block list or a list of block indices after the cut; None for any other list."""
    if name.endswith(_NOT_PER_BLOCK):
        return None
    if _names_blocks(name, value) and (len(value) != depth or value == list(range(depth))):
        return [new for new, old in enumerate(kept) if old in value]
    return [value[block] for block in kept] if len(value) == depth else None


def _names_blocks(name: str, value: list[Any]) -> bool:
    """Whether a list holds indices of blocks. One that names all blocks is as long as the model is deep."""
    named = name.endswith(("_layers", "_layer_ids", "_layer_indices")) and name not in _FLAGS
    return named and all(type(item) is int for item in value)


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
    cut = type(config).from_dict(cut_config(json.loads(config.to_json_string()), config, kept))
    cut.name_or_path = config.name_or_path
    with init_empty_weights(include_buffers=False), quiet():
        empty = type(model)._from_config(
            cut,
            dtype=model.dtype,
            attn_implementation=config._attn_implementation,
            experts_implementation=config._experts_implementation,
        )
    path, blocks = find_blocks(model, config)
    own = list(model.state_dict())
    names = name_blocks(own, dict(zip(own, own, strict=True)), path=path, num_blocks=len(blocks))
    return with_weights_of(model, empty, renamed_tensors(names, kept))

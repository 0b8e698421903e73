"""A step of pruning in sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmprune.artifacts.records.healing import Healing
from llmprune.artifacts.records.pruning import (
    BlockRemoval,
    ExpertRemoval,
    MaskApplication,
    PruningRecord,
    Verification,
)
from llmprune.artifacts.records.weight_sparsity import WeightSparsity
from llmprune.escaping import as_markdown_code, for_markdown

_GROUPS = re.compile(r"([0-9]{1,6}):([0-9]{1,6})")
_SHARE = re.compile(r"[0-9.]{1,20}%")


def describe_step(step: PruningRecord) -> str:
    """What was done, the calibration, and how the result was checked: one paragraph of Markdown."""
    sentences: list[str] = []
    if step.removal is not None:
        sentences += _removal(step.removal, depth=step.source.num_blocks)
    if step.experts is not None:
        sentences += _experts(step.experts)
    if step.sparsity is not None:
        sentences += _sparsity(step.sparsity, depth=step.source.num_blocks)
    if step.masked is not None:
        sentences += _masked(step.masked)
    if step.healing is not None:
        sentences += _healing(step.healing)
    if step.verification is not None:
        sentences.append(_verification(step.verification))
    return " ".join(sentences)


def counts_groups(pattern: str) -> bool:
    """Whether a pattern is N:M."""
    return _GROUPS.fullmatch(pattern) is not None


def describe_pattern(pattern: str) -> str:
    """A pattern in words. ``2:4`` counts the zeros."""
    if (groups := _GROUPS.fullmatch(pattern)) is not None:
        return f"{pattern} ({groups[1]} zeros in every {groups[2]} inputs)"
    return f"{pattern} zeros" if _SHARE.fullmatch(pattern) else "a mask"


def _removal(removal: BlockRemoval, *, depth: int) -> Iterator[str]:
    gone = ", ".join(map(str, removal.removed))
    yield f"{len(removal.removed)} of {depth} blocks removed."
    if removal.metric == "sleb":
        yield (
            "They were chosen one at a time by [SLEB](https://arxiv.org/abs/2402.09025): each is the block whose "
            f"removal raised the loss least, measured again after every removal. Order of removal: {gone}."
        )
    elif removal.metric is not None:
        yield f"They were chosen by the one-shot score {as_markdown_code(removal.metric)}: {gone}."
    else:
        yield f"They were named by hand: {gone}."
    if removal.calibration is not None:
        after = f", {removal.pruned_loss:.4f} after" if removal.pruned_loss is not None else ""
        before = f"{removal.dense_loss:.4f}" if removal.dense_loss is not None else "unknown"
        yield f"Calibration: {for_markdown(removal.calibration)}; loss on it {before} nats/token before{after}."


def _experts(removal: ExpertRemoval) -> Iterator[str]:
    count, blocks = removal.before - removal.left, len(removal.removed)
    yield f"{count} of {removal.before} experts removed from each of {blocks} blocks, with their router rows."
    if removal.metric == "reap":
        yield (
            "They are those with the smallest router weight times output norm, averaged over the tokens that they are "
            "sent ([REAP](https://arxiv.org/abs/2510.13999))."
        )
    elif removal.metric is not None:
        yield "They are those that the router sent the fewest tokens."
    else:
        yield "They were named by hand."
    if removal.calibration is not None:
        yield f"Calibration: {for_markdown(removal.calibration)}."
    gone = "; ".join(f"block {block}: {', '.join(map(str, one))}" for block, one in sorted(removal.removed.items()))
    yield f"By their index before: {gone}."


def _sparsity(sparsity: WeightSparsity, *, depth: int) -> Iterator[str]:
    how = sparsity.settings
    without = ", without " + ", ".join(map(as_markdown_code, how.exclude)) if how.exclude else ""
    yield (
        f"Weights pruned by {as_markdown_code(how.method)} to {describe_pattern(how.pattern)}, in "
        f"{len(how.layers)} of {depth} blocks ({' and '.join(map(for_markdown, how.parts))}{without}), block by block, "
        f"towards the {for_markdown(how.targets_from)} model's activations."
    )
    if how.refit_steps:
        yield "The weights that stay were refitted by least squares on the calibration tokens."
    text, dtype = for_markdown(how.text), for_markdown(how.dtype)
    yield f"Calibration: {how.windows} windows of {how.seq_len} tokens of {text}, in {dtype}."
    share = sparsity.zeros / sparsity.numel if sparsity.numel else 0.0
    yield f"Counted in the files: {sparsity.zeros:,} of {sparsity.numel:,} pruned weights are zero ({share:.2%})."
    yield from (f"Note: {for_markdown(remark)}." for remark in sparsity.remarks)


def _masked(masked: MaskApplication) -> Iterator[str]:
    kept = f", made for {describe_pattern(masked.pattern)}" if masked.pattern else ""
    yield (
        f"Weights made zero by the mask {as_markdown_code(masked.mask)} of another pruned model (weights of "
        f"fingerprint {as_markdown_code(masked.fingerprint[:16])}){kept}. All other weights are the base "
        "model's, bit for bit."
    )
    yield f"Counted in the files: {masked.zeros:,} of {masked.numel:,} masked weights are zero."


def _healing(healing: Healing) -> Iterator[str]:
    how = healing.settings
    kept = [layer for layer in healing.layers if layer.kept]
    yield (
        f"Healed: {len(kept)} layers were solved anew by least squares, on the pruned model's own activations, towards "
        f"the hidden states of {as_markdown_code(how.teacher.name)} behind them; zeros that were pruned stayed zeros."
    )
    yield (
        f"Calibration: {how.windows - how.held_back} windows of {how.seq_len} tokens of {for_markdown(how.text)}, in "
        f"{for_markdown(how.dtype)}; "
        f"{how.held_back} more were held back to choose."
    )
    if healing.losses is not None:
        before, after = healing.losses
        yield f"Loss on those: {before:.4f} nats/token before, {after:.4f} after."
    yield from (f"Note: {for_markdown(remark)}." for remark in healing.remarks)


def _verification(check: Verification) -> str:
    remark = f" {for_markdown(check.remark)}" if check.remark else ""
    return (
        f"The result was loaded again and compared with the model before, in {for_markdown(check.dtype)}: logits "
        f"differ by at most {check.largest_difference:.2g} on {check.tokens} tokens.{remark}"
    )

"""What healing writes into ``llmprune.json``: what was solved, and the errors before and after."""

from __future__ import annotations

from pydantic import Field

from llmprune.artifacts.records.provenance import (
    BlockNumber,
    ModelIdentity,
    Record,
    SourceIdentity,
    describe_text,
    kind_by_name,
)
from llmprune.choices import TextKind


class HealingSettings(Record):
    """How a pruned model was healed: all that decides what comes out.

    Attributes:
        teacher: the dense model.
        scope: ``cut`` (the block before each hole) or ``all`` (every block from the first hole on).
        origins: for each block of the pruned model, its index in the dense one.
        ridges: that are tried, relative to the mean diagonal of a Gram matrix.
        dtype: the models were run in.
        windows: calibration windows in all.
        held_back: of these, the last so many, on which no weight is solved: they choose.
        seq_len: tokens in each.
        corpus: name of the calibration text.
        windows_fingerprint: SHA-256 of the tokens.
        corpus_kind: what the text is made of. In files from before it was kept, the name tells.
        sources: of a mixture of texts.
    """

    teacher: ModelIdentity
    scope: str
    origins: tuple[int, ...]
    ridges: tuple[float, ...]
    dtype: str
    windows: int
    held_back: int
    seq_len: int
    corpus: str
    windows_fingerprint: str
    corpus_kind: TextKind = Field(default_factory=lambda known: kind_by_name(known["corpus"]))
    sources: tuple[SourceIdentity, ...] = ()

    @property
    def text(self) -> str:
        """The calibration text, for people."""
        return describe_text(self.corpus, self.corpus_kind, self.sources)


class LayerHealing(Record):
    """One layer that was solved.

    Errors are means of ||H - h||^2 / ||H||^2 over the held-back tokens, for the dense hidden states H that were aimed
    at and the block's output h.

    Attributes:
        tensor: name of its weight in the checkpoint.
        bias: name of its bias, where it has one.
        kind: its path in the block.
        ridge: that was best on the held-back windows.
        error_before: with the old weight.
        error: with the new one.
        loss_before: mean loss of the model on the held-back windows with the old weight, in nats/token.
        loss: with the new one; None: not finite.
        masked: whether zeros were kept.
    """

    tensor: str
    bias: str | None
    kind: str
    ridge: float
    error_before: float
    error: float
    loss_before: float
    loss: float | None
    masked: bool

    @property
    def kept(self) -> bool:
        """Whether the new weight was kept: where the model's loss fell."""
        return self.loss is not None and self.loss < self.loss_before


class BlockHealing(Record):
    """One block whose layers were solved.

    Attributes:
        block: its index in the pruned model.
        before: the block of the dense model whose input it is to give; the number of blocks: the dense model's output.
        layers: in the order in which they were solved.
        seconds: wall time.
    """

    block: BlockNumber
    before: BlockNumber
    layers: tuple[LayerHealing, ...]
    seconds: float

    def __str__(self) -> str:
        if not self.layers:
            return f"block {self.block:3}: no layer that can be solved ({self.seconds:.0f} s)"
        said = ", ".join(f"{layer.kind} (ridge {layer.ridge:g})" for layer in self.layers if layer.kept)
        losses = f"held-back loss {self.layers[0].loss_before:.4f} -> {self.loss:.4f}"
        return f"block {self.block:3}: {said or 'nothing that helps'}, {losses} ({self.seconds:.0f} s)"

    @property
    def loss(self) -> float:
        """Mean loss of the model on the held-back windows behind the block's layers, in nats/token."""
        return min(layer.loss if layer.loss is not None and layer.kept else layer.loss_before for layer in self.layers)


class Healing(Record):
    """How a pruned model was healed, and what came of it.

    Attributes:
        settings: how.
        blocks: what came of it, block by block.
        remarks: everything that went another way than asked for.
        seconds: wall time of all blocks.
    """

    settings: HealingSettings
    blocks: tuple[BlockHealing, ...]
    remarks: tuple[str, ...]
    seconds: float

    @property
    def layers(self) -> tuple[LayerHealing, ...]:
        """All layers that were solved, in order."""
        return tuple(layer for block in self.blocks for layer in block.layers)

    @property
    def healed_tensors(self) -> tuple[str, ...]:
        """Names of the tensors that were changed."""
        return tuple(
            name for layer in self.layers if layer.kept for name in (layer.tensor, layer.bias) if name is not None
        )

    @property
    def losses(self) -> tuple[float, float] | None:
        """Mean loss on the held-back windows before and after, in nats/token; None: nothing could be solved."""
        if not self.layers:
            return None
        return self.layers[0].loss_before, min(block.loss for block in self.blocks if block.layers)

"""What weight pruning writes into ``llmprune.json``: settings, and what came of them, matrix by matrix."""

from __future__ import annotations

from pydantic import Field

from llmprune.artifacts.records.provenance import BlockNumber, Record, SourceIdentity, describe_text, kind_by_name
from llmprune.choices import TextKind


class SparsitySettings(Record):
    """How a model was pruned.

    Attributes:
        method: ``sparsellm``, ``sparsegpt``, ``wanda`` or ``magnitude``.
        pattern: ``70%``, or ``2:4``: 2 zeros in every 4 inputs.
        targets_from: ``dense`` (the dense model's activations) or ``pruned`` (the papers' protocol).
        layers: blocks, by index in the source.
        parts: ``attention``, ``ffn``.
        exclude: shell patterns of matrices that stayed dense.
        alpha: coefficient of the pre-activations (SparseLLM).
        beta: of the output.
        gamma: of the activation.
        rounds: most rounds of SparseLLM, beside round 0.
        damping: relative to the mean diagonal of a Gram matrix, before it was raised anywhere.
        block_size: columns that SparseGPT prunes at a time.
        refit_steps: of conjugate gradients; 0: no refit.
        dtype: the model was run in.
        windows: calibration windows.
        seq_len: tokens in each.
        corpus: name of the calibration text.
        windows_fingerprint: SHA-256 of the tokens.
        corpus_kind: what the text is made of. In files from before it was kept, the name tells.
        sources: of a mixture of texts.
    """

    method: str
    pattern: str
    targets_from: str
    layers: tuple[int, ...]
    parts: tuple[str, ...]
    exclude: tuple[str, ...]
    alpha: float
    beta: float
    gamma: float
    rounds: int
    damping: float
    block_size: int
    refit_steps: int
    dtype: str
    windows: int
    seq_len: int
    corpus: str
    windows_fingerprint: str
    corpus_kind: TextKind = Field(default_factory=lambda known: kind_by_name(known["corpus"]))
    sources: tuple[SourceIdentity, ...] = ()

    @property
    def text(self) -> str:
        """The calibration text, for people."""
        return describe_text(self.corpus, self.corpus_kind, self.sources)


class MatrixRecord(Record):
    """One pruned matrix, or the same one of several experts.

    Attributes:
        tensor: its name in the checkpoint.
        kind: its path in the block.
        rows: outputs.
        columns: inputs.
        zeros: of its mask, or of all masks.
        error: ||(W - T) X||^2 / ||T X||^2 for the weights T that were aimed at; of experts, both summed over all.
        damping: that its factorisation took, larger than the setting where it had to be raised.
        experts: of how many experts it is.
        others: names of the tensors of the others, where the checkpoint has one for each expert.
        unseen: whether all its inputs were zero on the calibration text, so that it was pruned by magnitude; the error
            is then ||W - T||^2 / ||T||^2. Of experts: whether it was so in one of them.
    """

    tensor: str
    kind: str
    rows: int
    columns: int
    zeros: int
    error: float
    damping: float
    experts: int = 1
    others: tuple[str, ...] = ()
    unseen: bool = False

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of all tensors that hold it."""
        return (self.tensor, *self.others)

    @property
    def numel(self) -> int:
        """Weights."""
        return self.experts * self.rows * self.columns


class FfnRecord(Record):
    """An FFN that was pruned as one problem.

    Attributes:
        errors: ||FFN_pruned(X) - Y||^2 / ||Y||^2 of every round that ran. Round 0 is what SparseGPT gives, matrix by
            matrix, with the same settings; the alternation of SparseLLM begins at round 1.
        kept: the round whose weights were kept, the one with the smallest error.
    """

    errors: tuple[float, ...]
    kept: int


class ExpertsRecord(Record):
    """The experts of a block, each pruned on the tokens that the router sent it.

    Attributes:
        path: of their module in the block.
        tokens: that each expert was sent.
        shared: experts that were sent too few, and were pruned on tokens of all experts instead.
        ffns: of each pruned expert in order, where each was one problem.
    """

    path: str
    tokens: tuple[int, ...]
    shared: tuple[int, ...]
    ffns: tuple[FfnRecord, ...] = ()


class BlockRecord(Record):
    """One pruned block.

    Attributes:
        block: its index in the source.
        matrices: in the order in which they were pruned.
        ffn: None where the FFN was not solved as one problem.
        output_error: ||pruned - dense||^2 / ||dense||^2 of the hidden states leaving it; None where it was not
            measured (with the papers' targets no dense model runs beside; the last block's output is not needed).
        seconds: wall time.
        experts: one entry for each module that computes experts.
    """

    block: BlockNumber
    matrices: tuple[MatrixRecord, ...]
    ffn: FfnRecord | None
    output_error: float | None
    seconds: float
    experts: tuple[ExpertsRecord, ...] = ()

    @property
    def zeros(self) -> int:
        """Zeros of all its pruned matrices."""
        return sum(matrix.zeros for matrix in self.matrices)

    @property
    def numel(self) -> int:
        """Weights of all its pruned matrices."""
        return sum(matrix.numel for matrix in self.matrices)

    def __str__(self) -> str:
        if not self.matrices:
            return f"block {self.block:3}: no matrix to prune ({self.seconds:.0f} s)"
        worst = max(self.matrices, key=lambda matrix: matrix.error)
        said = f"largest error {worst.error:.4f} ({worst.kind})"
        if self.ffn is not None:
            first, kept = self.ffn.errors[0], self.ffn.errors[self.ffn.kept]
            said = f"FFN error {first:.4f} -> {kept:.4f} (round {self.ffn.kept} of {len(self.ffn.errors) - 1})"
        for experts in self.experts:
            said += f", {len(experts.tokens)} experts"
            said += f" ({len(experts.shared)} on tokens of all)" if experts.shared else ""
        leaving = "" if self.output_error is None else f", output error {self.output_error:.4f}"
        zeros = self.zeros / self.numel
        return f"block {self.block:3}: {said}{leaving}, {zeros:.1%} zeros ({self.seconds:.0f} s)"


class WeightSparsity(Record):
    """How weights were pruned, and what came of it.

    Attributes:
        settings: how.
        blocks: what came of it, block by block.
        remarks: everything that went another way than asked for.
        zeros_before: zeros that the source had in these matrices.
        zeros: that the written files have in them.
        numel: weights of them.
        seconds: wall time of all blocks.
    """

    settings: SparsitySettings
    blocks: tuple[BlockRecord, ...]
    remarks: tuple[str, ...]
    zeros_before: int
    zeros: int
    numel: int
    seconds: float

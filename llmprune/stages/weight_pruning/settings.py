"""The settings of ``global-prune``, and how they are typed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmprune.algorithms.feed_forward.subproblems import Coefficients
from llmprune.algorithms.weights.layer import LayerMethod, LayerSettings
from llmprune.algorithms.weights.patterns import Pattern, SemiStructured, parse_sparsity
from llmprune.artifacts.checkpoints.copying import DEFAULT_SHARD_BYTES
from llmprune.artifacts.records.command_line import Value, unless_usual
from llmprune.artifacts.records.provenance import ModelIdentity
from llmprune.choices import BLOCK_SIZE, DAMPING, REFIT_STEPS, ROUNDS, SPARSITY, Method, Reference
from llmprune.stages.common.checks import require_at_least
from llmprune.stages.weight_pruning.selection import Selection


@dataclass(frozen=True)
class PruningSettings:
    """What to prune, how, and where to write the result.

    Attributes:
        pattern: a share of zeros, or N zeros in every M inputs.
        method: what prunes.
        selection: which blocks and matrices.
        reference: whose activations are to be reproduced.
        coefficients: of SparseLLM.
        rounds: most rounds of SparseLLM, beside round 0, which is SparseGPT's result.
        damping: of Gram matrices, relative to their mean diagonal.
        block_size: columns that SparseGPT prunes at a time.
        refit_steps: of conjugate gradients on the fixed mask; 0: no refit.
        samples: use the first so many calibration windows; None: all.
        seq_len: tokens in each; None: as many as the calibration has.
        calibration: another calibration artifact than the run's own.
        out: the new checkpoint's directory; None: in the run directory, named after what was done.
        max_shard_bytes: largest weight file.
        verify: reload the result and compare it with the source's blocks run on the pruned weights.
        force: replace an output directory that holds another checkpoint.
    """

    pattern: Pattern = field(default_factory=lambda: parse_sparsity(SPARSITY))
    method: Method = Method.SPARSELLM
    selection: Selection = field(default_factory=Selection)
    reference: Reference = Reference.DENSE
    coefficients: Coefficients = field(default_factory=Coefficients)
    rounds: int = ROUNDS
    damping: float = DAMPING
    block_size: int = BLOCK_SIZE
    refit_steps: int = REFIT_STEPS
    samples: int | None = None
    seq_len: int | None = None
    calibration: Path | None = None
    out: Path | None = None
    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    verify: bool = True
    force: bool = False

    def __post_init__(self) -> None:
        require_at_least(1, rounds=self.rounds, block_size=self.block_size, samples=self.samples)
        require_at_least(2, seq_len=self.seq_len)
        self.layer  # noqa: B018 (its own checks)

    @property
    def layer(self) -> LayerSettings:
        """How a single matrix is pruned; SparseLLM prunes those outside of FFNs as SparseGPT does."""
        method = LayerMethod.SPARSEGPT if self.method is Method.SPARSELLM else LayerMethod(self.method.value)
        return LayerSettings(self.pattern, self.damping, self.block_size, self.refit_steps, method)


def typed_options(settings: PruningSettings) -> dict[str, Value | Sequence[str]]:
    """The command line's options for these settings, by name; None where the option has its default.

    The caller adds the output and the calibration, which are paths.
    """
    usual = PruningSettings()
    grouped = isinstance(settings.pattern, SemiStructured)
    coefficients, others = settings.coefficients, usual.coefficients
    return {
        "pattern": str(settings.pattern) if grouped else None,
        "sparsity": None if grouped else _spell_sparsity(settings.pattern),
        "method": unless_usual(settings.method.value, usual.method.value),
        "layers": unless_usual(settings.selection.layers, usual.selection.layers),
        "parts": unless_usual(_spell_parts(settings.selection), _spell_parts(usual.selection)),
        "exclude": settings.selection.exclude,
        "targets_from": unless_usual(settings.reference.value, usual.reference.value),
        "alpha": unless_usual(coefficients.alpha, others.alpha),
        "beta": unless_usual(coefficients.beta, others.beta),
        "gamma": unless_usual(coefficients.gamma, others.gamma),
        "rounds": unless_usual(settings.rounds, usual.rounds),
        "damping": unless_usual(settings.damping, usual.damping),
        "block_size": unless_usual(settings.block_size, usual.block_size),
        "no_refit": not settings.refit_steps,
        "samples": settings.samples,
        "seq_len": settings.seq_len,
        "max_shard_size": unless_usual(settings.max_shard_bytes, usual.max_shard_bytes),
        "no_verify": not settings.verify,
    }


def _spell_sparsity(pattern: Pattern) -> str:
    """The percentage if it reads back as the same number, else the ratio with all its digits."""
    percentage = str(pattern)
    return percentage if parse_sparsity(percentage) == pattern else repr(pattern.ratio)


def _spell_parts(selection: Selection) -> str:
    return ",".join(sorted(selection.parts))


def default_name(settings: PruningSettings, *, model: ModelIdentity) -> str:
    """The name of a result without ``--out``: after the model, the method and the pattern."""
    pattern = str(settings.pattern).replace("%", "pct").replace(":", "of")
    where = "" if settings.selection == Selection() else f"-{settings.selection.layers}"
    return f"{model.own_name}-{settings.method.value}-{pattern}{where}"

"""What ``global-prune`` can be asked for, and how that is named, typed and recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmprune.algorithms.feed_forward.subproblems import Coefficients
from llmprune.algorithms.weights.layer import LayerMethod, LayerSettings
from llmprune.algorithms.weights.patterns import Pattern, SemiStructured, parse_sparsity
from llmprune.artifacts.activations import CalibrationManifest
from llmprune.artifacts.checkpoints.copying import DEFAULT_SHARD_BYTES
from llmprune.artifacts.records.weight_sparsity import SparsitySettings
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

    def recorded(self, blocks: Sequence[int], calibration: CalibrationManifest, *, dtype: str) -> SparsitySettings:
        """The settings as ``llmprune.json`` keeps them: all that decides what comes out."""
        return SparsitySettings(
            method=self.method.value,
            pattern=str(self.pattern),
            targets_from=self.reference.value,
            layers=tuple(blocks),
            parts=tuple(sorted(self.selection.parts)),
            exclude=self.selection.exclude,
            alpha=self.coefficients.alpha,
            beta=self.coefficients.beta,
            gamma=self.coefficients.gamma,
            rounds=self.rounds,
            damping=self.damping,
            block_size=self.block_size,
            refit_steps=self.refit_steps,
            dtype=dtype,
            windows=self.samples or calibration.num_windows,
            seq_len=calibration.seq_len,
            corpus=calibration.corpus.name,
            windows_fingerprint=calibration.windows_fingerprint,
        )


def command_of(settings: PruningSettings, *, model: str, out: str) -> str:
    """What to type to make a checkpoint again, what is not a default written out."""
    plain = PruningSettings(pattern=settings.pattern)
    pattern = f"--pattern {settings.pattern}" if isinstance(settings.pattern, SemiStructured) else None
    options = {
        "method": (settings.method.value, plain.method.value),
        "layers": (settings.selection.layers, plain.selection.layers),
        "parts": (",".join(sorted(settings.selection.parts)), ",".join(sorted(plain.selection.parts))),
        "targets-from": (settings.reference.value, plain.reference.value),
        "alpha": (settings.coefficients.alpha, plain.coefficients.alpha),
        "beta": (settings.coefficients.beta, plain.coefficients.beta),
        "gamma": (settings.coefficients.gamma, plain.coefficients.gamma),
        "rounds": (settings.rounds, plain.rounds),
        "damping": (settings.damping, plain.damping),
        "block-size": (settings.block_size, plain.block_size),
        "samples": (settings.samples, None),
        "seq-len": (settings.seq_len, None),
    }
    changed = [f"--{name} {value}" for name, (value, usual) in options.items() if value != usual]
    changed += [f"--exclude '{name}'" for name in settings.selection.exclude]
    changed += ["--no-refit"] if not settings.refit_steps else []
    words = ["llmprune global-prune", model, pattern or f"--sparsity {settings.pattern}", *changed]
    return " ".join([*words, f"--out {out}"])


def default_name(settings: PruningSettings, *, model: str) -> str:
    """How a result is called by itself: after the model, the method and the pattern."""
    name = model.split("@")[0].rsplit("/", 1)[-1].removesuffix(".gguf")
    pattern = str(settings.pattern).replace("%", "pct").replace(":", "of")
    where = "" if settings.selection == Selection() else f"-{settings.selection.layers}"
    return f"{name}-{settings.method.value}-{pattern}{where}"

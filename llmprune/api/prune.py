"""Pruning to a budget: a size or a speed goes in, a healed checkpoint beside its alternatives comes out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmprune.api.models import OnDisk
from llmprune.api.progress import Logged
from llmprune.api.tables import table
from llmprune.api.windows import Windows, as_windows
from llmprune.artifacts.files.sizes import parse_size
from llmprune.artifacts.records.budget import BudgetResult
from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.choices import DEVICE, SHARD_SIZE, Dtype
from llmprune.errors import TargetError
from llmprune.report.budget_text import budget_remarks, budget_table
from llmprune.stages.benchmark import BenchSettings
from llmprune.stages.budget_pruning import BudgetSettings, prune_to_budget
from llmprune.stages.calibration import calibrate_on
from llmprune.stages.common.checks import require_positions, require_vocabulary
from llmprune.stages.common.progress import Progress


@dataclass(frozen=True, repr=False)
class BudgetedModel:
    """A checkpoint within a budget: ``AutoModelForCausalLM.from_pretrained(pruned.directory)`` loads it.

    Attributes:
        directory: where it is.
        record: its ``llmprune.json``: what was done, from what, and what verification saw.
        result: the dense model, this one and the two nearest alternatives, as ``llmprune prune`` writes it.
    """

    directory: Path
    record: PruningRecord
    result: BudgetResult

    def __repr__(self) -> str:
        return "\n".join([str(self.directory), table(*budget_table(self.result)), *budget_remarks(self.result)])


def prune(
    model: str | Path,
    windows: Windows | None = None,
    *,
    size: str | int | None = None,
    speed_up: float | None = None,
    ppl: str = "auto",
    ppl_seq_len: int | None = None,
    max_windows: int | None = None,
    out: Path | str | None = None,
    verify: bool = True,
    force: bool = False,
    max_shard_size: str | int = SHARD_SIZE,
    run: Path | str | None = None,
    device: str = DEVICE,
    dtype: str = Dtype.AUTO,
    memory_budget: str | None = None,
    trust_remote_code: bool = False,
    check: bool = True,
    progress: Progress | None = None,
) -> BudgetedModel:
    """Prune a model to a size or a speed: what ``llmprune prune`` does.

    As few blocks go as the budget asks for. They are chosen with healing in mind, the blocks that stay are healed, and
    the result is measured beside the dense model and the models with a block fewer and a block more.

    Args:
        model: path or Hub id.
        windows: to calibrate on, from ``calibration_windows``; None: those of ``run``, or the usual ones.
        size: the most stored parameters: ``"70%"``, ``"100M"``, or a number.
        speed_up: how many times as fast it is to generate, such as 1.3.
        ppl: text for perplexity, a source as in ``calibration_windows``.
        ppl_seq_len: tokens in a window of it; None: 2048, or as many as the model has positions.
        max_windows: largest number of windows; None: that of its published protocol, or all.
        out: the new checkpoint's directory; None: in ``run``.
        verify: load the result and compare it with the source's blocks run on the healed weights.
        force: replace a checkpoint that ``out`` holds, and measure anew.
        max_shard_size: largest weight file.
        run: a run directory, where what is finished is kept and found again; None: nothing is kept but ``out``.
        device: ``auto``, ``cpu`` or ``cuda``.
        dtype: what to compute in: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        memory_budget: the most memory to use: ``"12GB"``, or ``"12GB,48GB"`` of a GPU and of the
            host; None: what is free, less a margin. No number depends on it.
        trust_remote_code: whether the checkpoint's own Python files may run.
        check: whether to see first that a checkpoint of llmprune is as it was written, by the digests in its record.
        progress: who hears remarks; None: the logger ``llmprune``.

    Raises:
        TargetError: a budget that the model cannot keep, or keeps as it is; or neither ``out`` nor ``run``.
        ModelError: no such model, not a causal LM, or none of its blocks can be removed.
        ArtifactError: the run belongs to another model, or holds other settings' artifacts.
        OutputExistsError: ``out`` holds something else.
        VerificationError: the written checkpoint does not compute what it should.

    Example:
        >>> pruned = prune("my-model", size="70%", run="llmprune-run")
        >>> print(pruned)
    """
    if out is None and run is None:
        raise TargetError("Where is the checkpoint to be? Give `out`, or a `run` directory.")
    place = OnDisk(run, device, dtype, trust_remote_code, progress or Logged(), check, memory_budget)
    settings = BudgetSettings(
        size=None if size is None else str(size),
        speed_up=speed_up,
        measured=BenchSettings(ppl=(ppl,), ppl_seq_len=ppl_seq_len, max_windows=max_windows, agreement=0),
        out=None if out is None else Path(out),
        max_shard_bytes=parse_size(max_shard_size),
        verify=verify,
        force=force,
    )
    with place.workspace(model) as workspace:
        if windows is not None:
            text = as_windows(windows)
            require_positions(workspace.positions, seq_len=text.seq_len)
            require_vocabulary(workspace.vocabulary, text.tokens)
            calibrate_on(workspace, text)
        report = prune_to_budget(workspace, settings)
    return BudgetedModel(report.directory, report.record, report.result)

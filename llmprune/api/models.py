"""The first argument of every function: a transformers model in memory, or the path or Hub id of one on disk."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeAlias

from llmprune.api.progress import Logged
from llmprune.choices import DEVICE, Dtype
from llmprune.errors import TargetError
from llmprune.models.compute import choose_compute
from llmprune.models.loading import load_whole
from llmprune.stages.common.intact import Intact
from llmprune.stages.common.progress import Progress
from llmprune.stages.common.workspace import Workspace, open_workspace

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Model: TypeAlias = "PreTrainedModel | str | Path"


@dataclass(frozen=True)
class OnDisk:
    """How a model on disk is opened; none of it means anything for one in memory.

    Attributes:
        run: a run directory, where what is finished is kept and found again; None: nothing is kept.
        device: ``auto``, ``cpu`` or ``cuda``.
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        trust_remote_code: whether the checkpoint's own Python files may run.
        progress: who listens.
        check: whether to see first that a checkpoint of llmprune is as it was written.
        memory_budget: the most memory to use, as ``--memory-budget``; None: what is free, less a margin.
    """

    run: Path | str | None = None
    device: str = DEVICE
    dtype: str = Dtype.AUTO
    trust_remote_code: bool = False
    progress: Progress = field(default_factory=Logged)
    check: bool = True
    memory_budget: str | None = None

    @contextmanager
    def workspace(self, model: str | Path, *, without: Collection[int] = ()) -> Iterator[Workspace]:
        """The model in its run directory, or in one that is gone when the context ends.

        Raises:
            ModelError: there is no such model, or it is not a causal LM.
            CheckpointError: its weights are not whole, or not what its config says.
            ArtifactError: the run directory belongs to another model.
            TargetError: no such device, dtype or size.
        """
        compute = choose_compute(self.device, self.dtype, self.memory_budget)
        with TemporaryDirectory(prefix="llmprune-") as scratch:
            run = Path(self.run) if self.run is not None else Path(scratch) / "run"
            yield open_workspace(
                run,
                str(model),
                compute=compute,
                progress=self.progress,
                trust_remote_code=self.trust_remote_code,
                without=without,
                intact=Intact(self.check),
                folder=Path.cwd() if self.run is None else None,  # a recorded command says nothing of the temporary one
            )

    def load(self, workspace: Workspace) -> PreTrainedModel:
        """The whole model of a workspace in memory.

        Raises:
            ModelError: transformers cannot load it.
        """
        return load_whole(
            workspace.directory,
            device=workspace.compute.device,
            dtype=workspace.dtype,
            trust_remote_code=self.trust_remote_code,
        )

    def refuse(self, *names: str, out: Path | str | None = None) -> None:
        """See that nothing is asked of a model in memory that only makes sense for one on disk.

        Args:
            names: what does not; none: all that is here.
            out: where the result should be written.

        Raises:
            TargetError: something is.
        """
        usual = OnDisk()
        for name in names or ("run", "device", "dtype", "trust_remote_code", "check", "memory_budget"):
            if (value := getattr(self, name)) != getattr(usual, name):
                raise TargetError(
                    f"`{name}={value}` is about a model on disk, and this one is in memory; leave it out, or give the "
                    "model's path."
                )
        if out is not None:
            raise TargetError(
                f"`out={out}` is about a model on disk, whose files are streamed; this one is in memory: leave it out, "
                "and save what is returned by its save_pretrained."
            )

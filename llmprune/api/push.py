"""Publishing a checkpoint that llmprune wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmprune.api.checkpoints import PrunedCheckpoint
from llmprune.api.progress import Logged
from llmprune.api.tables import table
from llmprune.artifacts.files.sizes import format_size
from llmprune.artifacts.run import RunDirectory
from llmprune.choices import DEVICE, Dtype
from llmprune.models.compute import choose_compute
from llmprune.publishing.destination import Destination
from llmprune.stages.common.intact import Intact
from llmprune.stages.common.progress import Progress
from llmprune.stages.publishing import PushSettings
from llmprune.stages.publishing import push as push_checkpoint


@dataclass(frozen=True, repr=False)
class Publication:
    """What was published, or would be.

    Attributes:
        repo: the repository.
        files: path -> bytes of everything that it holds of the checkpoint.
        url: where to look at it; None: it was a dry run.
        commit: that holds the files; None: it was a dry run.
        changed: paths that were sent or removed; none: all was there already.
    """

    repo: str
    files: dict[str, int]
    url: str | None = None
    commit: str | None = None
    changed: tuple[str, ...] = ()

    def __repr__(self) -> str:
        rows = [[path, format_size(size)] for path, size in self.files.items()]
        said = f"sent in commit {self.commit:.12}: {self.url}" if self.commit else "a dry run: nothing was sent"
        return f"{self.repo}, {said}\n{table(['file', 'size'], rows)}"


def push(
    checkpoint: PrunedCheckpoint | Path | str,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
    include_artifacts: bool = False,
    base_model: str | None = None,
    dry_run: bool = False,
    force: bool = False,
    run: Path | str | None = None,
    device: str = DEVICE,
    dtype: str = Dtype.AUTO,
    memory_budget: str | None = None,
    trust_remote_code: bool = False,
    check: bool = True,
    progress: Progress | None = None,
) -> Publication:
    """Check a checkpoint that llmprune wrote, send it to the Hub in one commit, and compare what arrived.

    Args:
        checkpoint: as a function with ``out`` returned it, or its directory.
        repo: ``owner/name``; made if need be.
        private: make it private, if it is to be made.
        revision: a branch, made if need be; None: ``main``.
        create_pr: propose the files in a pull request instead.
        tag: what to call the commit.
        include_artifacts: also the importance file, the benchmarks, the report page and the mask of pruned weights.
        base_model: the base model's Hub id, for the card, where the model was pruned from a local copy.
        dry_run: check and list, without the Hub; send nothing.
        force: replace all that the repository holds.
        run: the run directory that made the checkpoint, for what it measured; None: the one that the checkpoint
            lies in, if it does.
        device: where to load the checkpoint: ``auto``, ``cpu`` or ``cuda``.
        dtype: what to load it in.
        memory_budget: the most memory to use: ``"12GB"``, or ``"12GB,48GB"`` of a GPU and of the
            host; None: what is free, less a margin. No number depends on it.
        trust_remote_code: whether the checkpoint's own Python files may run.
        check: whether to see first that a checkpoint of llmprune is as it was written, by the digests in its record.
        progress: who hears remarks; None: the logger ``llmprune``.

    Raises:
        ArtifactError: no checkpoint of llmprune's, or a file that does not belong.
        CheckpointError: weights that are not whole, or were changed since.
        OutputExistsError: the repository holds something else.
        AccessError: nobody is logged in, or has no right to write there.
        HubError: the Hub cannot be reached or failed; what was sent is kept.

    Example:
        >>> push(checkpoint, "owner/name", dry_run=True)
    """
    directory = checkpoint.directory if isinstance(checkpoint, PrunedCheckpoint) else Path(checkpoint)
    report = push_checkpoint(
        directory,
        PushSettings(
            Destination(repo, private, revision, create_pr, tag, force), include_artifacts, base_model, dry_run
        ),
        run=RunDirectory(Path(run) if run is not None else directory.resolve().parent),
        compute=choose_compute(device, dtype, memory_budget),
        progress=progress or Logged(),
        trust_remote_code=trust_remote_code,
        intact=Intact(check),
    )
    files = {file.path: file.size for file in report.files}
    if report.sent is None:
        return Publication(repo, files)
    return Publication(repo, files, report.sent.url, report.sent.commit, report.sent.changed)

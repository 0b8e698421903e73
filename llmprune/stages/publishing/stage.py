"""``llmprune push``: a checked checkpoint goes to the Hub with its card, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from llmprune.artifacts.checkpoints.checkpoint import Checkpoint
from llmprune.artifacts.files.digests import FileDigest
from llmprune.artifacts.records.provenance import WeightsIdentity
from llmprune.artifacts.records.pruning import RECORD_NAME, PruningRecord
from llmprune.artifacts.records.zeros_counted import SparsityReport
from llmprune.artifacts.run import RunDirectory
from llmprune.errors import ArtifactError, CheckpointError
from llmprune.evaluation.sparsity import measure_sparsity
from llmprune.hub.access import check_repo_id, require_login
from llmprune.models.anatomy import block_count
from llmprune.models.compute import Compute
from llmprune.models.source import check_model, fingerprint_of
from llmprune.publishing.card import CardFacts, check_card, is_as_written, model_card
from llmprune.publishing.contents import CARD_NAME, LocalFile, collect
from llmprune.publishing.description import describe_pattern
from llmprune.publishing.destination import Destination, Sent
from llmprune.publishing.history import base_on_hub, patterns
from llmprune.publishing.licence import licence_of, licence_on_hub
from llmprune.publishing.repository import HubRepository
from llmprune.stages.common.intact import Intact
from llmprune.stages.common.progress import Progress
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.output.verification import check_loads
from llmprune.stages.publishing.attachments import bench_results, collect_artifacts, run_of


@dataclass(frozen=True)
class PushSettings:
    """What to publish, and where.

    Attributes:
        destination: the repository.
        include_artifacts: also the importance file, the benchmarks, the report page and the mask of pruned weights.
        base_model: the base model's Hub id, for the card, where the model was pruned from a local copy.
        dry_run: verify and list, and send nothing.

    Raises:
        TargetError: the base model's is no name that the Hub allows.
    """

    destination: Destination
    include_artifacts: bool = False
    base_model: str | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.base_model is not None:
            check_repo_id(self.base_model)


@dataclass(frozen=True)
class PushReport:
    """What was published.

    Attributes:
        directory: the checkpoint.
        repo_id: the repository.
        files: everything that it holds of the checkpoint now, or would hold.
        sent: what became of it; None: it was a dry run.
    """

    directory: Path
    repo_id: str
    files: tuple[LocalFile, ...]
    sent: Sent | None


def require_pushable(settings: PushSettings) -> None:
    """Check, before a long stage, that somebody is logged in and may read the repository.

    Raises:
        AccessError: nobody is logged in, or may not look there.
        OutputExistsError: the repository is public where a private one is wanted.
        HubError: the Hub cannot be reached.
    """
    require_login()
    HubRepository(settings.destination).look()


def push(
    directory: Path,
    settings: PushSettings,
    *,
    run: RunDirectory,
    compute: Compute,
    progress: Progress,
    trust_remote_code: bool = False,
    intact: Intact | None = None,
    on_listing: Callable[[Sequence[LocalFile]], None] = lambda _: None,
) -> PushReport:
    """Verify a checkpoint that llmprune wrote, send it to the Hub in one commit, and compare what arrived.

    An interrupted push goes on. Files that the repository holds already are not sent again.

    Args:
        directory: the checkpoint.
        settings: what and where.
        run: the run directory that made it, for benchmarks and other artifacts. The directory that holds the
            checkpoint is searched, too.
        compute: device and dtype to load it with.
        progress: who listens.
        trust_remote_code: let the checkpoint's own Python files run.
        intact: what is checked of the checkpoint; None: everything.
        on_listing: called with the files before they are sent.

    Raises:
        ArtifactError: no checkpoint of llmprune's, a file that does not belong, or a card that is broken.
        ModelError: config and weights disagree, or it cannot be loaded.
        CheckpointError: weights that are not whole, or not the ones that ``llmprune.json`` describes.
        NumericalError: it computes NaN or infinity.
        OutputExistsError: the repository holds something else.
        AccessError: nobody is logged in, or has no right to write there.
        HubError: the Hub cannot be reached or failed; what was sent is kept.
        VerificationError: what the Hub holds is not what was sent.
    """
    repository = HubRepository(settings.destination, say=progress.say)
    state = None if settings.dry_run else repository.look()
    record = read_record(directory)
    checkpoint = require_described(directory, record, trust_remote_code)
    belonging = collect(directory, checkpoint.shards)
    (intact or Intact()).require(directory, progress, weights=_digests(belonging))
    progress.say(f"Loading {directory.name} block by block to see that it computes.")
    check_loads(directory, compute=compute, trust_remote_code=trust_remote_code)
    with TemporaryDirectory(prefix="llmprune-push-") as scratch:
        files = _gather(directory, belonging, checkpoint, record, settings, run, Path(scratch), progress)
        on_listing(files)
        if state is None:
            _look_at_temporary(files, Path(scratch))
            return PushReport(directory, settings.destination.repo_id, files, None)
        repository.require_room(state, files)
        with progress.task("Sending", sum(file.size for file in files)) as advance:
            sent = repository.send(state, files, message=_message(record), advance=advance)
    return PushReport(directory, settings.destination.repo_id, files, sent)


def _look_at_temporary(files: Sequence[LocalFile], scratch: Path) -> None:
    """Have sizes and hashes of files that are gone when the report is read."""
    for file in files:
        if isinstance(file.content, Path) and file.content.is_relative_to(scratch):
            _ = file.size, file.hashes


def push_written(
    workspace: Workspace,
    directory: Path,
    settings: PushSettings | None,
    *,
    on_listing: Callable[[Sequence[LocalFile]], None] = lambda _: None,
) -> PushReport | None:
    """Publish the checkpoint that a stage has just written, where that was asked for.

    Args:
        workspace: the stage's.
        directory: the checkpoint.
        settings: what and where; None: nothing was asked for.
        on_listing: called with what will be sent, before it is.

    Raises:
        LlmpruneError: as ``push`` does.
    """
    if settings is None:
        return None
    workspace.progress.say(f"Written to {directory}; now to {settings.destination.repo_id} on the Hub.")
    return push(
        directory,
        settings,
        run=workspace.run,
        compute=workspace.compute,
        progress=workspace.progress,
        trust_remote_code=workspace.trust_remote_code,
        intact=workspace.intact,
        on_listing=on_listing,
    )


def read_record(directory: Path) -> PruningRecord:
    """The record of a checkpoint that llmprune wrote.

    Raises:
        ArtifactError: it has none, or it cannot be read.
    """
    if not (directory / RECORD_NAME).is_file():
        raise ArtifactError(
            f"{directory} has no {RECORD_NAME}: push sends checkpoints that llmprune wrote; type the directory of one, "
            "or for any other folder: hf upload"
        )
    return PruningRecord.read(directory / RECORD_NAME)


def require_described(directory: Path, record: PruningRecord, trust_remote_code: bool) -> Checkpoint:
    """See that the shards are whole, that the config agrees with them, and that both are what the record describes."""
    config, checkpoint = check_model(directory, trust_remote_code=trust_remote_code)
    found = (block_count(config), checkpoint.num_parameters, checkpoint.nbytes)
    told = (record.num_blocks, record.num_parameters, record.weight_bytes)
    for what, there, expected in zip(("blocks", "parameters", "bytes of weights"), found, told, strict=True):
        if there != expected:
            raise CheckpointError(
                f"{directory} has {there:,} {what}, but its {RECORD_NAME} says {expected:,}. It was changed after "
                "llmprune wrote it. Make it again, then push."
            )
    return checkpoint


def _digests(belonging: Sequence[LocalFile]) -> dict[str, FileDigest]:
    """What the files of weights hold, by their path."""
    return {file.path: file.digest for file in belonging if file.path.endswith(".safetensors")}


def _gather(
    directory: Path,
    belonging: Sequence[LocalFile],
    checkpoint: Checkpoint,
    record: PruningRecord,
    settings: PushSettings,
    run: RunDirectory,
    scratch: Path,
    progress: Progress,
) -> tuple[LocalFile, ...]:
    """Everything that is to be published, in the order of paths, with a card made from what is known now."""
    zeros = _count_zeros(directory, checkpoint, record)
    made_by = run_of(directory, run)
    measured = WeightsIdentity.of(fingerprint_of(directory, checkpoint), _digests(belonging))
    bench = bench_results(made_by, directory, record, measured, progress)
    others: tuple[LocalFile, ...] = ()
    if settings.include_artifacts:
        others = collect_artifacts(made_by, checkpoint, record, bench, scratch=scratch, progress=progress)
    named = settings.base_model or base_on_hub(record)
    licence = licence_of(directory) or (licence_on_hub(named) if named and not settings.dry_run else None)
    facts = CardFacts(
        record,
        licence=licence,
        results=tuple(bench.values()),
        zeros=zeros,
        repo_id=settings.destination.repo_id,
        base_model=settings.base_model,
        attachments=tuple(file.path for file in others),
    )
    card = LocalFile(CARD_NAME, _card(directory, facts, progress).encode())
    kept = [file for file in belonging if file.path != CARD_NAME]
    return tuple(sorted([*kept, *others, card], key=lambda file: file.path))


def _card(directory: Path, facts: CardFacts, progress: Progress) -> str:
    """The card to publish: the user's own where they edited it, else one that knows the newest benchmarks."""
    path = directory / CARD_NAME
    old = path.read_text(encoding="utf-8") if path.is_file() else None
    if old is not None and not is_as_written(old):
        progress.say(f"{CARD_NAME} was edited: it is sent as it is. Delete it to have llmprune write a new one.")
        check_card(old)
        return old
    if facts.licence is None:
        progress.say(f"No licence is known, so the card names none; add `license:` to the metadata of {CARD_NAME}.")
    if not (facts.base_model or base_on_hub(facts.record)):
        progress.say("The base model's Hub id is not known, so the card names none; type it with `base_model`.")
    card = model_card(facts)
    check_card(card)
    return card


def _count_zeros(directory: Path, checkpoint: Checkpoint, record: PruningRecord) -> SparsityReport | None:
    """What is zero in the files of a model whose weights were pruned, held against what its record says."""
    if not patterns(record):
        return None
    counted = measure_sparsity(checkpoint)
    told, pruned = record.masked or record.sparsity, set(record.pruned_tensors)
    zeros = sum(tensor.zeros for tensor in counted.tensors if tensor.name in pruned)
    if told is not None and zeros != told.zeros:
        raise CheckpointError(
            f"{directory} has {zeros:,} zeros in its pruned weights, but its {RECORD_NAME} says {told.zeros:,}. It "
            "was changed after llmprune wrote it. Make it again, then push."
        )
    return counted


def _message(record: PruningRecord) -> str:
    """The commit's title."""
    source = record.source.name.rsplit("/", 1)[-1]
    if record.removal is not None:
        healed = ", healed" if record.healing is not None else ""
        return f"{source} without {len(record.removal.removed)} of its {record.source.num_blocks} blocks{healed}"
    if record.healing is not None:
        return f"{source}, healed"
    if record.experts is not None:
        return f"{source} with {record.experts.left} of {record.experts.before} experts"
    return f"{source}, weights pruned to {describe_pattern(record.pattern or '')}"

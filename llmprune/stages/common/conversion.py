"""Weights that are no safetensors become a checkpoint of a run, once."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from llmprune.artifacts.records.conversion import CONVERSION_NAME, Conversion
from llmprune.artifacts.records.provenance import FileRecord
from llmprune.artifacts.run import RunDirectory, RunRecord
from llmprune.errors import ModelError
from llmprune.models.gguf import convert_gguf
from llmprune.models.pickles import convert_pickles
from llmprune.models.source import ModelSource
from llmprune.stages.common.intact import written_files
from llmprune.stages.common.progress import Progress


def convert(
    run: RunDirectory, record: RunRecord, source: ModelSource, progress: Progress, *, trust_remote_code: bool
) -> None:
    """Make a checkpoint of a GGUF file or of pickled weights in a run's ``dense/``: all of it or nothing.

    Args:
        run: the run directory.
        record: what it records of the model.
        source: the file, or the directory with pickles.
        progress: who hears of it.
        trust_remote_code: whether the model's own Python files may run.

    Raises:
        ModelError: it cannot be read, or its weights are not what its config says.
        CheckpointError: a pickle needs more than tensors, or is not whole.
        LlmpruneError: the disk is full.
    """
    finish = partial(_record, record.model)
    with run.writing(record):
        if source.is_gguf:
            progress.say(f"Converting {source.path.name} to a float32 checkpoint in {run.dense} (once).")
            convert_gguf(source.path, run.dense, finish=finish)
        else:
            progress.say(f"Converting the pickled weights of {source.name} to safetensors in {run.dense} (once).")
            convert_pickles(source.path, run.dense, trust_remote_code=trust_remote_code, finish=finish)


def _record(model: str, directory: Path) -> None:
    """Note what was written, so that later commands notice what becomes of it."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    found = {path.relative_to(directory).as_posix(): FileRecord.of_file(path) for path in files}
    Conversion(model=model, written=written_files(directory, found)).write(directory / CONVERSION_NAME)


def refuse_to_convert(run: RunDirectory, record: RunRecord, source: ModelSource, progress: Progress) -> None:
    """Where no file is to be made.

    Raises:
        ModelError: always.
    """
    raise ModelError(
        f"{source.name} has no safetensors yet, and a plan converts nothing; type the same command without `plan`: it "
        f"makes {run.dense} first."
    )

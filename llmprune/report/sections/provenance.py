"""Where every number comes from, and the commands that make it again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from llmprune.report.commands import bench_command, calibrate_command, search_command
from llmprune.report.parts import Cell, Section, Table

if TYPE_CHECKING:
    from llmprune.artifacts.activations import CalibrationManifest
    from llmprune.artifacts.records.importance import Importance
    from llmprune.artifacts.records.provenance import Artifact
    from llmprune.artifacts.records.sweep import SweepResult
    from llmprune.report.contents import RunContents

_SHOWN = 12  # digits of a fingerprint


def provenance_section(contents: RunContents) -> Section:
    """Commands, files with their versions and fingerprints, and machines."""
    lead = (
        "Every number on this page is read from the files below. Nothing was entered by hand. Commands name local "
        "models and texts without their folders.",
        *contents.remarks,
    )
    tables = [_commands_table(contents), _files_table(contents)]
    if contents.measurements:
        tables.append(_machines_table(contents))
    return Section("provenance", "Where the numbers come from", lead, tables=tuple(tables))


def _commands_table(contents: RunContents) -> Table:
    steps: list[tuple[str, str]] = []
    if contents.calibration is not None:
        steps.append(("calibration", calibrate_command(contents.calibration)))
    if contents.importance is not None:
        steps.append(("search", search_command(contents.importance)))
    steps += [(f"checkpoint {one.name}", one.record.made_by) for one in contents.checkpoints]
    swept = len(contents.measurements) - len(contents.results)
    steps += [(f"benchmark of {one.model.name}", bench_command(one)) for one in contents.results]
    steps += [("sweep", f"{swept} benchmarks: see the sweep's commands")] if contents.sweep and swept else []
    rows = tuple((Cell(str(n), n), Cell(what), Cell(command, code=True)) for n, (what, command) in enumerate(steps, 1))
    return Table("Commands that make everything again, in order", ("step", "what", "command"), rows)


def _files(contents: RunContents) -> Iterator[tuple[str, Artifact, str]]:
    """(file, artifact, what it was made from)."""
    if (manifest := contents.calibration) is not None:
        text = f"{manifest.corpus.origin} ({manifest.corpus.fingerprint[:_SHOWN]})"
        yield "calibration/manifest.json", manifest, f"{_model(manifest)}; {text}"
    if (importance := contents.importance) is not None:
        text = f"windows {importance.windows_fingerprint[:_SHOWN]} of {importance.corpus.origin}"
        yield "importance.json", importance, f"{_model(importance)}; {text}"
    for one in contents.checkpoints:
        source = one.record.source
        yield f"{one.name}/llmprune.json", one.record, f"{source.name} ({source.fingerprint[:_SHOWN]})"
    for measurement in contents.measurements:
        models = [found.name for found in (measurement.result.model, measurement.result.baseline) if found]
        texts = [f"{one.corpus.name} ({one.corpus.fingerprint[:_SHOWN]})" for one in measurement.result.perplexity]
        yield f"bench/{measurement.file}", measurement.result, "; ".join([" and ".join(models), *texts])
    if contents.sweep is not None:
        yield "sweep.json", contents.sweep, _model(contents.sweep)
    if contents.generations is not None:
        named = [f"{one.name} ({one.model.fingerprint[:_SHOWN]})" for one in contents.generations.models]
        yield "samples.json", contents.generations, ", ".join(named)


def _model(artifact: CalibrationManifest | Importance | SweepResult) -> str:
    return f"{artifact.model.name} ({artifact.model.fingerprint[:_SHOWN]})"


def _files_table(contents: RunContents) -> Table:
    rows = tuple(
        (
            Cell(file, code=True),
            Cell(artifact.created.replace("T", " ").removesuffix("+00:00")),
            Cell(f"{artifact.schema_version}", artifact.schema_version),
            Cell(
                f"llmprune {artifact.versions.llmprune}, torch {artifact.versions.torch}, "
                f"transformers {artifact.versions.transformers}"
            ),
            Cell(source),
        )
        for file, artifact, source in _files(contents)
    )
    columns = ("file", "made, UTC", "schema", "software", "made from (fingerprint)")
    return Table("Files of the run", columns, rows)


def _machines_table(contents: RunContents) -> Table:
    machines = dict.fromkeys((one.result.machine, one.result.device, one.result.dtype) for one in contents.measurements)
    rows = tuple(
        (
            Cell(machine.processor),
            Cell(device),
            Cell(dtype),
            Cell(str(machine.threads), machine.threads),
            Cell(f"{machine.memory_bytes / 2**30:.0f}", machine.memory_bytes),
            Cell(", ".join(machine.attention)),
            Cell(f"{machine.system}, Python {machine.python}" + (f", CUDA {machine.cuda}" if machine.cuda else "")),
        )
        for machine, device, dtype in machines
    )
    columns = ("processor", "device", "dtype", "threads", "GiB", "attention", "system")
    return Table("Machines that were measured on", columns, rows)

"""What to type to make a sweep's point again, in the folder that holds the run directory."""

from __future__ import annotations

import shlex

from llmprune.algorithms.weights.patterns import SemiStructured
from llmprune.artifacts.records.bench import Protocols
from llmprune.choices import Bos
from llmprune.models.compute import dtype_name
from llmprune.stages.common.workspace import Workspace
from llmprune.stages.sweeping.plan import PlannedPoint
from llmprune.stages.sweeping.settings import SweepSettings


def point_commands(
    point: PlannedPoint, settings: SweepSettings, measuring: Protocols, workspace: Workspace
) -> tuple[str, ...]:
    """Commands that make a point and measure it; what is not a default is written out."""
    run = workspace.run.path.absolute().name
    place = f"{run}/{workspace.run.sweep_folder.name}"
    words: list[list[str]] = []
    source: list[str] = []
    own = ["--run", run]
    if point.target is not None:
        source = [f"{place}/{point.alone.folder}"]
        words.append(["remove-blocks", "--target", point.target, *own, "--out", *source])
    if point.pattern is not None:
        option = "--pattern" if isinstance(point.pattern, SemiStructured) else "--sparsity"
        if source:
            own = ["--calibration", f"{run}/{workspace.run.calibration.name}", "--run", f"{source[0]}.run"]
        method = ["--method", settings.method.value]
        out = ["--out", f"{place}/{point.folder}"]
        words.append(["global-prune", *source, option, str(point.pattern), *method, *own, *out])
    words = [one + _dtype(workspace) for one in words]
    words.append(["bench", f"{place}/{point.folder}", *_bench_options(settings, measuring, workspace)])
    return tuple(shlex.join(["llmprune", *one]) for one in words)


def dense_command(settings: SweepSettings, measuring: Protocols, workspace: Workspace) -> str:
    """The command that measures the dense model by itself."""
    return shlex.join(["llmprune", "bench", workspace.model.name, *_bench_options(settings, measuring, workspace)])


def _bench_options(settings: SweepSettings, measuring: Protocols, workspace: Workspace) -> list[str]:
    texts = [word for protocol in measuring.perplexity for word in ("--ppl", protocol.corpus.name)]
    lengths = {protocol.seq_len for protocol in measuring.perplexity}
    options = ["--run", workspace.run.path.absolute().name, *texts, "--ppl-seq-len", str(*lengths)]
    if settings.bench.max_windows is not None:
        options += ["--max-windows", str(settings.bench.max_windows)]
    if settings.bench.bos != Bos.AUTO:
        options += ["--bos", settings.bench.bos]
    if settings.bench.tasks:
        options += ["--tasks", ",".join(settings.bench.tasks)]
    if settings.bench.lm_eval_include is not None:
        options += ["--lm-eval-include", str(settings.bench.lm_eval_include)]
    if settings.bench.limit is not None:
        options += ["--limit", str(settings.bench.limit)]
    speed = measuring.speed
    if speed is None:
        return [*options, "--no-speed", *_dtype(workspace)]
    numbers = {
        "batch": ",".join(map(str, speed.batch)),
        "gen": speed.new_tokens,
        "prompt": speed.prompt_tokens,
        "prefill": speed.prefill_tokens,
        "repeats": speed.repeats,
        "max-seconds": f"{speed.max_seconds:g}",
    }
    options += [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
    return options + _dtype(workspace)


def _dtype(workspace: Workspace) -> list[str]:
    """The dtype, where one was asked for."""
    dtype = workspace.compute.dtype
    return [] if dtype is None else ["--dtype", dtype_name(dtype)]

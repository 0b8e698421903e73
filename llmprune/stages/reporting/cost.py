"""What ``report`` takes."""

from __future__ import annotations

from collections.abc import Sequence

from llmprune.artifacts.run import RunDirectory
from llmprune.errors import ArtifactError
from llmprune.models.compute import Compute
from llmprune.models.loading import open_shell
from llmprune.stages.common.model_cost import measure, model_sizes
from llmprune.stages.common.plans import Estimate, Plan, plan_of
from llmprune.stages.common.progress import Progress
from llmprune.stages.common.workspace import open_workspace
from llmprune.stages.output.cost import loading_step
from llmprune.stages.reporting.generations import NEW_TOKENS

_SEQ_LEN = 16  # of a prompt, about
_PAGE = 1_000_000  # bytes of the page, about
_DRAWING = 1.3  # seconds to draw its charts, about


def plan_report(
    run: RunDirectory,
    prompts: Sequence[str],
    *,
    compute: Compute,
    progress: Progress,
    trust_remote_code: bool = False,
) -> Plan:
    """What ``report`` is expected to take; models are loaded for prompts alone.

    Raises:
        ArtifactError: the run has no model yet.
        ModelError: a model cannot be opened.
    """
    if run.record() is None:
        raise ArtifactError(f"{run.path} has no model yet; type: llmprune calibrate MODEL --run {run.path}")
    workspace = open_workspace(
        run.path, None, compute=compute, progress=progress, trust_remote_code=trust_remote_code, makes_files=False
    )
    cost = measure(workspace.open_decoder, compute, _SEQ_LEN)
    steps = []
    if prompts:
        paths = [workspace.directory, *workspace.run.own_checkpoints()]
        for path in paths:
            shell = open_shell(path, device=compute.device, dtype=compute.dtype, trust_remote_code=trust_remote_code)
            sizes, tokens = model_sizes(shell), len(prompts) * (NEW_TOKENS + 1)
            steps.append(loading_step(cost, sizes, f"{path.name} writes", tokens=tokens))
    steps.append(Estimate("page", disk=_PAGE, kept=_PAGE, written=_PAGE, seconds=_DRAWING))
    return plan_of("report", cost, steps)

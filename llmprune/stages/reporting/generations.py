"""What the dense and the pruned models of a run write after the same prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmprune.artifacts.records.command_line import spell_command
from llmprune.artifacts.records.generations import Generations, ModelGenerations
from llmprune.artifacts.records.provenance import ModelIdentity
from llmprune.artifacts.run import RunDirectory
from llmprune.errors import ArtifactError, TargetError
from llmprune.evaluation.generation import generate, written_text_config
from llmprune.models.compute import Compute, dtype_name
from llmprune.models.loading import load_tokenizer, load_whole
from llmprune.models.source import check_model, identify, positions, vocabulary
from llmprune.stages.common.checks import require_vocabulary
from llmprune.stages.common.progress import Progress
from llmprune.stages.common.workspace import Workspace, open_workspace

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NEW_TOKENS = 40
REPETITION_PENALTY = 1.2  # without it, greedy decoding of small models repeats itself


@dataclass(frozen=True)
class _Writer:
    """A model that writes.

    Attributes:
        name: the name of the dense model, or of a checkpoint's directory.
        directory: the directory of its checkpoint.
        model: the model's identity.
        positions: the longest sequence that it was made for.
    """

    name: str
    directory: Path
    model: ModelIdentity
    positions: int


def write_generations(
    run: RunDirectory,
    prompts: Sequence[str],
    *,
    compute: Compute,
    progress: Progress,
    trust_remote_code: bool = False,
) -> Generations:
    """Let the run's dense model and its own checkpoints continue ``prompts``, and keep that in ``samples.json``.

    Raises:
        TargetError: an empty prompt, or one that is too long for a model.
        ArtifactError: the run has no model yet, or its ``samples.json`` is not llmprune's.
        ModelError: a model cannot be loaded, or has no embedding for a token of a prompt.
        CheckpointError: a model's weights are not whole.
    """
    if not all(prompt.strip() for prompt in prompts):
        raise TargetError('A prompt is empty; type for example `prompt="The sea is"`.')
    if run.record() is None:
        command = spell_command("calibrate", "MODEL", run=str(run.path))
        raise ArtifactError(f"{run.path} has no model yet that could write; type: {command}")
    if run.generations.exists():
        Generations.read(run.generations)  # it is replaced, so it has to be one
    Generations.require_place(run.generations)
    workspace = open_workspace(run.path, None, compute=compute, progress=progress, trust_remote_code=trust_remote_code)
    writers = [_Writer(workspace.model.name, workspace.directory, workspace.model, workspace.positions)]
    writers += _pruned(workspace)
    with workspace.writing():
        generations = Generations(
            prompts=tuple(prompts),
            new_tokens=NEW_TOKENS,
            repetition_penalty=REPETITION_PENALTY,
            dtype=dtype_name(workspace.dtype),
            models=tuple(_written(workspace, writer, prompts) for writer in writers),
        )
        generations.write(run.generations)
    return generations


def _pruned(workspace: Workspace) -> Iterator[_Writer]:
    for path in workspace.run.own_checkpoints():
        config, checkpoint = check_model(path, trust_remote_code=workspace.trust_remote_code)
        yield _Writer(path.name, path, identify(path.name, path, config, checkpoint), positions(config))


def _written(workspace: Workspace, writer: _Writer, prompts: Sequence[str]) -> ModelGenerations:
    workspace.progress.say(f"{writer.name} writes.")
    tokenizer = load_tokenizer(writer.directory, trust_remote_code=workspace.trust_remote_code)
    model = load_whole(
        writer.directory,
        device=workspace.compute.device,
        dtype=workspace.dtype,
        trust_remote_code=workspace.trust_remote_code,
        memory_map=workspace.compute.memory_map() if workspace.compute.spread else None,
    )
    texts = tuple(_continued(model, tokenizer, prompt, positions=writer.positions) for prompt in prompts)
    return ModelGenerations(name=writer.name, model=writer.model, texts=texts)


def _continued(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, *, positions: int) -> str:
    """What a model writes after ``prompt``, greedily."""
    given = tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device)
    require_vocabulary(vocabulary(model.config), given)
    length = given.shape[1]
    if length + NEW_TOKENS > positions:
        raise TargetError(
            f"The prompt '{prompt:.40}' has {length} tokens, which leaves no room for {NEW_TOKENS} more in the model's "
            f"{positions} positions; type a shorter one."
        )
    config = written_text_config(model, NEW_TOKENS, repetition_penalty=REPETITION_PENALTY)
    text = tokenizer.decode(generate(model, given, config)[0], skip_special_tokens=True)
    assert isinstance(text, str)
    return text

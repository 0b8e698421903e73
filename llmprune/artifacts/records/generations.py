"""``samples.json``: what the dense and the pruned models write after the same prompts."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from llmprune.artifacts.records.provenance import Artifact, ModelIdentity, Record


class ModelGenerations(Record):
    """What one model wrote.

    Attributes:
        name: the name of the dense model, or of a checkpoint's directory.
        model: the model's identity.
        texts: what it wrote after each prompt, without the prompt.
    """

    name: str
    model: ModelIdentity
    texts: tuple[str, ...]


class Generations(Artifact):
    """What all models of a run wrote.

    Attributes:
        prompts: the beginnings of the texts, the same for all models.
        new_tokens: the largest number of tokens after each prompt.
        repetition_penalty: the penalty in greedy decoding; 1: none.
        dtype: the dtype that was computed in.
        models: the dense one first.
    """

    KIND: ClassVar[str] = "llmprune-samples"

    kind: Literal["llmprune-samples"] = "llmprune-samples"
    schema_version: int = 1
    prompts: tuple[str, ...]
    new_tokens: int
    repetition_penalty: float
    dtype: str
    models: tuple[ModelGenerations, ...]

    @model_validator(mode="after")
    def _one_text_for_each_prompt(self) -> Self:
        """Every model continues every prompt."""
        if any(len(one.texts) != len(self.prompts) for one in self.models):
            raise ValueError("there is not one text for each prompt")
        return self

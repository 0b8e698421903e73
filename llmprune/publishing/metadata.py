"""The metadata of a model card, which the Hub reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from llmprune.artifacts.records.pruning import PruningRecord
from llmprune.escaping import for_yaml
from llmprune.models.architecture import auto_class_name
from llmprune.publishing.citations import methods
from llmprune.publishing.description import counts_groups
from llmprune.publishing.history import patterns, removed_blocks
from llmprune.publishing.licence import Licence
from llmprune.publishing.measured import Measure

# The Hub knows adapter, merge, quantized and finetune. A full set of weights that derives from another is filed
# under the last; that nothing was trained stands in the card.
_RELATION = "finetune"
# What the Hub calls what a model is for, by the auto class that loads it.
_TASKS = {
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForImageTextToText": "image-text-to-text",
    "AutoModelForMultimodalLM": "any-to-any",
}


def card_metadata(
    record: PruningRecord,
    *,
    model_name: str,
    base_model: str | None,
    licence: Licence | None,
    measures: Sequence[Measure],
) -> str:
    """The YAML between the dashes.

    Args:
        record: what was done.
        model_name: the name that the results are filed under.
        base_model: the base model's Hub id; None: it is not known, and no relation is claimed.
        licence: the base model's licence.
        measures: perplexities and accuracies.
    """
    results = [_eval_result(measure) for measure in measures if measure.dataset is not None]
    others: dict[str, Any] = {"base_model_relation": _RELATION} if base_model else {}
    data = ModelCardData(
        base_model=base_model,
        license=_line(licence.name) if licence else None,
        license_name=_line(licence.own_name) if licence else None,
        license_link=_line(licence.link) if licence else None,
        library_name="transformers",
        pipeline_tag=_TASKS[auto_class_name(record.source.model_type)],
        tags=_tags(record),
        model_name=_line(model_name) if results else None,
        eval_results=results or None,
        **others,
    )
    return data.to_yaml()


def _tags(record: PruningRecord) -> list[str]:
    tags = ["pruned", "llmprune", *methods(record)]
    if removed_blocks(record):
        tags.append("depth-pruning")
    known = patterns(record)
    return tags + ["sparse"] * bool(known) + [pattern for pattern in known if counts_groups(pattern)]


def _eval_result(measure: Measure) -> EvalResult:
    return EvalResult(
        task_type="text-generation",
        dataset_type=_line(measure.dataset) or "text",
        dataset_name=_line(measure.what) or "text",
        metric_type="accuracy" if measure.name == "acc" else measure.name,
        metric_name=_line(f"{measure.name}: {measure.protocol}"),
        metric_value=round(measure.figure.model.value, 4),
    )


def _line(text: str | None) -> str | None:
    return for_yaml(text) or None if text is not None else None

"""What the Hub objects to in the metadata of a model card."""

from __future__ import annotations

import yaml

LICENCES = {"apache-2.0", "mit", "llama3.2", "gemma", "other", "cc-by-4.0", "openrail", "unknown"}
RELATIONS = {"adapter", "merge", "quantized", "finetune"}


def card_errors(content: str) -> list[str]:
    """What the Hub objects to in the metadata of a model card."""
    parts = content.split("---\n", 2)
    if not content.startswith("---\n") or len(parts) < 3:
        return ["no metadata"]
    try:
        data = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        return [str(error)]
    allowed = {"license": LICENCES, "base_model_relation": RELATIONS}
    errors = [
        f'"{key}" must be one of {values}' for key, values in allowed.items() if data.get(key) not in {None, *values}
    ]
    if any(not isinstance(tag, str) for tag in data.get("tags", [])):
        errors.append('"tags" must be strings')
    if "base_model" in data and not isinstance(data["base_model"], str | list):
        errors.append('"base_model" must be a string')
    for model in data.get("model-index", []):
        for result in model["results"]:
            for field, keys in {"task": ("type",), "dataset": ("name", "type")}.items():
                errors += [f"model-index: {field}.{key} is required" for key in keys if not result[field].get(key)]
            errors += ["model-index: metric value is required" for one in result["metrics"] if "value" not in one]
    return errors

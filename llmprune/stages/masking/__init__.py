"""``llmprune apply-mask``."""

from llmprune.stages.masking.cost import plan_masking
from llmprune.stages.masking.in_memory import mask_in_memory
from llmprune.stages.masking.stage import MaskingReport, MaskSettings, apply_mask, opened_mask

__all__ = ["MaskSettings", "MaskingReport", "apply_mask", "mask_in_memory", "opened_mask", "plan_masking"]

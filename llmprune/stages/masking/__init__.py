"""``llmprune apply-mask``."""

from llmprune.stages.masking.stage import MaskingReport, MaskSettings, apply_mask

__all__ = ["MaskSettings", "MaskingReport", "apply_mask"]

"""``llmprune calibrate``."""

from llmprune.stages.calibration.stage import (
    CalibrationSettings,
    calibrate,
    require_same_model,
    require_same_text,
)

__all__ = ["CalibrationSettings", "calibrate", "require_same_model", "require_same_text"]

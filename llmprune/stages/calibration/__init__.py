"""``llmprune calibrate``."""

from llmprune.stages.calibration.stage import (
    USUAL_SEQ_LEN,
    CalibrationSettings,
    calibrate,
    require_same_model,
    require_same_text,
)

__all__ = ["USUAL_SEQ_LEN", "CalibrationSettings", "calibrate", "require_same_model", "require_same_text"]

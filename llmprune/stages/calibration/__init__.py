"""``llmprune calibrate``."""

from llmprune.stages.calibration.dense_pass import measure_dense
from llmprune.stages.calibration.stage import (
    CalibrationSettings,
    calibrate,
    calibrate_on,
    calibrated,
    require_same_model,
    require_same_text,
)

__all__ = [
    "CalibrationSettings",
    "calibrate",
    "calibrate_on",
    "calibrated",
    "measure_dense",
    "require_same_model",
    "require_same_text",
]

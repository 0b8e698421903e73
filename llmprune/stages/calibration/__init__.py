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
from llmprune.stages.calibration.text import (
    CalibrationChoice,
    CalibrationText,
    chosen_calibration,
    text_of_artifact,
    text_of_windows,
)

__all__ = [
    "CalibrationChoice",
    "CalibrationSettings",
    "CalibrationText",
    "calibrate",
    "calibrate_on",
    "calibrated",
    "chosen_calibration",
    "measure_dense",
    "require_same_model",
    "require_same_text",
    "text_of_artifact",
    "text_of_windows",
]

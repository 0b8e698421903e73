"""``llmprune calibrate``."""

from llmprune.stages.calibration.cost import (
    Windows,
    calibration_remarks,
    calibration_steps,
    chosen_windows,
    drawing_steps,
    expected_windows,
    hidden_bytes,
    plan_calibration,
)
from llmprune.stages.calibration.dense_pass import measure_dense
from llmprune.stages.calibration.fit import require_same_model, require_same_text
from llmprune.stages.calibration.stage import (
    CalibrationSettings,
    calibrate,
    calibrate_on,
    calibrated,
    drawn_calibration,
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
    "Windows",
    "calibrate",
    "calibrate_on",
    "calibrated",
    "calibration_remarks",
    "calibration_steps",
    "chosen_calibration",
    "chosen_windows",
    "drawing_steps",
    "drawn_calibration",
    "expected_windows",
    "hidden_bytes",
    "measure_dense",
    "plan_calibration",
    "require_same_model",
    "require_same_text",
    "text_of_artifact",
    "text_of_windows",
]

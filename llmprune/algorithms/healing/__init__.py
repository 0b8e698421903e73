"""Healing: least-squares corrections of what stays, towards the dense model's hidden states."""

from llmprune.algorithms.healing.moments import Moments, MomentsAccumulator
from llmprune.algorithms.healing.solve import Correction, correct, remaining_error

__all__ = ["Correction", "Moments", "MomentsAccumulator", "correct", "remaining_error"]

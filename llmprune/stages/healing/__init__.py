"""``llmprune heal``, and the healing of ``remove-blocks``."""

from llmprune.stages.healing.cost import healed_bytes, healing_step, plan_heal
from llmprune.stages.healing.in_memory import heal_in_memory
from llmprune.stages.healing.layer import StoredLayer, add_lacking, installed, stored_layer
from llmprune.stages.healing.plan import (
    HealedWeights,
    HealingPlan,
    heal_student,
    healing_folder,
    plan_healing,
    remove_finished,
)
from llmprune.stages.healing.settings import RIDGES, HealSettings, held_back
from llmprune.stages.healing.stage import HealingReport, heal
from llmprune.stages.healing.state import HealingPassState
from llmprune.stages.healing.student import Student, without_blocks

__all__ = [
    "RIDGES",
    "HealSettings",
    "HealedWeights",
    "HealingPassState",
    "HealingPlan",
    "HealingReport",
    "StoredLayer",
    "Student",
    "add_lacking",
    "heal",
    "heal_in_memory",
    "heal_student",
    "healed_bytes",
    "healing_folder",
    "healing_step",
    "held_back",
    "installed",
    "plan_heal",
    "plan_healing",
    "remove_finished",
    "stored_layer",
    "without_blocks",
]

"""``llmprune heal``, and the healing of ``remove-blocks``."""

from llmprune.stages.healing.in_memory import heal_in_memory
from llmprune.stages.healing.plan import HealedWeights, HealingPlan, heal_student, plan_healing, remove_finished
from llmprune.stages.healing.settings import HealSettings
from llmprune.stages.healing.stage import HealingReport, heal
from llmprune.stages.healing.student import without_blocks

__all__ = [
    "HealSettings",
    "HealedWeights",
    "HealingPlan",
    "HealingReport",
    "heal",
    "heal_in_memory",
    "heal_student",
    "plan_healing",
    "remove_finished",
    "without_blocks",
]

"""``llmprune remove-experts``."""

from llmprune.stages.expert_removal.choose import least_of
from llmprune.stages.expert_removal.cost import plan_expert_removal
from llmprune.stages.expert_removal.measure import measure_experts
from llmprune.stages.expert_removal.settings import ExpertSettings, check_experts, count_to_remove, parse_experts
from llmprune.stages.expert_removal.stage import ExpertReport, remove_experts

__all__ = [
    "ExpertReport",
    "ExpertSettings",
    "check_experts",
    "count_to_remove",
    "least_of",
    "measure_experts",
    "parse_experts",
    "plan_expert_removal",
    "remove_experts",
]

"""``llmprune remove-experts``."""

from llmprune.stages.expert_removal.choose import least_of
from llmprune.stages.expert_removal.cost import expert_steps, plan_expert_removal
from llmprune.stages.expert_removal.measure import measure_experts
from llmprune.stages.expert_removal.settings import (
    ExpertSettings,
    check_experts,
    count_to_remove,
    parse_experts,
    require_routable,
)
from llmprune.stages.expert_removal.stage import ExpertReport, layout_of, remove_experts, some_experts
from llmprune.stages.expert_removal.write import plan_cut

__all__ = [
    "ExpertReport",
    "ExpertSettings",
    "check_experts",
    "count_to_remove",
    "expert_steps",
    "layout_of",
    "least_of",
    "measure_experts",
    "parse_experts",
    "plan_cut",
    "plan_expert_removal",
    "remove_experts",
    "require_routable",
    "some_experts",
]

"""``llmprune prune``."""

from llmprune.stages.budget_pruning.cost import plan_budget
from llmprune.stages.budget_pruning.points import Listeners
from llmprune.stages.budget_pruning.settings import BudgetSettings
from llmprune.stages.budget_pruning.stage import BudgetReport, prune_to_budget

__all__ = ["BudgetReport", "BudgetSettings", "Listeners", "plan_budget", "prune_to_budget"]

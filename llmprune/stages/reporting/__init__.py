"""``llmprune report``."""

from llmprune.stages.reporting.contents import read_contents
from llmprune.stages.reporting.cost import plan_report
from llmprune.stages.reporting.generations import write_generations
from llmprune.stages.reporting.stage import Report, report

__all__ = ["Report", "plan_report", "read_contents", "report", "write_generations"]

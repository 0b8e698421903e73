"""``llmprune report``."""

from llmprune.stages.reporting.contents import read_contents
from llmprune.stages.reporting.generations import write_generations
from llmprune.stages.reporting.stage import Report, report

__all__ = ["Report", "read_contents", "report", "write_generations"]

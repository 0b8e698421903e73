"""``llmprune report``."""

from llmprune.stages.reporting.contents import read_contents
from llmprune.stages.reporting.samples import write_samples
from llmprune.stages.reporting.stage import Report, report

__all__ = ["Report", "read_contents", "report", "write_samples"]

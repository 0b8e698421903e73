"""``llmprune push``."""

from llmprune.stages.publishing.cost import plan_push
from llmprune.stages.publishing.stage import PushReport, PushSettings, push, push_written, require_pushable

__all__ = ["PushReport", "PushSettings", "plan_push", "push", "push_written", "require_pushable"]

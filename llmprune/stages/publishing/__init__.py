"""``llmprune push``."""

from llmprune.stages.publishing.stage import PushReport, PushSettings, push, require_pushable

__all__ = ["PushReport", "PushSettings", "push", "require_pushable"]

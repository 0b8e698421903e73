"""Charts: data in, a matplotlib figure out. Nothing else of llmprune imports matplotlib."""

from llmprune.extras import require_extra

require_extra("matplotlib", extra="report", purpose="The charts of a report")

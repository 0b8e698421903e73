"""Charts: data in, a matplotlib figure out. Nothing else of llmprune imports matplotlib."""

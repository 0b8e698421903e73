"""`llmprune global-prune`."""

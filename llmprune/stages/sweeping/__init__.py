"""`llmprune sweep`."""

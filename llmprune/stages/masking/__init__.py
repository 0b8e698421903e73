"""`llmprune apply-mask`."""

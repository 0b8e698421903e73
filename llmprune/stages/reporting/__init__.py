"""`llmprune report`."""

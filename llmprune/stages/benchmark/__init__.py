"""`llmprune bench`."""

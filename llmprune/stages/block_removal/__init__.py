"""`llmprune remove-blocks`."""

"""`llmprune push`."""

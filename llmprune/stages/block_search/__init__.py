"""`llmprune verify-redundancy`."""

"""`llmprune calibrate`."""

"""Where calibration and test text comes from, and how it becomes windows of tokens."""

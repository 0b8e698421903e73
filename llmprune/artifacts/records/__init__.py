"""The JSON artifacts: what was done, found and measured, and from what."""

"""Where a new checkpoint goes, what it takes over, and how it is verified."""

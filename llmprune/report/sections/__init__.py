"""The page's sections, each a pure function of what the run holds."""

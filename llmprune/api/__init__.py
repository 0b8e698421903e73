"""What ``import llmprune`` offers, a file a function; ``llmprune/__init__.py`` imports each when it is first used."""

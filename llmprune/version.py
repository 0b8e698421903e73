"""Which llmprune this is: a leaf, for everything that is written says it."""

__version__ = "0.1.0"

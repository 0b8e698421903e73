"""Turn a Hugging Face decoder-only LLM into a smaller or sparser stock checkpoint."""

__version__ = "0.1.0"

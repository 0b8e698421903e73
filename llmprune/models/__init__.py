"""Finding, loading, running and cutting any Hugging Face decoder-only model, by structure."""

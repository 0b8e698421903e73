"""Measuring models: perplexity and speed, each under a stated protocol."""

"""Zeros in a feed-forward network as one problem: SparseLLM."""

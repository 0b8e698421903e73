"""Zeros in one linear layer: patterns, Gram matrices, magnitude, Wanda, SparseGPT, the refit."""

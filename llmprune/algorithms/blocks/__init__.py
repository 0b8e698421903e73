"""Which transformer blocks can go: SLEB's greedy search, its early elimination, one-shot scores."""

"""Which weights of a checkpoint are zero, as one small file."""

"""What lies on disk between commands: checkpoints, activations, importance, provenance."""

"""Safetensors checkpoints: read, checked, copied and written tensor by tensor."""

"""The mathematics: tensors in, tensors out. No files, no model classes, no console."""

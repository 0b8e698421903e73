"""Bytes on a disk, of no particular format."""

"""Faults on purpose: kills, failing operations, damaged files and fuzzed inputs, each tried and judged by itself."""

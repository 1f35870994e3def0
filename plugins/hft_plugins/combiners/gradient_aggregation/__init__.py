"""Combiners that aggregate per-task gradients."""

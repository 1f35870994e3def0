"""Bottleneck adapters: shared, per task, and their fusion."""

"""Measure how the tasks of a finished run act on each other's shared parameters."""

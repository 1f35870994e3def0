"""Strategies with parameters of the trunk that each task has for itself."""

"""Combiners that weigh the losses of a step."""

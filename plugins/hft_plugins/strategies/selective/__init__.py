"""Strategies that choose which of the trunk's own parameters train, and how fast."""

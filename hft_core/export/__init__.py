"""A finished run in the formats of other programs, and on model hubs."""

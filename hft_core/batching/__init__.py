"""Decide which examples each step learns from, and collate them into padded batches."""

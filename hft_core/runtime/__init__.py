"""Manage what one process has on one machine: files, locks, caches, signals."""

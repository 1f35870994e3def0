"""Compute the gradients of a step from its batches: by losses, by per-task gradients, at the hidden states."""

"""Compute the same with less work: cached activations, shared layers, faster kernels."""

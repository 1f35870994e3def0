"""Recognize out-of-memory errors."""

from __future__ import annotations

import torch

SIGNS = (
    "can't allocate memory",  # torch's allocator on CPUs
    "out of memory",  # CUDA, ROCm, XPU and MPS where they raise no error of torch's own kind
    "ALLOC_FAILED",  # cuBLAS and cuDNN, for their workspaces
    "bad_alloc",  # C++
    "could not create a primitive",  # oneDNN, which gives no reason
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an allocation failed: torch's, Python's and numpy's exceptions, or a `RuntimeError` whose message
    has one of the `SIGNS`."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)

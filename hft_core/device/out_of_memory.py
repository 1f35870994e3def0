"""Telling that memory was too small from everything else that can go wrong in a step."""

from __future__ import annotations

import torch

SIGNS = (
    "can't allocate memory",  # torch's allocator on CPUs
    "out of memory",  # CUDA, ROCm, XPU and MPS where they raise no error of torch's own kind
    "ALLOC_FAILED",  # cuBLAS and cuDNN, for their workspaces
    "bad_alloc",  # C++
    "could not create a primitive",  # oneDNN, which gives no reason
)


def is_shortage(error: BaseException) -> bool:
    """Whether `error` says that an allocation failed: torch's kind of error, Python's and numpy's, or a plain
    `RuntimeError` with one of the `SIGNS`."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)

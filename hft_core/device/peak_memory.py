"""The most memory that this process has held, and what it holds."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

PAGES_OF_PROCESS = Path("/proc/self/statm")


def peak_memory(device: torch.device) -> int:
    """Return the peak in bytes since the process began: of the device if it is a GPU, of RAM otherwise; 0 where the
    system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def held_memory(device: torch.device) -> int:
    """Return the bytes that this process holds: on the device if it is a GPU, in RAM otherwise; 0 where the system does
    not tell."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        return int(PAGES_OF_PROCESS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # not Linux
        return 0

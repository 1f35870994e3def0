"""Give memory that was freed back to the operating system."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


def trim() -> None:
    """Return what is free in the C library's heap; glibc alone keeps large blocks, and has a call for it.

    After a trial pass or a conversion of weights, what was freed would count beside what training allocates anew.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

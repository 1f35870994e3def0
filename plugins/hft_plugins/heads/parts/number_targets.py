"""Check that a number can be the target of a squared error in float32."""

from __future__ import annotations

import numpy as np

LARGEST = 1e15
"""Squared, and summed over the gradients of 10^8 weights, it is still a number of float32."""


def problem_of_target(value: float, column: str) -> str:
    """Return what is wrong with a target that float32 cannot compute with; empty if nothing is."""
    if abs(value) > LARGEST:
        return (
            f"column '{column}': found {value:g}, expected a number between -{LARGEST:g} and {LARGEST:g}, whose square "
            "is computed in float32: scale the column"
        )
    if value != 0 and np.float32(value) == 0:
        return f"column '{column}': found {value:g}, which is 0 in float32: scale the column"
    return ""
